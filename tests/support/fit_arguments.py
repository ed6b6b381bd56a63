"""Fit infill/arguments.py's weights: python fit_arguments.py SNAPSHOT... [--test SNAPSHOT...] [--languages NAME...]

Cuts lines off within the arguments of a call, and arguments out of finished calls. Never fit on what the benchmark
uses, nor on a package of training/holdout.json.
"""

from __future__ import annotations

import re
from random import Random

import fitting
from lacuna_ls.bench.snapshot import SourceFile
from lacuna_ls.infill import arguments
from lacuna_ls.infill.snapshot import Snapshot

_OPENED = re.compile(r"[\w$]\(|, ")


def cut(file: SourceFile, rng: Random) -> fitting.Cut | None:
    """What follows a bracket or a comma: the rest of the line, or what the brackets around it hold."""
    places = [match.end() for match in _OPENED.finditer(file.text)]
    if not places:
        return None
    start = rng.choice(places)
    line_end = end = Snapshot(file.text).line_end(start)
    if rng.random() < 0.3:
        depth, at = 1, start
        while depth and at < line_end:
            depth += (file.text[at] in "([{") - (file.text[at] in ")]}")
            at += 1
        return None if depth else fitting.Cut(file, start, at - 1)
    word = re.match(r"\w\w+", file.text[start:end])
    if word is not None and rng.random() < 0.2:
        start += rng.randrange(1, len(word[0]))
    return fitting.Cut(file, start, end)


def draft(hole: fitting.Cut, index: fitting.LineIndex) -> list[arguments.Arguments]:
    return arguments.arguments_for(hole.scene(), hole.gap(), hole.file.path, index)


if __name__ == "__main__":
    names = {"by_name": "WEIGHTS_BY_NAME", "in_order": "WEIGHTS_IN_ORDER", "more": "WEIGHTS_MORE"}
    fitting.main(__doc__ or "", cut, draft, lambda first: (arguments, names[first.kind]))
