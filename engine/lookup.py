"""Drafts that cost no forward: what followed the last tokens where they stood before, else what usually follows them.

Pure functions on token ids. What they propose is only ever a guess that the encoder checks.
Source: prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding); here the longest match wins, the latest
among equals. The n-gram table behind it is the cheapest draft model of Leviathan et al., arXiv 2211.17192, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .errors import CheckpointError

MIN_MATCH = 2
"""One equal token says too little about the next."""
MAX_MATCH = 6
NUM_DRAFTED = 3
"""On a CPU a forward of four rows takes as long as one of a single row; one of eight takes half as long again."""

TABLE = "ngrams."
"""What the names of a table's tensors in a packed file begin with: ngrams.one, int16 [V], the usual token after each;
ngrams.two, int32 [N, 2], rows of (first * V + second, usual token) where a pair says other than its second token."""


@dataclass(frozen=True, slots=True)
class NGrams:
    """The usual token after one token, and after a pair (first * V + second) that is usually followed by another."""

    after_one: Sequence[int] = ()
    after_two: Mapping[int, int] = field(default_factory=dict[int, int])

    def following(self, tokens: Sequence[int]) -> int | None:
        """What usually comes after tokens; None without a table."""
        if not self.after_one or not tokens:
            return None
        last = tokens[-1]
        usual = self.after_one[last]
        return usual if len(tokens) < 2 else self.after_two.get(tokens[-2] * len(self.after_one) + last, usual)


def read_ngrams(path: Path, vocab_size: int) -> NGrams:
    """The table of a packed file, an empty one where it has none.

    Raises: CheckpointError for the table of another vocabulary, and for what is no table.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with cast(Any, safe_open(path, framework="numpy")) as file:
            if f"{TABLE}one" not in file.keys():  # noqa: SIM118  (no mapping)
                return NGrams()
            one: list[Any] = file.get_tensor(f"{TABLE}one").tolist()
            pairs: dict[int, Any] = dict(file.get_tensor(f"{TABLE}two").tolist())
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the table of drafts is damaged ({error}); pack the model again") from None
    usual = (*one, *pairs.values())
    if len(one) != vocab_size or not all(isinstance(token, int) and 0 <= token < vocab_size for token in usual):
        raise CheckpointError(f"{path}: {TABLE}one and {TABLE}two are of another vocabulary; pack the model again")
    return NGrams(one, pairs)


def propose(tokens: Sequence[int], ngrams: NGrams, num_tokens: int = NUM_DRAFTED) -> list[int]:
    """num_tokens that may follow tokens, [] where nothing is known. Each is looked up behind those before it."""
    seen = list(tokens)
    for _ in range(num_tokens):
        found = looked_up(seen, 1)
        usual = None if found else ngrams.following(seen)
        if not found and usual is None:
            break
        seen.append(found[0] if found else cast(int, usual))
    return seen[len(tokens) :]


def looked_up(tokens: Sequence[int], num_tokens: int = NUM_DRAFTED) -> list[int]:
    """The num_tokens that may follow tokens, [] where its last MIN_MATCH tokens stand nowhere else."""
    best, best_size = 0, MIN_MATCH - 1
    for end in range(len(tokens) - 1, MIN_MATCH - 1, -1):
        if tokens[end - 1] != tokens[-1]:
            continue
        size = 1
        while size < min(MAX_MATCH, end) and tokens[end - 1 - size] == tokens[-1 - size]:
            size += 1
        if size > best_size:
            best, best_size = end, size
        if size == MAX_MATCH:
            break
    # behind a match at the very end the same goes on
    return [tokens[best + i % (len(tokens) - best)] for i in range(num_tokens)] if best else []
