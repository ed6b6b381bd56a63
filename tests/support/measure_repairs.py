"""How many lines that one mistake has broken come back as they were.

`python tests/support/measure_repairs.py SNAPSHOT...`

Lines of a snapshot (folder, sdist, wheel) lose a mark, get one twice or another one, or have two letters of a keyword
exchanged; those that no parser minds are left out. Prints how many the embedded model restores among the small mends
that are found, how many the first of them would have, and what both take.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections import Counter
from pathlib import Path

from lacuna_ls.bench.snapshot import SourceFile, read_snapshot
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.load import load_infiller
from lacuna_ls.infill.repair import repair_at
from lacuna_ls.infill.request import GapSpan, GapsRequest

MARKS = "()[]{}:,'\"="
OTHERS = {")": "]", "]": ")", "}": ")", ":": ";", ",": ".", "(": "[", "[": "{", "{": "(", "=": ":"}
KEYWORDS = re.compile(r"\b(?:return|import|from|def|class|while|for|function|const|else|elif|with|raise)\b")


def broken(text: str, line: re.Match[str], rng: random.Random) -> str | None:
    """The text with one mistake in a line; None where the kind that was drawn is not possible there."""
    kind = rng.choice(("lost", "lost", "twice", "other", "letters"))
    words = list(KEYWORDS.finditer(line.group()))
    if kind == "letters" and words:
        word = rng.choice(words)
        at = line.start() + word.start() + rng.randrange(len(word.group()) - 1)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    marks = [at for at in range(line.start(), line.end()) if text[at] in MARKS]
    if kind == "letters" or not marks:
        return None
    at = rng.choice(marks)
    new = {"lost": "", "twice": text[at] * 2, "other": OTHERS.get(text[at], "")}[kind]
    return text[:at] + new + text[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshots", nargs="+", type=Path)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, infiller = random.Random(options.seed), load_infiller()
    files: list[SourceFile] = [file for path in options.snapshots for file in read_snapshot(path).files]
    counts: Counter[str] = Counter()
    times: list[tuple[float, float]] = []
    while len(times) < options.lines:
        file = rng.choice(files)
        language = language_for(file.language)
        line = rng.choice(list(re.finditer(r"[^\n]*\S[^\n]*", file.text)))
        text = broken(file.text, line, rng)
        begun = time.perf_counter()
        if text is None or (found := repair_at(language, text, line.end() - 1)) is None:
            continue
        mends = [text[: found.start] + mend + text[found.end :] for mend in found.texts]
        middle = time.perf_counter()
        counts["nothing small mends it"] += not mends
        counts["among the mends"] += file.text in mends
        counts["the first of them"] += mends[:1] == [file.text]
        if mends:
            gap = GapSpan(found.start, found.end, is_multiline="\n" in text[found.start : found.end])
            request = GapsRequest(text, (gap,), language.ids[0], file.path, choices=found.texts)
            chosen = infiller.fill_gaps(request).fills[0].proposal
            counts["the model's choice"] += (
                chosen is not None and text[: chosen.start] + chosen.text + text[chosen.end :] == file.text
            )
        times.append((middle - begun, time.perf_counter() - middle))
    print(f"{len(times)} broken lines; as they were: " + ", ".join(f"{key} {counts[key]}" for key in counts))
    for name, values in zip(("looking", "choosing"), zip(*times, strict=True), strict=True):
        cuts = statistics.quantiles(values, n=20)
        print(f"{name}: p50 {cuts[9] * 1e3:.0f} ms, p95 {cuts[18] * 1e3:.0f} ms")
    infiller.close()


if __name__ == "__main__":
    main()
