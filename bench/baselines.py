"""The baselines (infill/baselines.py) as subjects of a run: they see the document and the files of its folder."""

from __future__ import annotations

from ..infill.baselines import BASELINES, Baseline, generated
from .snapshot import Snapshot, SourceFile

GENERATE = "transformers"
"""The same checkpoint through transformers' own generate: slow, so it is asked some of the holes only."""

MAX_NEIGHBOURS = 8


def baseline(name: str, model: str = "") -> Baseline:
    """The baseline of that name. model: the checkpoint that is measured beside it. Raises: ValueError, LacunaError."""
    if name == GENERATE:
        return generated(model)
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; known are {sorted(BASELINES)} and {GENERATE!r}")
    return BASELINES[name]


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
