"""Fit the weights of infill/heads.py: python fit_heads.py SNAPSHOT... [--test SNAPSHOT...] [--languages NAME...]

Cuts lines off that define a function, behind its name or within its parameters. Never fit on what the benchmark uses,
nor on a package of training/holdout.json.
"""

from __future__ import annotations

import re
from random import Random

import fitting
from lacuna_ls.bench.snapshot import SourceFile
from lacuna_ls.infill import heads
from lacuna_ls.infill.definitions import rules_of
from lacuna_ls.infill.languages import language_for_path
from lacuna_ls.infill.parameters import definition_at
from lacuna_ls.infill.snapshot import Snapshot


def cut(file: SourceFile, rng: Random) -> fitting.Cut | None:
    """The end of a line that defines a function."""
    rules = rules_of(language_for_path(file.path))
    lines = [match.start() for match in re.finditer(r"^[^\n]+", file.text, re.MULTILINE)]
    found = [each for at in lines if rules and (each := definition_at(rules, file.text, at)) and not each.is_class]
    if not found:
        return None
    each = rng.choice(found)
    end = Snapshot(file.text).line_end(each.at)
    name_end = file.text.find(each.name, each.at) + len(each.name)
    start = rng.choice((name_end, each.bracket + 1, rng.randint(name_end, max(name_end, end - 1))))
    return fitting.Cut(file, start, end)


if __name__ == "__main__":
    fitting.main(
        __doc__ or "",
        cut,
        lambda hole, index: heads.heads_for(hole.scene(), hole.gap(), hole.file.path, index),
        lambda draft: (heads, "WEIGHTS"),
    )
