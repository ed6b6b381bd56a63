"""Two and three gaps of one text, filled jointly in one canvas and one by one: the same places, both ways, as served.

Knows held-out texts and the infiller; single holes are evaluate.py's.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..engine.local import LocalEngine
from ..engine.modelfile import EMBEDDED
from ..infill.infiller import LocalInfiller
from ..infill.load import load_calibration, load_tokenizer
from ..infill.request import GapSpan, GapsRequest
from .evaluate import FITTING, MAX_DRAWS, Half, Texts, forget
from .holes import Hole, sample_holes

Row = dict[str, Any]

NEAR_LINES = (2, 16)
"""How far apart neighbouring gaps stand, in lines."""

LINES_DRAWN = 24


@dataclass(frozen=True, slots=True)
class Place:
    """Whole lines taken out of one text. text: without them; gaps: where they stood in it; middles: what they were."""

    text: str
    gaps: tuple[GapSpan, ...]
    middles: tuple[str, ...]
    language: str


def take_out(text: str, holes: Sequence[Hole], language: str) -> Place:
    """holes: from top to bottom, apart from each other."""
    kept: list[str] = []
    gaps: list[GapSpan] = []
    last = length = 0
    for hole in holes:
        kept.append(text[last : hole.start])
        length += hole.start - last
        gaps.append(GapSpan(length, length, is_multiline=False))
        last = hole.end
    middles = tuple(text[hole.start : hole.end] for hole in holes)
    return Place("".join([*kept, text[last:]]), tuple(gaps), middles, language)


def near(text: str, holes: Sequence[Hole], num_gaps: int) -> list[Hole] | None:
    """The first num_gaps holes from top to bottom of which each stands NEAR_LINES below the one above."""
    chosen: list[Hole] = []
    for hole in sorted(holes, key=lambda hole: hole.start):
        distance = text.count("\n", chosen[-1].end, hole.start) if chosen else NEAR_LINES[0]
        if distance > NEAR_LINES[1]:
            chosen = [hole]
        elif distance >= NEAR_LINES[0]:
            chosen.append(hole)
        if len(chosen) == num_gaps:
            return chosen
    return None


def places(corpus: Texts, num_gaps: int, count: int, seed: int, half: Half | None = None) -> list[Place]:
    """Up to count places at a seed, of the packages of one half."""
    rng = random.Random(seed * 31 + num_gaps)
    files = corpus.files()
    found: list[Place] = []
    for _ in range(MAX_DRAWS * count):
        i = rng.randrange(len(corpus))
        text, about = corpus.text(i), files[i]
        belongs = half is None or (about["package"] in FITTING) == (half == "fit")
        if len(found) == count:
            break
        if not belongs or len(text) > 60_000:
            continue
        chosen = near(text, sample_holes(text, rng, ("line",), LINES_DRAWN), num_gaps)
        if chosen is not None:
            found.append(take_out(text, chosen, about["language"]))
    return found


def measure(model: Path | None, corpus: Texts, count: int, seed: int, half: Half | None = None) -> list[Row]:
    """One row per number of gaps and way: exact gaps and whole places in percent, milliseconds of a whole place."""
    source = model or EMBEDDED
    engine = LocalEngine.load(model)
    infiller = LocalInfiller(engine, load_tokenizer(source), calibration=load_calibration(source))
    rows: list[Row] = []
    for num_gaps in (2, 3):
        hits: dict[bool, list[list[bool]]] = {False: [], True: []}
        times: dict[bool, list[float]] = {False: [], True: []}
        todo = places(corpus, num_gaps, count, seed, half)
        # place by place, both ways of each in turns: see evaluate.evaluate
        for number, place in enumerate(track(todo, f"{num_gaps} gaps", console=Console(stderr=True))):
            for jointly in (False, True) if number % 2 == 0 else (True, False):
                request = GapsRequest(place.text, place.gaps, place.language, jointly=jointly)
                forget(engine)
                began = time.perf_counter()
                fills = infiller.fill_gaps(request).fills
                times[jointly].append((time.perf_counter() - began) * 1e3)
                texts = [fill.proposal.text if fill.proposal else "" for fill in fills]
                hits[jointly].append([text == middle for text, middle in zip(texts, place.middles, strict=True)])
        rows += [
            {"gaps": num_gaps, "way": "jointly" if way else "one by one", **_figures(hits[way], times[way])}
            for way in (False, True)
            if hits[way]
        ]
    engine.close()
    return rows


def _figures(hits: Sequence[Sequence[bool]], times: Sequence[float]) -> Row:
    ordered = sorted(times)
    return {
        "places": len(hits),
        "exact_gaps": 100 * statistics.fmean(hit for each in hits for hit in each),
        "exact_places": 100 * statistics.fmean(all(each) for each in hits),
        "p50_ms": ordered[len(ordered) // 2],
        "p95_ms": ordered[int(len(ordered) * 0.95)],
    }


def table(rows: Sequence[Row]) -> Table:
    grid = Table("gaps", "way", title="several gaps of one text")
    for name in ("places", "exact gaps %", "all exact %", "p50 ms", "p95 ms"):
        grid.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row[key]:.1f}" for key in ("exact_gaps", "exact_places", "p50_ms", "p95_ms"))
        grid.add_row(str(row["gaps"]), row["way"], str(row["places"]), *figures)
    return grid
