"""Where Python code has its names from, counted on the training corpus: infill/usual_imports.txt.

For names that no file of a workspace imports yet: of the standard library, and of packages that everybody uses. What a
package imports of itself does not count.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..infill.imports import Imported
from ..infill.imports_python import USUAL_FILE, imports_of
from .command import guarded
from .corpus import Corpus

MIN_PACKAGES = 3
"""So many packages at least have a name from there."""

MIN_SHARE = 0.6
"""Of the packages that have the name at all, from wherever."""


def usual_imports(files: Iterable[tuple[str, str, str]]) -> list[str]:
    """The lines of USUAL_FILE, by module. files: package, path in it, text."""
    packages: defaultdict[Imported, set[str]] = defaultdict(set)
    for package, path, text in files:
        own = {package, path.partition("/")[0]}
        for each in imports_of(text):
            first = each.module.partition(".")[0]
            if first and first not in own and each.module != "__future__":
                packages[each].add(package)
    by_alias: defaultdict[str, list[Imported]] = defaultdict(list)
    for each in packages:
        by_alias[each.alias].append(each)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for alias, origins in by_alias.items():
        best = max(origins, key=lambda each: (len(packages[each]), each.module))
        num_all = sum(len(packages[each]) for each in origins)
        if len(packages[best]) >= max(MIN_PACKAGES, MIN_SHARE * num_all):
            is_own_name = alias == (best.name or best.module.partition(".")[0])
            new_name = "" if is_own_name else alias
            parts[best.module].append(best.name if best.name and is_own_name else f"{best.name}:{new_name}")
    return [" ".join((module, *sorted(names))) for module, names in sorted(parts.items())]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lacuna_ls.training.usual_imports", description="Count where Python code has its names from."
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=USUAL_FILE)
    args = parser.parse_args(argv)
    corpus = Corpus(args.corpus, "train")
    about = track(corpus.files(), "counting", console=Console(stderr=True))
    lines = usual_imports(
        (each["package"], each["path"], corpus.text(i)) for i, each in enumerate(about) if each["language"] == "python"
    )
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    Console().print(f"{len(lines)} modules; {args.out} takes {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
