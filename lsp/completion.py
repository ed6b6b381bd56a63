"""Inline completion: from a request to items, and what is learnt from what becomes of them.

The answer policy suits every editor: an empty range at the cursor, a plain string, `[]` for nothing here, null for a
superseded request, never an error. The ordinary completion list, for clients without ghost text, is made of the same
answers. Knows documents and the scheduler; how a gap is filled is infill's business. Longer than other files because
asking, answering and learning from the answer share the memory of what was shown.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lsprotocol import types

from ..infill.privacy import redact
from ..infill.recent import RecentProposals
from ..infill.request import IndentStyle, Infiller, InfillRequest, InfillResult, Kind, Neighbour, Proposal
from . import protocol as names
from .actions import action_key
from .cancel import CancelToken
from .documents import MAX_EDITED, Document, Snapshot
from .early import EarlyFills, Work
from .metrics import KEPT_AFTER_S, Metrics, default_file, num_kept
from .next_edit import next_key
from .options import Options
from .positions import num_units
from .scheduler import Ending

if TYPE_CHECKING:
    from .server import LacunaServer

logger = logging.getLogger(__name__)

EXPLICIT_DEADLINE_S = 30.0
"""Asked for by a key: worth waiting for, also while the model is still loading."""

BUSY_AFTER_S = 0.2
LOOK_AHEAD_AFTER_S = 0.06
"""A pause this long over a proposal is worth computing what follows it."""

TYPED_S = 0.5
"""A completion list that is asked for this soon after a change at the cursor belongs to the typing."""

MIN_ASKED = 3
"""So many proposals at least are looked for when a key asks where there is one already. The first press gets the best
one at once: to look for others takes longer, across lines up to a second, because diffusion has to find them there."""

MAX_EDITED_CHARS = 400
"""So much is shown of each of the last places that were edited."""

_WHY_QUIET = {
    "disabled": "lacuna.enable is off here",
    "paused": "it is paused",
    "language": "its language is in lacuna.disable.languages",
    "excluded": "an ignore file, lacuna.disable.paths or lacuna.privacy.deny leaves it out, or it may hold secrets",
}
"""What somebody is told who asks by a key where nothing is ever proposed."""

MAX_REMEMBERED = 256
_WORD = re.compile(r"\w+\Z")
_INDENT = re.compile(r"[ \t]*")
MAX_BACKOFF_S = 30.0
ADAPTIVE_LIMIT_S = 0.5
SLOW_FILL_S = 0.25
"""An engine that is quicker than this is asked at every key: waiting would cost the user more than it saves."""


@dataclass(slots=True)
class Shown:
    """A proposal that was answered: what the client may speak about later. text starts at offset of the document."""

    id: str
    uri: str
    text: str
    offset: int
    first: Shown | None = None
    """The answer that this one repeats, or is the rest of while it is typed along."""
    is_counted: bool = False
    accepted_units: int = 0


class Backoff:
    """Silence after repeated dismissals: 2 s, doubling, until something is accepted or asked for."""

    def __init__(self) -> None:
        self._num_dismissals = 0
        self._quiet_until = 0.0

    def dismissed(self, limit: int) -> None:
        """A dismissal by hand."""
        self._num_dismissals += 1
        if limit and self._num_dismissals >= limit:
            quiet_s = min(MAX_BACKOFF_S, 2.0 * 2 ** (self._num_dismissals - limit))
            self._quiet_until = time.monotonic() + quiet_s

    def reset(self) -> None:
        """Something was accepted, or asked for by a key."""
        self._num_dismissals = 0
        self._quiet_until = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether automatic proposals are held back now."""
        return time.monotonic() < self._quiet_until


