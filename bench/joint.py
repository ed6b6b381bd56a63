"""Two to four holes of one document, filled jointly against one by one: the same model, the same documents.

In process, because a server fills several holes in one way only: jointly. Jointly every gap is denoised in sight of all
the others; what does not pass the gates keeps what it had alone (infill/gaps.py). A result counts as it would be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from ..infill.languages import language_for
from ..infill.python_parser import is_python
from ..infill.request import GapSpan, GapsRequest, GapsResult, Infiller
from ..infill.syntax import SyntaxTree
from .holes import Hole, Progress
from .metrics import percentile
from .results import Json

ONE_BY_ONE, JOINTLY = "one by one", "jointly"


@dataclass(slots=True)
class _Tally:
    """Sums over documents."""

    num_documents: int = 0
    num_gaps: int = 0
    num_filled: int = 0
    num_exact: int = 0
    num_valid: int = 0
    num_all_exact: int = 0
    num_different: int = 0
    times_ms: list[float] = field(default_factory=list[float])

    def row(self, how: str) -> Json:
        return {
            "how": how,
            "num_documents": self.num_documents,
            "num_gaps": self.num_gaps,
            "filled": self.num_filled / max(1, self.num_gaps),
            "exact": self.num_exact / max(1, self.num_gaps),
            "all_exact": self.num_all_exact / max(1, self.num_documents),
            "valid": self.num_valid / max(1, self.num_documents),
            "different": self.num_different / max(1, self.num_gaps),
            "p50_ms": percentile(self.times_ms, 50),
        }


def compare_joint(infiller: Infiller, holes: Sequence[Hole], told: Progress) -> list[Json]:
    """One row for each way. exact: gaps that are the original again; all_exact: documents of which every gap is;
    valid: documents that are as sound as the original, gaps left open included; different: gaps whose text is not what
    it was one by one; p50_ms: the time for a document."""
    tallies = {ONE_BY_ONE: _Tally(), JOINTLY: _Tally()}
    for number, hole in enumerate(holes):
        former: list[str | None] = []
        for how, tally in tallies.items():
            began = perf_counter()
            result = infiller.fill_gaps(_request(hole, jointly=how == JOINTLY))
            tally.times_ms.append((perf_counter() - began) * 1000)
            texts = _take(tally, hole, result)
            tally.num_different += sum(a != b for a, b in zip(former, texts, strict=False))
            former = texts
        told(number + 1)
    return [tally.row(how) for how, tally in tallies.items()]


def _request(hole: Hole, *, jointly: bool) -> GapsRequest:
    gaps: list[GapSpan] = []
    removed = 0
    for start, end in hole.spans:
        gaps.append(GapSpan(start - removed, start - removed, is_multiline=False))
        removed += end - start
    return GapsRequest(hole.text, tuple(gaps), hole.file.language, hole.file.path, jointly=jointly)


def _take(tally: _Tally, hole: Hole, result: GapsResult) -> list[str | None]:
    """Judge one document; the text of each gap."""
    texts = [fill.proposal.text if fill.proposal is not None else None for fill in result.fills]
    pairs = zip(texts, hole.references, strict=True)
    hits = [text is not None and text.rstrip() == reference.rstrip() for text, reference in pairs]
    tally.num_documents += 1
    tally.num_gaps += len(texts)
    tally.num_filled += sum(text is not None for text in texts)
    tally.num_exact += sum(hits)
    tally.num_all_exact += all(hits)
    tally.num_valid += is_sound(hole, texts)
    return texts


def is_sound(hole: Hole, texts: Sequence[str | None]) -> bool:
    """Whether the document with texts in its gaps is as sound as the original."""
    original, filled = hole.file.text, hole.file.text
    for (start, end), text in reversed(list(zip(hole.spans, texts, strict=True))):
        filled = filled[:start] + (text or "") + filled[end:]
    language = language_for(hole.file.language, hole.file.path)
    if SyntaxTree.parse(language, filled).damage().exceeds(SyntaxTree.parse(language, original).damage()):
        return False
    return language.name != "python" or is_python(filled) or not is_python(original)
