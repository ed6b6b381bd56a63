"""The typed-through cache: a proposal that the user types along is answered from memory, unchanged, with no model.

Keyed on what stands before AND after the gap. An answer is always the rest of a proposal that was given before, so
shown text never changes while it is typed along; also across lines, after accepting a word or a line, and when the
editor has closed a bracket by itself. Bounded. Thread-safe, so that lsp/ may ask it on its event loop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from .request import InfillRequest, Proposal

KEY_CHARS = 2048
"""How much text on each side of the gap has to be the same. Beyond it neither the model nor the user looks."""

_ANCHOR_CHARS = 32

MAX_CLOSED = 8
"""How many characters the editor may have closed by itself behind the cursor."""

_CLOSING = frozenset(")]}>\"'`;")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A proposal and where it was made. before, after: the text around the replaced span, at most KEY_CHARS each.

    closed: what it replaces right of the cursor.
    """

    before: str
    after: str
    proposal: Proposal
    closed: str

    @property
    def is_at_start(self) -> bool:
        """Whether before is all the text there was."""
        return len(self.before) < KEY_CHARS

    @property
    def is_at_end(self) -> bool:
        """Whether after is all the text there was."""
        return len(self.after) < KEY_CHARS


_Place = tuple[str, str, str, str, str]


class RecentProposals:
    """A bounded memory of answers; the one that has not been useful for longest is forgotten first."""

    def __init__(self, capacity: int = 64) -> None:
        """capacity: answers kept. Raises: ValueError if it is not positive."""
        if capacity < 1:
            raise ValueError(f"the cache needs room for at least one answer, got {capacity}")
        self._capacity = capacity
        self._answers: OrderedDict[_Place, tuple[_Kept, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, request: InfillRequest, proposals: tuple[Proposal, ...]) -> None:
        """Keep the proposals that were given for a request, best first."""
        text = request.text
        kept = tuple(
            _Kept(
                before=text[max(0, proposal.start - KEY_CHARS) : proposal.start],
                after=text[proposal.end : proposal.end + KEY_CHARS],
                proposal=proposal,
                closed=text[request.end : proposal.end],
            )
            for proposal in proposals
        )
        if not kept:
            return
        place = (request.path, request.language, request.kind, kept[0].before, kept[0].after)
        with self._lock:
            self._answers.pop(place, None)
            self._answers[place] = kept
            while len(self._answers) > self._capacity:
                self._answers.popitem(last=False)

    def recall(self, request: InfillRequest) -> tuple[Proposal, ...]:
        """The rests of the latest answer that is being typed along, in its order; () where there is none."""
        here = (request.path, request.language, request.kind)
        with self._lock:
            for place in reversed(self._answers):
                if place[:3] != here:
                    continue
                rests = [_rest(kept, request) for kept in self._answers[place]]
                found = tuple(rest for rest in rests if rest is not None)
                if found:
                    self._answers.move_to_end(place)
                    return found
        return ()

    def forget(self, path: str | None = None) -> None:
        """Forget what was proposed in one document, or everything."""
        with self._lock:
            for place in [place for place in self._answers if path is None or place[0] == path]:
                del self._answers[place]


def _rest(kept: _Kept, request: InfillRequest) -> Proposal | None:
    """What is left of a kept proposal where the user is now, or None where he went another way."""
    num_typed = _num_typed(kept, request)
    if num_typed is None:
        return None
    rest = kept.proposal.text[num_typed:]
    if not rest.strip():
        return None
    # what it leaves to be closed behind it comes with it
    written = rest + kept.proposal.closing
    for num_closed in range(MAX_CLOSED + 1):
        end = request.end + num_closed
        if not _stands_at(kept, request.text, end):
            continue
        closed = request.text[request.end : end]
        if "\n" in closed:
            # what stands in a line of its own stays: no proposal takes the place of more than its line
            if not rest.endswith(closed) or not rest.removesuffix(closed).strip():
                return None
            rest, end = rest.removesuffix(closed), request.end
        elif closed.strip() and closed != kept.closed and (num_typed == 0 or not _absorbs(written, closed)):
            return None
        return replace(kept.proposal, text=request.typed + rest, start=request.start, end=end, source="recent")
    return None


def _num_typed(kept: _Kept, request: InfillRequest) -> int | None:
    """How much of the proposal stands before the cursor, the popup's word included. None: something else does."""
    written = kept.proposal.text
    low = max(0, request.start - len(kept.before) - len(written))
    window = request.text[low : request.start] + request.typed
    anchor = kept.before[-_ANCHOR_CHARS:]
    at = len(window)
    while (at := window.rfind(anchor, 0, at)) >= 0:
        here = at + len(anchor)
        num_typed = len(window) - here
        if num_typed >= len(written):
            return None
        # a text that began there must begin there still, or this is another place that looks alike
        is_there = not kept.is_at_start or low + here == len(kept.before)
        if is_there and window.endswith(written[:num_typed]) and window.endswith(kept.before, 0, here):
            return num_typed
        if at == 0:
            return None
        at += len(anchor) - 1
    return None


def _stands_at(kept: _Kept, text: str, offset: int) -> bool:
    """Whether the text after the gap begins at offset."""
    if kept.is_at_end and len(text) - offset != len(kept.after):
        return False
    return text.startswith(kept.after, offset)


def _absorbs(rest: str, closed: str) -> bool:
    """Whether rest writes, in order, the marks that the editor has put behind the cursor: they are replaced by it."""
    at = 0
    for char in closed.strip():
        at = rest.find(char, at) + 1
        if not at or char not in _CLOSING:
            return False
    return True