class InlineCompletions:
    """One per server. Event loop only; work functions run in the engine thread and touch nothing of this."""

    def __init__(self, server: LacunaServer) -> None:
        self._server = server
        self._ids = count(1)
        self._shown: OrderedDict[str, Shown] = OrderedDict()
        self._recent = RecentProposals()
        self._early = EarlyFills()
        self._ahead: dict[str, InfillRequest] = {}
        """Uri -> the post-accept request that was computed ahead last."""
        self._asked_last: tuple[str, int, int] | None = None
        """Uri, revision and offset where a key asked last: what is remembered there is all that the model has."""
        self.metrics = Metrics(None)
        self.insert_text_mode = types.InsertTextMode.AsIs
        """Whether the client indents the later lines of a completion item by itself."""
        self._reports_shows = False
        """Whether this client says what it shows; of others, what is answered counts as shown."""
        self._backoff = Backoff()
        self._fill_s = 0.0
        """Smoothed duration of a fill."""
        self._typing_s = 1.0
        """Smoothed time between changes."""
        self._last_change = 0.0
        self._num_changes = 0
        """Of all documents, closing included: how one knows that the user has paused."""

    # the request

    async def answer(self, params: names.InlineCompletionParams) -> list[types.InlineCompletionItem] | None:
        """Items, [] for nothing here, None when a newer request or text made this one pointless."""
        start = time.monotonic()
        self.metrics.count("num_requests")
        server = self._server
        server.start_engine()
        document = server.documents.get(params.text_document.uri)
        if document is None:
            return []
        if params.text_document.version is not None and params.text_document.version != document.version:
            return None
        is_explicit = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
        token = server.scheduler.begin(document.uri)
        msg_id = server.protocol.msg_id
        if msg_id is not None:
            server.protocol.cancellations[msg_id] = token
        try:
            return await self._answer(params, document, token, is_explicit, start)
        except asyncio.CancelledError:
            return None
        except Exception:
            # a keystroke is never answered with an error: editors would show it as a toast
            logger.exception("An inline completion failed.")
            return []
        finally:
            if msg_id is not None:
                server.protocol.cancellations.pop(msg_id, None)

    async def as_completion(self, params: types.CompletionParams) -> types.CompletionList:
        """The proposals as clearly labelled items of the ordinary list, for clients without ghost text."""
        nothing = types.CompletionList(is_incomplete=True, items=[])
        document = self._server.documents.get(params.text_document.uri)
        if document is None or not self._server.options_for(document).features.completion_fallback:
            return nothing
        # what the client says of the trigger tells a key from typing in no editor: Eglot and Helix say Invoked of both,
        # lsp-mode says TriggerForIncompleteCompletions
        is_typed = params.position == document.last_cursor() and time.monotonic() - self._last_change < TYPED_S
        kind = types.InlineCompletionTriggerKind
        context = names.InlineCompletionContext(kind.Automatic if is_typed else kind.Invoked)
        uri = names.VersionedDocument(params.text_document.uri)
        answer = await self.answer(names.InlineCompletionParams(uri, params.position, context))
        if not answer or not document.is_valid(params.position):
            return nothing
        items: dict[str, types.CompletionItem] = {}
        for number, proposal in enumerate(answer):
            item = self._as_item(proposal, number, document, params.position)
            if item is not None:
                # clients tell candidates apart by what they show of them
                items.setdefault(item.label, item)
        return types.CompletionList(is_incomplete=True, items=list(items.values()))

    def _as_item(
        self, proposal: types.InlineCompletionItem, number: int, document: Document, position: types.Position
    ) -> types.CompletionItem | None:
        span, written = proposal.range, str(proposal.insert_text)
        if span is None or span.start != position:
            return None
        cursor = document.offset_at(position)
        if self.insert_text_mode is types.InsertTextMode.AdjustIndentation:
            indent = _INDENT.match(document.text, document.offset_at(types.Position(position.line, 0)), cursor)
            relative = _relative(written, indent.group() if indent is not None else "")
            if relative is None:
                return None
            written = relative
        # clients filter by the word left of the cursor, so it belongs to the item
        word = _WORD.search(document.text, max(0, cursor - 200), cursor)
        left = word.group() if word is not None else ""
        num_lines = len(written.strip("\n").split("\n"))
        return types.CompletionItem(
            label=(left + written).strip().split("\n", 1)[0][:60] or "(next line)",
            label_details=types.CompletionItemLabelDetails(description="Lacuna"),
            # what is called a snippet, Helix reads as one: dollars, backslashes and indentation would be its own
            kind=types.CompletionItemKind.Text,
            detail="Lacuna: fills the gap here" + (f", {num_lines} lines" if num_lines > 1 else ""),
            documentation=left + written,
            # after everything that a language server knows for certain
            sort_text=f"\uffff{number}",
            filter_text=left + written,
            insert_text_format=types.InsertTextFormat.PlainText,
            insert_text_mode=self.insert_text_mode,
            text_edit=types.TextEdit(types.Range(document.position_at(cursor - len(left)), span.end), left + written),
            command=proposal.command,
        )

    async def _answer(
        self,
        params: names.InlineCompletionParams,
        document: Document,
        token: CancelToken,
        is_explicit: bool,
        start: float,
    ) -> list[types.InlineCompletionItem] | None:
        options = self._server.options_for(document)
        if (reason := self._why_quiet(document, options, params.position, is_explicit)) is not None:
            self._log(document, params.position, start, f"declined: {reason}")
            # where proposals come in the ordinary list, a key may be about any server's entries
            if is_explicit and reason in _WHY_QUIET and not options.features.completion_fallback:
                name = unquote(document.uri.rsplit("/", 1)[-1])
                self._server.show(f"Lacuna proposes nothing in {name}: {_WHY_QUIET[reason]}.", types.MessageType.Info)
            return []
        if is_explicit:
            self._backoff.reset()
        selected, formatting = params.context.selected_completion_info, params.formatting_options
        asked = self._asked(document, options, params.position, selected, formatting, is_explicit)
        if not is_explicit:
            self._early.asked(document.uri, formatting)
        revision = document.revision
        place = (document.uri, revision, asked.request.end)
        found = self._recall(asked, document)
        if found and is_explicit:
            num_wanted = max(options.proposal.alternatives, MIN_ASKED)
            asked = replace(asked, request=replace(asked.request, num_alternatives=num_wanted))
            found = self._recall(asked, document)
        if found and (not is_explicit or len(found) >= asked.request.num_alternatives or place == self._asked_last):
            self._look_ahead(asked, found, document)
            self._log(document, params.position, start, f"recent {len(found[0].text)} chars")
            return self._answered(found, asked, document)
        if not is_explicit and not await self._wait(self._debounce_s(options), token):
            return None
        deadline_s = EXPLICIT_DEADLINE_S if is_explicit else options.proposal.deadline_ms / 1000
        early = await self._early.answer(document.uri, asked.request, token, deadline_s)
        left_s = deadline_s - (time.monotonic() - start)
        result = early or await self._fill(asked.request, document, token, left_s)
        if result is Ending.SUPERSEDED or document.revision != revision:
            return None
        if isinstance(result, Ending):
            self._log(document, params.position, start, result.value)
            return self._answered(found, asked, document)
        if result.is_cancelled:
            return None
        # the work alone: waiting for other work says nothing about what the next key would waste
        self._fill_s += 0.3 * (result.timings.total_ms / 1000 - self._fill_s)
        elapsed_ms = (time.monotonic() - start) * 1000
        # of what was filled ahead people want to know what it took
        self._server.status_board.set_latency(max(elapsed_ms, result.timings.total_ms))
        self.metrics.latency(elapsed_ms)
        # what is shown already stays the first
        known = {each.text for each in found}
        proposals = (*found, *(each for each in result.proposals if each.text not in known))
        self._recent.remember(asked.request, proposals)
        if is_explicit and found:
            self._asked_last = place
        self._look_ahead(asked, proposals, document)
        self._log(document, params.position, start, _summary(result))
        return self._answered(proposals, asked, document)

    def _why_quiet(
        self, document: Document, options: Options, position: types.Position, is_explicit: bool
    ) -> str | None:
        if not options.enable:
            return "disabled"
        if self._server.status_board.is_paused:
            return "paused"
        if document.language in options.disable.languages:
            return "language"
        if not self._server.privacy.may_propose(document, options):
            return "excluded"
        if not document.is_valid(position):
            return "position"
        if not is_explicit:
            if not options.trigger.automatic:
                return "manual"
            if self._backoff.is_quiet:
                return "backoff"
        return None

    def _asked(
        self,
        document: Document,
        options: Options,
        position: types.Position,
        selected: types.SelectedCompletionInfo | None = None,
        formatting: types.FormattingOptions | None = None,
        is_explicit: bool = False,
    ) -> Asked:
        snapshot = document.snapshot(position)
        typed, start = "", snapshot.offset
        if selected is not None:
            low, high = document.offset_at(selected.range.start), document.offset_at(selected.range.end)
            if snapshot.base <= low <= high == snapshot.base + snapshot.offset:
                start, typed = low - snapshot.base, selected.text
        before, after = self._server.documents.around(document)
        indent = IndentStyle(formatting.tab_size, formatting.insert_spaces) if formatting else IndentStyle()
        extents: dict[str, Kind] = {"line": "line", "block": "block"}
        request = InfillRequest(
            text=before + snapshot.text + after,
            start=len(before) + start,
            end=len(before) + snapshot.offset,
            language=document.language,
            path=document.path,
            kind=extents.get(options.proposal.extent, "auto"),
            typed=typed,
            neighbours=self.neighbours(document, options),
            edited=self.edited(document, options),
            num_alternatives=options.proposal.alternatives,
            indent=indent,
            min_confidence=0.0 if is_explicit else options.proposal.min_confidence,
            is_explicit=is_explicit,
            in_comments=options.proposal.in_comments,
            head=document.head(snapshot),
        )
        return Asked(request, snapshot, len(before), position)

    def neighbours(self, document: Document, options: Options) -> tuple[Neighbour, ...]:
        """Other open documents of the language, the latest used first, without secrets."""
        if not options.context.open_documents:
            return ()
        privacy = self._server.privacy
        # the other cells of a notebook are in the text already; whether one may be read is asked on the disk
        others = (
            other
            for other in reversed(list(self._server.documents))
            if other is not document
            and other.language == document.language
            and not (document.notebook and other.notebook == document.notebook)
            and privacy.may_read(other, options)
        )
        latest = islice(others, options.context.max_documents)
        return tuple(Neighbour(other.path or other.uri, privacy.text(other, options)) for other in latest)

    def edited(self, document: Document, options: Options) -> tuple[Neighbour, ...]:
        """What was edited lately in the document and, where they may be context, in others: without secrets."""
        privacy = self._server.privacy
        others = list(self._server.documents) if options.context.open_documents else [document]
        readable = [other for other in others if other.edited and privacy.may_read(other, options)]
        spans = [(span, other) for other in readable for span in other.edited]
        spans.sort(key=lambda each: each[0].when)
        hide = redact if options.privacy.redact_secrets else str
        texts = ((other, other.edited_text(span, MAX_EDITED_CHARS)) for span, other in spans[-MAX_EDITED:])
        return tuple(Neighbour(other.path or other.uri, hide(text)) for other, text in texts if text)

    def _debounce_s(self, options: Options) -> float:
        wait_s = options.trigger.debounce_ms / 1000
        if options.trigger.adaptive_debounce and self._fill_s > max(SLOW_FILL_S, self._typing_s):
            # every fill would be thrown away by the next key: let the user finish the word first
            wait_s = max(wait_s, min(ADAPTIVE_LIMIT_S, self._fill_s - self._typing_s))
        return wait_s

    async def _wait(self, wait_s: float, token: CancelToken) -> bool:
        """Wait; False when the request was superseded meanwhile."""
        if wait_s > 0 and not token():
            await asyncio.wait([token.waiter()], timeout=wait_s)
        return not token()

    async def _fill(
        self, request: InfillRequest, document: Document, token: CancelToken, deadline_s: float
    ) -> InfillResult | Ending:
        until = time.monotonic() + deadline_s

        trouble: list[str] = []

        def work(infiller: Infiller, cancelled: CancelToken) -> InfillResult:
            left_ms = max(1.0, (until - time.monotonic()) * 1000)
            result = infiller.fill(replace(request, deadline_ms=left_ms), cancelled)
            if not result.proposals and not result.is_cancelled:
                # a remote engine that fails says so in its status, and declines
                status = infiller.status()
                trouble[:] = [status.detail] if status.state == "failed" else []
            return result

        board = self._server.status_board
        loop = asyncio.get_running_loop()
        self._server.next_edits.give_up()
        busy = loop.call_later(BUSY_AFTER_S, lambda: board.set_filling(True))
        try:
            # a little slack: an infiller that keeps to its deadline answers what it has
            result = await self._server.scheduler.run(document.uri, token, work, deadline_s=max(0.0, deadline_s) + 0.05)
        finally:
            busy.cancel()
            board.set_filling(False)
        if isinstance(result, InfillResult):
            board.set_warning(trouble[0] if trouble else "")
        return result

    def _recall(self, asked: Asked, document: Document) -> tuple[Proposal, ...]:
        """What is remembered for here. What a key brought up below the floor comes by itself only while typed along."""
        found = self._recent.recall(asked.request)
        floor = asked.request.min_confidence
        if all(each.confidence >= floor for each in found):
            return found
        cursor = asked.request.end + asked.shift
        formers = [self._former(each, asked, document) for each in found]
        return tuple(
            each
            for each, former in zip(found, formers, strict=True)
            if each.confidence >= floor or (former is not None and former.offset < cursor)
        )

    def _former(self, proposal: Proposal, asked: Asked, document: Document) -> Shown | None:
        """The first answer that this proposal from memory was part of, if it was answered before."""
        start, cursor = proposal.start + asked.shift, asked.request.end + asked.shift
        end = start + len(proposal.text)
        for shown in reversed(self._shown.values()):
            is_same = shown.uri == document.uri and shown.offset + len(shown.text) == end and shown.offset <= cursor
            if is_same and shown.text.endswith(proposal.text[max(0, shown.offset - start) :]):
                return shown.first or shown
        return None

    def _answered(
        self, proposals: Sequence[Proposal], asked: Asked, document: Document
    ) -> list[types.InlineCompletionItem]:
        best = proposals[: asked.request.num_alternatives]
        found = [item for each in best if (item := self._item(each, asked, document)) is not None]
        if found and not self._reports_shows:
            self._count_shown(found[0][1])
        return [item for item, _ in found]

    def _item(
        self, proposal: Proposal, asked: Asked, document: Document
    ) -> tuple[types.InlineCompletionItem, Shown] | None:
        start, end = proposal.start + asked.shift, proposal.end + asked.shift
        if not asked.snapshot.base <= start <= end <= len(document.text):
            # a notebook's proposal must stay inside its cell
            return None
        if start == end:
            span = types.Range(asked.position, asked.position)
        else:
            span = document.range_of(start, end)
            if span.start.line != span.end.line:
                return None
        first = self._former(proposal, asked, document) if proposal.source == "recent" else None
        shown = Shown(f"{next(self._ids):x}", document.uri, proposal.text, start, first)
        self._shown[shown.id] = shown
        while len(self._shown) > MAX_REMEMBERED:
            self._shown.popitem(last=False)
        arguments = [shown.id, proposal.closing] if proposal.closing else [shown.id]
        command = types.Command(title="Accept", command=names.ACCEPT_COMMAND, arguments=arguments)
        return types.InlineCompletionItem(insert_text=proposal.text, range=span, command=command), shown

    # work ahead of requests

    def _prefetch(self, document: Document) -> None:
        """Bring the model's cache up to date with what was just typed, while nobody waits for it."""
        options = self._server.options_for(document)
        position = document.last_cursor()
        is_wanted = options.trigger.prefetch and options.trigger.automatic
        if not is_wanted or position is None or self._why_quiet(document, options, position, False) is not None:
            return
        request = self._asked(document, options, position, formatting=self._early.formatting(document.uri)).request
        fill = self._early_fill(document, request, options)

        def work(infiller: Infiller, cancelled: CancelToken) -> None:
            infiller.prefetch(request, cancelled)
            if fill is not None:
                fill(infiller, cancelled)

        self._server.scheduler.in_background(document.uri, work)

    def _early_fill(self, document: Document, request: InfillRequest, options: Options) -> Work | None:
        """What fills this request before it comes, if it is likely to come, and to be answered by then."""
        is_quick = not options.engine.is_remote and self._fill_s <= SLOW_FILL_S and not self._debounce_s(options)
        if not (options.trigger.speculate and is_quick and self._early.is_asked(document.uri)):
            return None
        if self._recent.recall(request):
            # typed along, or accepted: that is the answer
            return None
        return self._early.begin(document.uri, request, options.proposal.deadline_ms)

    def _look_ahead(self, asked: Asked, proposals: Sequence[Proposal], document: Document) -> None:
        """Once the user has paused over a proposal, compute what would follow if it is accepted."""
        options = self._server.options_for(document)
        if not proposals or not options.trigger.speculate:
            return
        best, request = proposals[0], asked.request
        text = request.text[: best.start] + best.text + request.text[best.end :]
        cursor = best.start + len(best.text)
        # it will come by itself, whoever asked for what is before it
        ahead = replace(
            request,
            text=text,
            start=cursor,
            end=cursor,
            typed="",
            is_explicit=False,
            num_alternatives=options.proposal.alternatives,
            min_confidence=options.proposal.min_confidence,
        )
        if self._ahead.get(document.uri) == ahead:
            return
        num_changes = self._num_changes

        def begin() -> None:
            if self._num_changes == num_changes and not self._recent.recall(ahead):
                self._ahead[document.uri] = ahead
                self._server.scheduler.in_background(_ahead_key(document.uri), work)

        def work(infiller: Infiller, cancelled: CancelToken) -> None:
            result = infiller.fill(ahead, cancelled)
            if not result.is_cancelled:
                self._recent.remember(ahead, result.proposals)

        asyncio.get_running_loop().call_later(LOOK_AHEAD_AFTER_S, begin)

    def _log(self, document: Document, position: types.Position, start: float, summary: str) -> None:
        elapsed_ms = (time.monotonic() - start) * 1000
        logger.info(
            "infill %s:%d:%d v%s %s, %.1f ms",
            document.uri.rsplit("/", 1)[-1],
            position.line + 1,
            position.character + 1,
            document.version,
            summary,
            elapsed_ms,
        )

    # what happens to documents and proposals

    def on_change(self, document: Document) -> None:
        """The text changed: what was under way is stale."""
        now = time.monotonic()
        self._typing_s += 0.2 * (min(now - self._last_change, 2.0) - self._typing_s)
        self._last_change = now
        self._supersede(document.uri)
        self._give_up_ahead()
        self._early.forget(document.uri)
        self._prefetch(document)

    def on_close(self, uri: str) -> None:
        """The document is gone."""
        self._give_up_ahead()
        self._early.close(uri)
        self._server.privacy.forget(uri)
        self._supersede(uri)

    def _supersede(self, uri: str) -> None:
        """Cancel whatever is under way for this document: its text is no longer what was asked about."""
        for key in (uri, action_key(uri), next_key(uri)):
            self._server.scheduler.supersede(key)

    def _give_up_ahead(self) -> None:
        """The user went on: what would have followed a proposal is no longer the question, in no document."""
        self._num_changes += 1
        for uri in self._ahead:
            self._server.scheduler.drop_background(_ahead_key(uri))
        self._ahead.clear()

    def on_options(self) -> None:
        """The configuration changed."""
        self._recent.forget()
        self._early.forget()
        self._ahead.clear()
        self.metrics.set_file(default_file() if self._server.options.privacy.metrics else None)
        self._backoff.reset()

    def on_shutdown(self) -> None:
        """Answer everything that is under way."""
        for document in self._server.documents:
            self._supersede(document.uri)

    def on_show(self, params: names.DidShowParams) -> None:
        """The proposal became visible."""
        self._reports_shows = True
        shown = self._find(params.item, params.id)
        if shown is not None:
            self._count_shown(shown)

    def on_partial_accept(self, params: names.DidPartiallyAcceptParams) -> None:
        """Part of the proposal was accepted."""
        if (shown := self._find(params.item, params.id)) is not None:
            num_units_before = shown.accepted_units
            shown.accepted_units = max(num_units_before, min(params.accepted_length, num_units(shown.text, "utf-16")))
            if not num_units_before:
                self.metrics.count("num_partly_accepted")
            self._backoff.reset()
            new = _units(shown.text, num_units_before, shown.accepted_units)
            self._accepted(shown, new, len(_units(shown.text, 0, num_units_before)))

    def on_dismiss(self, params: names.DidDismissParams) -> None:
        """The proposal went away."""
        shown = self._find(params.item, params.id)
        if shown is not None and params.reason is names.DismissReason.Explicit:
            self.metrics.count("num_dismissed")
            document = self._server.documents.get(shown.uri)
            options = self._server.options_for(document) if document is not None else self._server.options
            self._backoff.dismissed(options.trigger.backoff_dismissals)
            if document is not None:
                # it, and what would follow it, must not come back from memory
                self._recent.forget(document.path)
                self._early.forget(shown.uri)

    def on_accept(self, proposal_id: str) -> None:
        """The whole proposal was accepted."""
        if (shown := self._shown.pop(proposal_id, None)) is None:
            return
        self._backoff.reset()
        self.metrics.count("num_accepted")
        units = num_units(shown.text, "utf-16")
        self._accepted(shown, _units(shown.text, shown.accepted_units, units), 0)

    def _count_shown(self, shown: Shown) -> None:
        # the rest of a proposal that is typed along is the same proposal
        first = shown.first or shown
        if not first.is_counted:
            first.is_counted = True
            self.metrics.count("num_shown")
            self.metrics.count("num_chars_shown", len(shown.text))

    def _accepted(self, shown: Shown, text: str, num_before: int) -> None:
        """text was accepted, num_before code points into the proposal. Look later how much of it was kept."""
        if not text:
            return
        self.metrics.count("num_chars_accepted", len(text))
        uri, offset = shown.uri, shown.offset + num_before

        def look() -> None:
            if (document := self._server.documents.get(uri)) is not None:
                self.metrics.count("num_chars_kept", num_kept(document.text, text, offset))

        asyncio.get_running_loop().call_later(KEPT_AFTER_S, look)

    def _find(self, item: names.ShownItem | None, explicit_id: str | None) -> Shown | None:
        found = names.proposal_id(item, explicit_id)
        return self._shown.get(found) if found is not None else None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as infill/ sees it, and how to get back: num_before code points of other cells precede the text."""

    request: InfillRequest
    snapshot: Snapshot
    num_before: int
    position: types.Position

    @property
    def shift(self) -> int:
        """What leads from an offset of the request to one of the document."""
        return self.snapshot.base - self.num_before


def insert_text_mode(params: types.InitializeParams) -> types.InsertTextMode:
    """How this client puts in the later lines of a completion item: as they are, unless all it can is indent them."""
    text = params.capabilities.text_document
    item = text.completion.completion_item if text is not None and text.completion is not None else None
    support = item.insert_text_mode_support if item is not None else None
    can_keep = support is None or types.InsertTextMode.AsIs in support.value_set
    return types.InsertTextMode.AsIs if can_keep else types.InsertTextMode.AdjustIndentation


def _relative(text: str, indent: str) -> str | None:
    """The text less the indentation that its later lines share with the first; None where one is indented less."""
    first, *lines = text.split("\n")
    if not all(line.startswith(indent) or not line.strip() for line in lines):
        return None
    return "\n".join([first, *(line.removeprefix(indent) for line in lines)])


def _ahead_key(uri: str) -> str:
    return f"{uri}#ahead"


def _units(text: str, start: int, end: int) -> str:
    """The part of text from one UTF-16 unit to another; half a character at an end is left out."""
    return text.encode("utf-16-le")[start * 2 : end * 2].decode("utf-16-le", "ignore")


def _summary(result: InfillResult) -> str:
    timings = result.timings
    work = (
        f"{timings.num_cached}+{timings.num_prefilled} tokens, {timings.num_forwards} forwards "
        f"(layout {timings.layout_ms:.0f}, prefill {timings.prefill_ms:.0f}, denoise {timings.denoise_ms:.0f}, "
        f"verify {timings.verify_ms:.0f}, trim {timings.trim_ms:.0f} of {timings.total_ms:.0f} ms)"
    )
    if not result.proposals:
        return f"declined: {result.declined or 'empty'}, {work}"
    best = result.proposals[0]
    return f"{best.source} {len(best.text)} chars, confidence {best.confidence:.2f}, {timings.steps} steps, {work}"
