"""lacuna/nextEdit: after an edit, the related changes elsewhere in the file. Off for automatic use unless switched on.

A rename and a repeated call are the user's own words in other places; the arguments of a changed signature are renoised
by the model, all in one canvas, and proposed where it is sure. Knows the history of documents; which spans belong to an
edit is infill's business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..infill.request import GapSpan, GapsRequest, GapsResult, Infiller
from . import protocol as names
from .cancel import CancelToken
from .documents import Document, Edit, clean
from .scheduler import Ending

if TYPE_CHECKING:
    from ..infill.related import Related
    from .server import LacunaServer

logger = logging.getLogger(__name__)

HISTORY_S = 60.0
PAUSE_S = 10.0
"""Edits of one line that are further apart than this are two edits."""

DEADLINE_S = 5.0
MIN_CONFIDENCE = 0.5
MAX_RENOISED = 6


def next_key(uri: str) -> str:
    """What the scheduler knows the work for a document's next edit by."""
    return f"{uri}#next"


def last_change(document: Document, now: float) -> tuple[int, str, str] | None:
    """The line number of the last edit, that line before it, and now; keys typed one after another are one edit."""
    edits = [edit for edit in document.edits if now - edit.when <= HISTORY_S]
    if not edits:
        return None
    last = edits[-1]
    if not _is_one_line(last) or last.line >= len(document.lines):
        return None
    first = last
    for edit in reversed(edits[:-1]):
        if edit.line != last.line or not _is_one_line(edit) or first.when - edit.when > PAUSE_S:
            break
        first = edit
    old, new = first.old.rstrip("\r\n"), document.lines[last.line].rstrip("\r\n")
    return (last.line, old, new) if old != new else None


def _is_one_line(edit: Edit) -> bool:
    return "\n" not in edit.old.rstrip("\r\n") and "\n" not in edit.new.rstrip("\r\n")


def is_taken_back(document: Document, line: int, old: str, new: str, now: float) -> bool:
    """Whether the last edit only restored what stood there a moment ago: nobody wants that carried on."""
    before = [edit for edit in document.edits if edit.line == line and now - edit.when <= HISTORY_S]
    states = [edit.old.rstrip("\r\n") for edit in before]
    return new in states[: states.index(old)] if old in states else False


class NextEdits:
    """One per server. Event loop only, but for the work that it hands to other threads."""

    def __init__(self, server: LacunaServer) -> None:
        self._server = server

    async def answer(self, params: names.NextEditParams, *, is_automatic: bool) -> names.NextEditResult:
        """The proposed changes, top to bottom; none when nothing is related or the document changed meanwhile."""
        try:
            return await self._answer(params, is_automatic)
        except Exception:
            # clients ask at every stop of the cursor, and would show an error
            logger.exception("A next edit failed.")
            return names.NextEditResult([])

    def give_up(self) -> None:
        """Somebody waits for the answer to a key: what is computed here, for whatever document, makes way."""
        for document in self._server.documents:
            self._server.scheduler.supersede(next_key(document.uri))

    async def _answer(self, params: names.NextEditParams, is_automatic: bool) -> names.NextEditResult:
        nothing = names.NextEditResult([])
        document = self._server.documents.get(params.text_document.uri)
        if document is None:
            return nothing
        options = self._server.options_for(document)
        if not options.enable or not self._server.privacy.may_propose(document, options):
            return nothing
        if is_automatic and not options.features.next_edit:
            return nothing
        if params.text_document.version is not None and params.text_document.version != document.version:
            return nothing
        now = time.monotonic()
        change = last_change(document, now)
        if change is None or is_taken_back(document, *change, now):
            return nothing
        line, old, _ = change
        revision, text, start = document.revision, clean(document.text), document.starts[line]
        related = await asyncio.to_thread(_find, document.language, document.path, text, start, old)
        known = [each for each in related if each.text is not None]
        asked = [each for each in related if each.text is None][:MAX_RENOISED]
        if asked:
            known += await self._renoise(document, text, asked)
        if document.revision != revision:
            return nothing
        return names.NextEditResult([_item(document, each) for each in sorted(known, key=lambda each: each.start)])

    async def _renoise(self, document: Document, text: str, spans: Sequence[Related]) -> list[Related]:
        from ..infill.related import Related

        request = GapsRequest(
            text=text,
            gaps=tuple(GapSpan(each.start, each.end, is_multiline=False) for each in spans),
            language=document.language,
            path=document.path,
            jointly=True,
            deadline_ms=DEADLINE_S * 1000,
            min_confidence=MIN_CONFIDENCE,
        )

        def work(infiller: Infiller, cancelled: CancelToken) -> GapsResult:
            return infiller.fill_gaps(request, cancelled)

        key = next_key(document.uri)
        result = await self._server.scheduler.run(key, self._server.scheduler.begin(key), work, deadline_s=DEADLINE_S)
        if isinstance(result, Ending):
            return []
        found = [fill.proposal for fill in result.fills if fill.proposal is not None]
        return [
            Related(each.start, each.end, each.text, each.confidence, "signature")
            for each in found
            if each.text != text[each.start : each.end]
        ]


def _find(language: str, path: str, text: str, line_start: int, old: str) -> list[Related]:
    from ..infill.languages import language_for
    from ..infill.related import find_related

    return find_related(language_for(language, path), text, line_start, old)


def _item(document: Document, related: Related) -> names.NextEditItem:
    where = names.VersionedDocument(document.uri, document.version)
    span = document.range_of(related.start, related.end)
    return names.NextEditItem(where, span, related.text or "", related.confidence)
