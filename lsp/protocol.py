"""Everything Lacuna adds to LSP 3.18: method names, command names and the typed shapes that travel with them.

All names live under `lacuna/`, with `$/` before a notification that any client may pass over, as LSP has it; a Copilot
name is accepted where its meaning is the same. A plain LSP client needs none of this. Knows no document, no server and
no engine.

    client -> server, notification   lacuna/didShow                 DidShowParams
                                     lacuna/didPartiallyAccept      DidPartiallyAcceptParams
                                     lacuna/didDismiss              DidDismissParams
    client -> server, request        lacuna/status                  -> StatusParams (the same as the notification)
                                     lacuna/pause, resume, unload   -> StatusParams
                                     lacuna/metrics                 MetricsParams -> MetricsResult
                                     lacuna/previewEdit             PreviewEditParams -> PreviewEditResult | null
                                     lacuna/nextEdit                NextEditParams -> NextEditResult
    server -> client, notification   $/lacuna/status                StatusParams, after every change
    workspace/executeCommand         lacuna.accept [id, marks]      a whole proposal was accepted (the item's `command`)
                                     lacuna.applyEdit [data]        for clients that cannot resolve a code action

The id of a proposal is the first argument of its item's command. The second, where there is one, are the marks that
close the brackets which the proposal ends with: what an editor that closes brackets by itself puts behind the cursor
when such a bracket is typed, and may put there when it is accepted.

Lengths on the wire count UTF-16 code units whatever the position encoding is, as Copilot's do.
"""

import enum
from collections.abc import Sequence
from typing import Any

import attrs
from lsprotocol import types

SERVER_NAME = "lacuna"

DID_SHOW = "lacuna/didShow"
DID_PARTIALLY_ACCEPT = "lacuna/didPartiallyAccept"
DID_DISMISS = "lacuna/didDismiss"
STATUS = "lacuna/status"
STATUS_CHANGED = "$/lacuna/status"
PAUSE = "lacuna/pause"
RESUME = "lacuna/resume"
UNLOAD = "lacuna/unload"
METRICS = "lacuna/metrics"
PREVIEW_EDIT = "lacuna/previewEdit"
NEXT_EDIT = "lacuna/nextEdit"

COPILOT_ALIASES = {
    "textDocument/didShowCompletion": DID_SHOW,
    "textDocument/didPartiallyAcceptCompletion": DID_PARTIALLY_ACCEPT,
    "textDocument/copilotInlineEdit": NEXT_EDIT,
}
"""Copilot's method name -> ours, where the parameters and the meaning are the same."""

ACCEPT_COMMAND = "lacuna.accept"
APPLY_EDIT_COMMAND = "lacuna.applyEdit"

FILL_HOLE_KIND = "refactor.rewrite.lacuna.fillHole"
FILL_ALL_KIND = "refactor.rewrite.lacuna.fillAllHoles"
REWRITE_KIND = "refactor.rewrite.lacuna.rewrite"
REPAIR_KIND = "quickfix.lacuna.repair"
"""Code action kinds, for keymaps that ask for one of them (`context.only`)."""


class StatusKind(enum.StrEnum):
    """What a status line shows."""

    Normal = "normal"
    """Ready."""
    Busy = "busy"
    """Loading the model, or filling."""
    Warning = "warning"
    """Works, but something needs attention; message says what."""
    Error = "error"
    """No proposals until something is done; message says what."""
    Inactive = "inactive"
    """Paused, unloaded or disabled; message says why."""


@attrs.define
class StatusParams:
    """kind and one line for people. last_latency_ms: request to answer of the last infill that ran the model."""

    kind: StatusKind
    message: str = ""
    model: str | None = None
    device: str | None = None
    last_latency_ms: float | None = None
    is_paused: bool = False


@attrs.define
class VersionedDocument:
    """A document and, where the client can tell, the version that the request is about."""

    uri: str
    version: int | None = None


@attrs.define
class InlineCompletionContext:
    """LSP's own; repeated because the standard type is closed. Who leaves it out asks as a matter of course."""

    trigger_kind: types.InlineCompletionTriggerKind = types.InlineCompletionTriggerKind.Automatic
    selected_completion_info: types.SelectedCompletionInfo | None = None


