"""Code actions: fill this hole, fill all holes, rewrite the selection, repair here. Cheap to list, computed on resolve.

An action carries where and what, not the text; resolving it asks the engine, and refuses rather than make an edit that
adds syntax errors or comes too late. Where holes and errors are is infill's business. Longer than other files because
the four actions share one way from a plan to an edit.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from lsprotocol import types

from ..infill.request import NO_OTHER, GapSpan, GapsRequest, GapsResult, IndentStyle, Infiller
from . import protocol as names
from .cancel import CancelToken
from .documents import Document, clean
from .edits import Replacement, apply, unified_diff, workspace_edit
from .scheduler import Ending

if TYPE_CHECKING:
    from ..infill.languages import Language
    from .server import LacunaServer

logger = logging.getLogger(__name__)

ActionKind = Literal["fillHole", "fillAll", "rewrite", "repair"]

DEADLINE_S = 60.0
MAX_HOLES = 12
MAX_LISTED_CHARS = 300_000
"""In a longer file only what is at the cursor is offered: searching all of it at every stop would be felt."""

PIECE_CHARS = 8_000
"""Holes are looked for piece by piece, because a few of them are enough to know what to offer."""

MAX_SELECTION_CHARS = 4_000
LEFT_ALONE = "the model would leave it as it is"
NOT_PARSED = "what the model wrote would not parse"

NUM_ATTEMPTS = 4
"""Different answers that a repair or a rewrite is tried with."""

MIN_KEPT = 70
"""A line that the model writes anew to repair it has to be like the old one in so much of 100."""

_MAYBE_HOLE = re.compile(
    r"\bpass\b|\.\.\.|TODO|FIXME|NotImplemented|todo!|unimplemented|\{\s*\}|\"\"\"|'''"
    # a header with nothing below
    r"|:[ \t]*(?:#[^\n]*)?(?:\r?\n[ \t]*)?(?:\r?\n|\Z)"
)
_COLUMN_0 = re.compile(r"^[^\s)\]}]", re.MULTILINE)

TITLES: dict[ActionKind, tuple[str, str]] = {
    "fillHole": ("Lacuna: fill this hole", names.FILL_HOLE_KIND),
    "fillAll": ("Lacuna: fill all holes in this file", names.FILL_ALL_KIND),
    "rewrite": ("Lacuna: rewrite selection", names.REWRITE_KIND),
    "repair": ("Lacuna: repair here", names.REPAIR_KIND),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action will do. start, end: code-point offsets in the revision of the document that it was listed for."""

    kind: ActionKind
    uri: str
    revision: int
    start: int
    end: int

    @classmethod
    def read(cls, data: object) -> Plan | None:
        """The plan in a code action's data, or None when it is not one of ours."""
        if not isinstance(data, dict):
            return None
        fields = cast(dict[str, Any], data)
        kind, uri = fields.get("kind"), fields.get("uri")
        numbers = [fields.get(name) for name in ("revision", "start", "end")]
        if kind not in TITLES or not isinstance(uri, str):
            return None
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            return None
        revision, start, end = cast(list[int], numbers)
        if start > end:
            return None
        return cls(kind, uri, revision, start, end)


@dataclass(frozen=True, slots=True)
class Outcome:
    """replacements, or the reason why there are none, for people."""

    replacements: tuple[Replacement, ...] = ()
    reason: str = ""


def action_key(uri: str) -> str:
    """What the scheduler knows the work for a document's actions by."""
    return f"{uri}#action"


