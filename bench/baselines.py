"""The baselines (infill/baselines.py) as subjects of a run: they see the document and the files of its folder."""

from __future__ import annotations

from ..infill.baselines import BASELINES, Baseline, Context, copy_similar_line, ngram
from .snapshot import Snapshot, SourceFile

__all__ = ["BASELINES", "Baseline", "Context", "copy_similar_line", "neighbours_of", "ngram"]

MAX_NEIGHBOURS = 8


def neighbours_of(snapshot: Snapshot, file: SourceFile, limit: int = MAX_NEIGHBOURS) -> tuple[SourceFile, ...]:
    """The files of the same folder and language that are nearest in the order of paths."""
    folder = file.path.rpartition("/")[0]
    near = [
        other
        for other in snapshot.files
        if other.path.rpartition("/")[0] == folder and other.language == file.language and other.path != file.path
    ]
    place = sum(other.path < file.path for other in near)
    ranked = sorted(enumerate(near), key=lambda pair: abs(2 * (pair[0] - place) + 1))
    return tuple(other for _, other in ranked[:limit])
