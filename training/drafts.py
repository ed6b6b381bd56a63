"""Drafts to train on: the canvas of an infill does not have to start from noise, it may start from a similar line.

Serving drafts from the document and the workspace (infill/seeds.py, which needs grammars). This is the same idea on one
text with nothing but lines: what stands between the most similar neighbours, or, where nothing does, the middle itself
with a few tokens replaced, dropped or put in. Pure functions of their arguments and the random state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .holes import Hole

WINDOW_CHARS = 12_000
"""How much text on each side of the hole is looked through, as infill/seeds.py does."""

_WORDS = re.compile(r"\w+")


def similar_middle(text: str, hole: Hole) -> str | None:
    """What the most similar place of the text has in the hole's stead; None where nothing is alike.

    Only for holes that end with their line. Similar: the lines above and below share words, and the line begins alike.
    """
    if hole.kind not in ("rest-of-line", "line"):
        return None
    first = text.rfind("\n", 0, hole.start) + 1
    head = text[first : hole.start].lstrip()
    before = [line for line in text[max(0, first - WINDOW_CHARS) : first].split("\n") if line.strip()]
    behind = [line for line in text[hole.end : hole.end + WINDOW_CHARS].split("\n")[1:] if line.strip()]
    above, below = _words(before[-1] if before else ""), _words(behind[0] if behind else "")
    best, best_score = None, 0.0
    for lines in (before, behind):
        for i in range(1, len(lines) - 1):
            body = lines[i].strip()
            if not body.startswith(head) or len(body) == len(head):
                continue
            score = _alike(above, _words(lines[i - 1])) + _alike(below, _words(lines[i + 1]))
            if score > best_score:
                best, best_score = body[len(head) :], score
    return best


def edited(tokens: Sequence[int], noise: np.random.Generator, low: int, high: int) -> list[int]:
    """tokens after up to three edits: one replaced by, or one put in, drawn from [low, high), or one dropped."""
    draft = list(tokens)
    for _ in range(int(noise.integers(1, 4))):
        at, kind = int(noise.integers(len(draft) + 1)), noise.random()
        if kind < 0.5 and at < len(draft):
            draft[at] = int(noise.integers(low, high))
        elif kind < 0.75 and at < len(draft):
            del draft[at]
        else:
            draft.insert(at, int(noise.integers(low, high)))
    return draft


def _words(line: str) -> frozenset[str]:
    return frozenset(_WORDS.findall(line))


def _alike(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second) if first and second else 0.0