class CodeActions:
    """One per server. Event loop only, but for the work that it hands to other threads."""

    def __init__(self, server: LacunaServer) -> None:
        self._server = server
        self._reader = ThreadPoolExecutor(1, "lacuna-actions")
        """Reads whole files for what can be done in them: that takes longer than a key may wait."""
        self._num_holes: dict[str, tuple[int, int]] = {}
        """Uri -> (revision, whether there are several holes)."""

    # listing

    async def offer(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        """What can be done at the cursor or with the selection; nothing when the text changed meanwhile."""
        try:
            return await self._offer(params)
        except Exception:
            # editors ask at every stop of the cursor, and would show an error
            logger.exception("Listing the code actions failed.")
            return []

    async def _offer(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        document = self._server.documents.get(params.text_document.uri)
        if document is None:
            return []
        options = self._server.options_for(document)
        is_on = options.enable and options.features.code_actions
        if not is_on or not self._server.privacy.may_propose(document, options):
            return []
        start, end = document.offset_at(params.range.start), document.offset_at(params.range.end)
        revision, text, context = document.revision, document.text, params.context

        def look() -> list[tuple[ActionKind, int, int]]:
            # many may wait in line, and the user has gone on since
            if document.revision != revision:
                return []
            return self._possible(document, revision, text, start, end, context)

        possible = await asyncio.get_running_loop().run_in_executor(self._reader, look)
        if document.revision != revision:
            return []
        return [self._action(Plan(kind, document.uri, revision, low, high)) for kind, low, high in possible]

    def _possible(
        self, document: Document, revision: int, text: str, start: int, end: int, context: types.CodeActionContext
    ) -> list[tuple[ActionKind, int, int]]:
        # in the reader's thread
        only = context.only

        def wanted(kind: ActionKind) -> bool:
            name = TITLES[kind][1]
            return only is None or any(name == each or name.startswith(f"{each}.") or not each for each in only)

        found: list[tuple[ActionKind, int, int]] = []
        text = clean(text)
        # Helix has no cursor without a character under it, and Eglot asks with the word or the statement at the cursor
        chosen = text[start:end].removesuffix("\n").removesuffix("\r")
        cursor = start + len(chosen)
        if wanted("fillHole") and _hole_gap(document, text, cursor) is not None:
            found.append(("fillHole", cursor, cursor))
        if wanted("repair") and "\n" not in chosen and _is_broken(document, text, cursor):
            found.append(("repair", cursor, cursor))
        if wanted("rewrite") and len(chosen) > 1 and (trimmed := _trimmed(text, start, end)) is not None:
            found.append(("rewrite", *trimmed))
        # what is about the whole file would light a lamp on every line
        is_lamp = context.trigger_kind is types.CodeActionTriggerKind.Automatic
        if wanted("fillAll") and (not is_lamp or any(kind == "fillHole" for kind, _, _ in found)):
            known = self._num_holes.get(document.uri)
            if known is None or known[0] != revision:
                known = self._num_holes[document.uri] = (revision, _num_holes(document, text))
            # a single one is worth a lamp only where the cursor is, but a command that asks for just this gets it
            is_asked_for = only is not None and TITLES["fillAll"][1] in only
            if known[1] > 1 or (known[1] and is_asked_for):
                found.append(("fillAll", start, start))
        return found

    def _action(self, plan: Plan) -> types.CodeAction:
        title, kind = TITLES[plan.kind]
        action = types.CodeAction(title=title, kind=kind, data=asdict(plan))
        if not self._can_resolve():
            arguments = [asdict(plan)]
            action.command = types.Command(title=title, command=names.APPLY_EDIT_COMMAND, arguments=arguments)
        return action

    def _can_resolve(self) -> bool:
        text = self._server.client_capabilities.text_document
        support = text.code_action.resolve_support if text and text.code_action else None
        return support is not None and "edit" in support.properties

    def on_close(self, uri: str) -> None:
        """The document is gone."""
        self._num_holes.pop(uri, None)

    # computing

    async def resolve(self, action: types.CodeAction) -> types.CodeAction:
        """The action with its edit; without one, and a word to the user, when there is nothing good to do."""
        plan = Plan.read(action.data)
        if plan is None:
            return action
        document, outcome = await self._compute(plan, "")
        if document is not None and outcome.replacements:
            action.edit = self._edit(document, plan, outcome)
        else:
            self._say(plan, outcome)
            # Eglot resolves what has data and no edit again, for ever
            action.data = None
        return action

    async def apply(self, data: object, instruction: object) -> None:
        """lacuna.applyEdit: compute, then ask the client to apply."""
        plan = Plan.read(data)
        if plan is None:
            self._tell("there is no edit to apply: this action is not one of Lacuna's")
            return
        document, outcome = await self._compute(plan, instruction if isinstance(instruction, str) else "")
        if document is None or not outcome.replacements:
            self._say(plan, outcome)
            return
        edit = self._edit(document, plan, outcome)
        label = TITLES[plan.kind][0]
        answer = await self._server.workspace_apply_edit_async(types.ApplyWorkspaceEditParams(edit, label))
        if not answer.applied:
            reason = answer.failure_reason or "the editor did not apply the edit"
            self._say(plan, Outcome(reason=reason))

    async def preview(self, params: names.PreviewEditParams) -> names.PreviewEditResult | None:
        """lacuna/previewEdit: the edit and its diff, or None with a word to the user."""
        plan = Plan.read(params.action.data)
        if plan is None:
            self._tell("there is no edit to preview: this action is not one of Lacuna's")
            return None
        document, outcome = await self._compute(plan, params.instruction or "")
        if document is None or not outcome.replacements:
            self._say(plan, outcome)
            return None
        name = document.uri.rsplit("/", 1)[-1]
        diff = unified_diff(name, document.text, apply(document.text, outcome.replacements))
        return names.PreviewEditResult(self._edit(document, plan, outcome), diff)

    def _edit(self, document: Document, plan: Plan, outcome: Outcome) -> types.WorkspaceEdit:
        label = TITLES[plan.kind][0]
        return workspace_edit(document, outcome.replacements, label, self._server.client_capabilities)

    def _say(self, plan: Plan, outcome: Outcome) -> None:
        # every refusal is told, also the same one twice: editors put equal messages together, so this names the place
        document = self._server.documents.get(plan.uri)
        is_there = document is not None and document.revision == plan.revision and plan.kind != "fillAll"
        place = f" (line {document.position_at(plan.start).line + 1})" if document is not None and is_there else ""
        self._tell(f"{TITLES[plan.kind][0].removeprefix('Lacuna: ')}{place}: {outcome.reason}")

    def _tell(self, message: str) -> None:
        self._server.window_show_message(types.ShowMessageParams(types.MessageType.Info, f"Lacuna: {message}"))

    async def _compute(self, plan: Plan, instruction: str) -> tuple[Document | None, Outcome]:
        document = self._server.documents.get(plan.uri)
        if document is None or document.revision != plan.revision or plan.end > len(document.text):
            return None, Outcome(reason="the document has changed; ask again")
        options = self._server.options_for(document)
        text = clean(document.text)
        gaps, choices = await asyncio.get_running_loop().run_in_executor(self._reader, _gaps_of, plan, document, text)
        if document.revision != plan.revision:
            return None, Outcome(reason="the document has changed; ask again")
        if not gaps:
            return document, Outcome(reason="there is nothing to do here")
        task = _Task(
            GapsRequest(
                text=text,
                gaps=gaps,
                language=document.language,
                path=document.path,
                jointly=plan.kind == "fillAll",
                neighbours=self._server.completions.neighbours(document, options),
                indent=IndentStyle(),
                is_rewrite=plan.kind == "rewrite",
                deadline_ms=DEADLINE_S * 1000,
                choices=choices,
            ),
            plan.kind,
        )
        work = task.with_instruction(instruction, _language(document)) if instruction.strip() else task
        key = action_key(plan.uri)
        token = self._server.scheduler.begin(key)
        self._server.status_board.set_filling(True)
        try:
            result = await self._server.scheduler.run(key, token, work.run, deadline_s=DEADLINE_S)
        finally:
            self._server.status_board.set_filling(False)
        if document.revision != plan.revision or self._server.documents.get(plan.uri) is not document:
            return None, Outcome(reason="the document has changed; ask again")
        if isinstance(result, Ending):
            if result is Ending.SUPERSEDED and self._server.status_board.is_paused:
                return document, Outcome(reason="Lacuna is paused")
            reasons = {Ending.LATE: "it took too long", Ending.SUPERSEDED: "another action was asked for"}
            why = self._server.status_board.engine.detail
            not_ready = f"the model is not ready ({why})" if why else "the model is not ready"
            return document, Outcome(reason=reasons.get(result, not_ready))
        return document, result


@dataclass(frozen=True, slots=True)
class _Task:
    """What the engine thread does for one action. shift: code points of an instruction that stand before the gaps."""

    request: GapsRequest
    kind: ActionKind
    shift: int = 0

    def with_instruction(self, instruction: str, language: Language) -> _Task:
        """The same task with the instruction as a comment above the first gap, where the model reads it."""
        text, first = self.request.text, self.request.gaps[0]
        at = text.rfind("\n", 0, first.start) + 1
        indent = text[at : len(text) - len(text[at:].lstrip(" \t"))]
        first_mark, last_mark = "#", ""
        if language.line_comments:
            first_mark = language.line_comments[0]
        elif language.block_comments:
            first_mark, last_mark = language.block_comments[0]
        comment = indent + " ".join((first_mark, *instruction.split(), last_mark)).rstrip() + "\n"
        gaps = tuple(
            replace(gap, start=gap.start + len(comment), end=gap.end + len(comment)) for gap in self.request.gaps
        )
        request = replace(self.request, text=text[:at] + comment + text[at:], gaps=gaps)
        return _Task(request, self.kind, len(comment))

    def run(self, infiller: Infiller, cancelled: CancelToken) -> Outcome:
        """Fill the gaps; a repair that mends nothing, or a rewrite that changes nothing, gets other answers tried."""
        reason = "there is nothing good to put here"
        is_tried_again = self.kind in ("repair", "rewrite") and not self.request.choices
        for seed in range(NUM_ATTEMPTS if is_tried_again else 1):
            result = infiller.fill_gaps(replace(self.request, seed=seed), cancelled)
            if result.is_cancelled or any(fill.declined == NO_OTHER for fill in result.fills):
                break
            found = self._replacements(result)
            if found and not self._is_good(found):
                reason = NOT_PARSED
                continue
            # a small mend of a short line may be little like it
            if found and self.kind == "repair" and not self.request.choices and not self._is_like(found[0]):
                reason = "what the model wrote is something else"
                continue
            if found:
                shift = self.shift
                return Outcome(tuple(Replacement(each.start - shift, each.end - shift, each.text) for each in found))
            reason = _reason(result) or (LEFT_ALONE if any(fill.proposal for fill in result.fills) else reason)
        return Outcome(reason=reason)

    def _is_like(self, each: Replacement) -> bool:
        """Whether a repair keeps most of what stood there: the model was not shown it."""
        from rapidfuzz.fuzz import ratio

        return ratio(self.request.text[each.start : each.end], each.text) >= MIN_KEPT

    def _replacements(self, result: GapsResult) -> list[Replacement]:
        text = self.request.text
        proposals = [fill.proposal for fill in result.fills if fill.proposal is not None]
        found = [Replacement(each.start, each.end, each.text) for each in proposals]
        return [each for each in found if text[each.start : each.end] != each.text]

    def _is_good(self, replacements: Sequence[Replacement]) -> bool:
        """Whether a repair mends, and a rewrite is whole: nobody goes on typing a header that it ends with."""
        if self.kind not in ("repair", "rewrite"):
            return True
        from ..infill.gate import adds_errors
        from ..infill.languages import language_for
        from ..infill.snapshot import Snapshot
        from ..infill.syntax import SyntaxTree

        (each,) = replacements
        language = language_for(self.request.language, self.request.path)
        before = SyntaxTree.around(language, self.request.text, each.start, each.end)
        if adds_errors(before, Snapshot(self.request.text), each.start, each.end, each.text):
            return False
        after = before.replaced(each.start, each.end, each.text)
        return self.kind != "repair" or after.damage().num_errors < before.damage().num_errors


def _reason(result: GapsResult) -> str:
    reasons = [fill.declined for fill in result.fills if fill.declined]
    texts = {
        "deadline": "it took too long",
        "empty": "the model has nothing to put here",
        "indentation": "what the model wrote would be indented badly",
        "low-confidence": "the model is not sure enough",
        "repeats-prefix": "the model would repeat what stands above",
        "repeats-suffix": "the model would repeat what stands below",
        "repetition": "the model repeats itself",
        "syntax": NOT_PARSED,
        "unchanged": LEFT_ALONE,
        "unfinished": "the model came to no end",
    }
    return texts.get(reasons[0], f"the model declined ({reasons[0]})") if reasons else ""


def _language(document: Document) -> Language:
    # tree-sitter is loaded with the first action, not with the server
    from ..infill.languages import language_for

    return language_for(document.language, document.path)


def _gaps_of(plan: Plan, document: Document, text: str) -> tuple[tuple[GapSpan, ...], tuple[str, ...]]:
    """The gaps of an action, and what may stand in the only one, if that is known."""
    if plan.kind == "repair":
        from ..infill.repair import repair_at

        found = repair_at(_language(document), text, plan.start)
        return ((_span(text, found.start, found.end),), found.texts) if found is not None else ((), ())
    if plan.kind == "rewrite":
        return (_span(text, plan.start, plan.end),), ()
    if plan.kind == "fillAll":
        return tuple(_hole_gaps(document, text)[:MAX_HOLES]), ()
    gap = _hole_gap(document, text, plan.start)
    return ((gap,) if gap is not None else ()), ()


def _span(text: str, start: int, end: int) -> GapSpan:
    # a piece of one line stays one: without a newline to come the model ends it sooner, and better
    return GapSpan(start, end, is_multiline="\n" in text[start:end])


def _hole_gap(document: Document, text: str, offset: int) -> GapSpan | None:
    from ..infill.holes import hole_at

    hole = hole_at(_language(document), text, offset)
    return hole.gap if hole is not None else None


def _hole_gaps(document: Document, text: str) -> list[GapSpan]:
    from ..infill.holes import find_holes

    if document.path.endswith(".pyi"):
        # a stub is all of these on purpose
        return []
    return [hole.gap for hole in find_holes(_language(document), text) if hole.is_sure]


def _num_holes(document: Document, text: str) -> int:
    """How many holes there are to fill, two at most. A piece is read out of its context: what is filled may differ."""
    number = 0
    for piece in _pieces(text) if len(text) <= MAX_LISTED_CHARS else ():
        if _MAYBE_HOLE.search(piece):
            number += len(_hole_gaps(document, piece))
        if number > 1:
            return 2
    return number


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that begin with a line in column 0."""
    start = 0
    while start < len(text):
        next_one = _COLUMN_0.search(text, start + PIECE_CHARS)
        end = next_one.start() if next_one is not None else len(text)
        yield text[start:end]
        start = end


def _is_broken(document: Document, text: str, offset: int) -> bool:
    from ..infill.repair import is_broken_at

    return is_broken_at(_language(document), text, offset)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The selection without white space around it; None when nothing, or too much, is left."""
    chosen = text[start:end]
    start += len(chosen) - len(chosen.lstrip())
    end -= len(chosen) - len(chosen.rstrip())
    return (start, end) if 0 < end - start <= MAX_SELECTION_CHARS else None