@attrs.define
class InlineCompletionParams:
    """LSP's own plus what Copilot's clients send: textDocument.version and formattingOptions."""

    text_document: VersionedDocument
    position: types.Position
    context: InlineCompletionContext = attrs.Factory(InlineCompletionContext)
    formatting_options: types.FormattingOptions | None = None
    work_done_token: int | str | None = None


@attrs.define
class InlineCompletionRequest:
    """The message that carries InlineCompletionParams."""

    id: int | str
    params: InlineCompletionParams
    method: str = types.TEXT_DOCUMENT_INLINE_COMPLETION
    jsonrpc: str = "2.0"


@attrs.define
class ItemCommand:
    """The part of an item's command that names the proposal."""

    arguments: Sequence[Any] | None = None


@attrs.define
class ShownItem:
    """An inline completion item as it was answered; only its command is read."""

    command: ItemCommand | None = None


def proposal_id(item: ShownItem | None, explicit_id: str | None) -> str | None:
    """The id that a did-show, partial accept or dismissal speaks about, given directly or inside the item."""
    if explicit_id:
        return explicit_id
    if item is None or item.command is None or not item.command.arguments:
        return None
    first = item.command.arguments[0]
    return first if isinstance(first, str) else None


@attrs.define
class DidShowParams:
    """The proposal became visible. Give the id, or the item as Copilot's clients do."""

    id: str | None = None
    item: ShownItem | None = None


@attrs.define
class DidPartiallyAcceptParams:
    """A word, line or node of the proposal was accepted. accepted_length: UTF-16 units of it accepted so far in all."""

    accepted_length: int
    id: str | None = None
    item: ShownItem | None = None


class DismissReason(enum.StrEnum):
    """Only an explicit dismissal counts towards the back-off."""

    Explicit = "explicit"
    TypedOver = "typedOver"
    Replaced = "replaced"


@attrs.define
class DidDismissParams:
    """The proposal went away without being accepted whole."""

    id: str | None = None
    item: ShownItem | None = None
    reason: DismissReason = DismissReason.Explicit


@attrs.define
class MetricsParams:
    """purge: delete what was counted, after answering it."""

    purge: bool = False


@attrs.define
class MetricsResult:
    """Local counts since they were last purged. Nothing of this ever leaves the machine."""

    num_requests: int
    num_shown: int
    num_accepted: int
    num_partly_accepted: int
    num_dismissed: int
    num_chars_shown: int
    num_chars_accepted: int
    num_chars_kept: int
    """Of the accepted characters, those still there 30 s later."""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    cancel_lag_p95_ms: float | None = None
    """Of this process since it began: from a cancel to the end of the work that it cancelled."""
    since: str | None = None
    """When counting began, ISO 8601."""
    file: str | None = None
    """Where the counts are kept."""


@attrs.define
class PreviewEditParams:
    """Compute, without applying, what a code action would change.

    action: the code action as it was listed (its `data` is read). instruction: for rewriteWithInstruction.
    """

    action: types.CodeAction
    instruction: str | None = None


@attrs.define
class PreviewEditResult:
    """edit: ready for workspace/applyEdit. diff: unified diff of it, for people."""

    edit: types.WorkspaceEdit
    diff: str


@attrs.define
class NextEditParams:
    """Where the user is now. The edit that just happened is known from the document's own history."""

    text_document: VersionedDocument
    position: types.Position | None = None


@attrs.define
class NextEditItem:
    """One proposed change elsewhere. confidence: probability in [0, 1] that it is right."""

    text_document: VersionedDocument
    range: types.Range
    text: str
    confidence: float
    command: types.Command | None = None


@attrs.define
class NextEditResult:
    """Empty when there is nothing to propose."""

    edits: Sequence[NextEditItem] = ()


PARAMS: dict[str, type | None] = {
    DID_SHOW: DidShowParams,
    DID_PARTIALLY_ACCEPT: DidPartiallyAcceptParams,
    DID_DISMISS: DidDismissParams,
    STATUS: None,
    PAUSE: None,
    RESUME: None,
    UNLOAD: None,
    METRICS: MetricsParams,
    PREVIEW_EDIT: PreviewEditParams,
    NEXT_EDIT: NextEditParams,
}
"""Method -> type of its params; None for a method without params."""

NOTIFICATIONS = frozenset({DID_SHOW, DID_PARTIALLY_ACCEPT, DID_DISMISS})
