"""The facade's values: InfillRequest in, InfillResult out. lsp/ and bench/ see nothing else of this room.

Offsets are code-point indices into a Python str. No LSP type, no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Cancelled = Callable[[], bool]

Kind = Literal["auto", "line", "block", "span"]
"""How much to fill: decided by the tree (auto), to the end of the line, a whole block, or exactly the span given."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Text from elsewhere that may help: an open document, a recently edited region, a definition."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class IndentStyle:
    """How the document indents; None means: find out from the text."""

    tab_size: int | None = None
    insert_spaces: bool | None = None


@dataclass(frozen=True, slots=True)
class InfillRequest:
    """One gap to fill in one snapshot of one document.

    start, end: the span [start, end) to be replaced; start == end is a cursor.
    head: the top of the document, where text begins further below.
    typed: text that the editor's own completion popup would insert at start; a proposal must begin with it.
    min_confidence: proposals whose calibrated confidence is lower are declined.
    deadline_ms: time allowed from the call; what is ready by then is returned. None: no limit.
    """

    text: str
    start: int
    end: int
    language: str
    path: str = ""
    kind: Kind = "auto"
    typed: str = ""
    neighbours: tuple[Neighbour, ...] = ()
    edited: tuple[Neighbour, ...] = ()
    """What was edited lately, in this document and in others, with a line or two around it; the newest last."""
    num_alternatives: int = 1
    indent: IndentStyle = IndentStyle()
    deadline_ms: float | None = None
    min_confidence: float = 0.0
    is_explicit: bool = False
    """The user asked by a key: trigger rules that keep quiet while typing do not apply."""
    in_comments: bool = True
    """Whether to propose inside comments while typing."""
    is_rewrite: bool = False
    """What stands in the span is to be written anew: a model that can be told so is shown it."""
    seed: int = 0
    head: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= len(self.text):
            raise ValueError(f"span [{self.start}, {self.end}) is outside a text of {len(self.text)} code points")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Text to put in place of [start, end). confidence: probability in [0, 1] that it is exactly right.

    closing: the marks that close the brackets which text ends with (`if (a) {`), and leaves to the user to close.
    """

    text: str
    start: int
    end: int
    confidence: float
    source: str = "model"
    """"model", "similar" (what a similar place has), "import", "binding", "call", "head" (what the document's names and
    the workspace's definitions ask for), or "recent" (typed along a former proposal)."""
    closing: str = ""


@dataclass(frozen=True, slots=True)
class GapSpan:
    """One of several gaps of a document: [start, end) becomes lead + what is filled in + tail.

    is_multiline: whether several lines may be filled in.
    """

    start: int
    end: int
    lead: str = ""
    tail: str = ""
    is_multiline: bool = True


NO_OTHER = "no-other"


@dataclass(frozen=True, slots=True)
class GapsRequest:
    """Several gaps to fill in one snapshot of one document. Fields not named here are as in InfillRequest.

    gaps: from top to bottom, apart from each other. jointly: denoise them in one canvas, the text between them pinned;
    otherwise one after the other, each seeing those above it filled. seed: another one is another attempt at the same
    gaps; a gap that has no further answer is declined with NO_OTHER. choices: all that may stand in the only gap; the
    one that the model finds likeliest is the answer, the first where it has no opinion.
    """

    text: str
    gaps: tuple[GapSpan, ...]
    language: str
    path: str = ""
    jointly: bool = False
    neighbours: tuple[Neighbour, ...] = ()
    indent: IndentStyle = IndentStyle()
    deadline_ms: float | None = None
    min_confidence: float = 0.0
    is_rewrite: bool = False
    seed: int = 0
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.choices and len(self.gaps) != 1:
            raise ValueError(f"{len(self.choices)} choices for {len(self.gaps)} gaps; they are for one")
        at = 0
        for gap in self.gaps:
            if not at <= gap.start <= gap.end <= len(self.text):
                raise ValueError(f"gap [{gap.start}, {gap.end}) overlaps the one above it, or is outside of the text")
            at = gap.end


@dataclass(frozen=True, slots=True)
class InfillTimings:
    """Milliseconds by stage, and counters, of one infill. For logs, status lines and the benchmark."""

    layout_ms: float = 0.0
    prefill_ms: float = 0.0
    denoise_ms: float = 0.0
    verify_ms: float = 0.0
    trim_ms: float = 0.0
    total_ms: float = 0.0
    num_prefilled: int = 0
    num_cached: int = 0
    num_forwards: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class InfillResult:
    """proposals, best first; or none, with the reason in declined. A cancelled infill has is_cancelled set."""

    proposals: tuple[Proposal, ...] = ()
    declined: str = ""
    """Why there is nothing: a short stable key such as "inside-word", "comment", "syntax", "low-confidence"."""
    is_cancelled: bool = False
    timings: InfillTimings = field(default_factory=InfillTimings)


@dataclass(frozen=True, slots=True)
class GapFill:
    """What became of one gap: a proposal in offsets of the request's own text, or None with the reason in declined."""

    gap: GapSpan
    proposal: Proposal | None
    declined: str = ""


@dataclass(frozen=True, slots=True)
class GapsResult:
    """fills: one per gap, in order; their proposals can be applied together. When cancelled, those done so far."""

    fills: tuple[GapFill, ...] = ()
    is_cancelled: bool = False
    timings: InfillTimings = field(default_factory=InfillTimings)


@dataclass(frozen=True, slots=True)
class InfillerStatus:
    """state: what a status line shows. detail: one line for people."""

    state: Literal["unloaded", "loading", "ready", "busy", "failed", "closed"]
    model: str = ""
    device: str = ""
    detail: str = ""


class Infiller(Protocol):
    """The facade. Thread-safe in this sense: calls come from one engine thread; `cancelled` is polled from it."""

    def prefetch(self, request: InfillRequest, cancelled: Cancelled | None = None) -> None:
        """Bring the KV cache up to date for a request that may come; does nothing when the trigger would decline."""
        ...

    def fill(self, request: InfillRequest, cancelled: Cancelled | None = None) -> InfillResult: ...

    def fill_gaps(self, request: GapsRequest, cancelled: Cancelled | None = None) -> GapsResult:
        """Fill several gaps of one document, one after the other or jointly."""
        ...

    def index_workspace(
        self, roots: Sequence[str], is_excluded: Callable[[str], bool] | None, is_busy: Callable[[], bool]
    ) -> None:
        """Read the files of these folders in the background, so that drafts can come from files that are not open.

        Returns at once; called again it forgets them and begins anew. is_excluded: paths that must not be read.
        is_busy: while it is true nothing is read. Both are called from a thread of the infiller's own.
        """
        ...

    def refresh_files(self, paths: Sequence[str]) -> None:
        """These files of the workspace were written, or are gone: read them anew in the background."""
        ...

    def status(self) -> InfillerStatus: ...

    def load(self) -> None:
        """Load the model if its memory was given back, and forget an earlier failure. Raises: LacunaError's kinds."""
        ...

    def unload(self) -> None:
        """Give the model's memory back; the next fill loads it again. Nothing to do where no model is in memory."""
        ...

    def close(self) -> None: ...
