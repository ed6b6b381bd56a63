"""The table of usual next tokens that "verify" drafts from (engine/lookup.py), counted on the training corpus.

Knows tokens as ids. What it proposes is checked by the model, so it decides how many forwards an answer takes, and
never what the answer is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..engine.lookup import TABLE
from ..infill.load import load_tokenizer
from ..infill.tokenizer import NUM_RESERVED
from .command import guarded
from .export import repack
from .tokenizer import sample_texts

Ids = npt.NDArray[np.int64]

NUM_PAIRS = 16_384
"""Pairs that are kept: 128 KiB. Of what every pair would save, 16,384 save nine tenths."""

NUM_BYTES = 120_000_000
"""Of text that is counted."""


def count_ngrams(tokens: Ids, vocab_size: int, num_pairs: int = NUM_PAIRS) -> tuple[Ids, Ids]:
    """The usual token after each [V], 0 where none was seen; and (pair, usual token) [N, 2] of the pairs with which
    most is gained over that, by pair.

    tokens: one long text; ids below NUM_RESERVED separate texts and are never usual.
    """
    V = vocab_size
    is_token = tokens >= NUM_RESERVED
    firsts, seconds, thirds = (tokens[i : len(tokens) - 2 + i] for i in range(3))
    both = is_token[:-1] & is_token[1:]
    contexts, usual, _ = _most_frequent(tokens[:-1][both], tokens[1:][both], V)
    after_one = np.zeros(V, dtype=np.int64)
    after_one[contexts] = usual
    whole = both[:-1] & both[1:]
    pairs, thirds = (firsts * V + seconds)[whole], thirds[whole]
    keys, best, gain = _most_frequent(pairs, thirds, V)
    # how often what follows the second token alone is right behind the pair
    known, num_usual = np.unique(pairs[thirds == after_one[pairs % V]], return_counts=True)
    gain[np.searchsorted(keys, known)] -= num_usual
    order = np.argsort(-gain, kind="stable")[:num_pairs]
    order = np.sort(order[gain[order] > 0])
    return after_one, np.stack([keys[order], best[order]], axis=1)


def _most_frequent(contexts: Ids, following: Ids, vocab_size: int) -> tuple[Ids, Ids, Ids]:
    """(contexts, their most frequent follower, how often), by context."""
    keys, counts = np.unique(contexts * vocab_size + following, return_counts=True)
    # the last of each context is its most frequent one
    order = np.lexsort((counts, keys // vocab_size))
    keys, counts = keys[order], counts[order]
    contexts = keys // vocab_size
    is_last = np.ones(len(keys), dtype=np.bool_)
    is_last[:-1] = contexts[1:] != contexts[:-1]
    return contexts[is_last], keys[is_last] % vocab_size, counts[is_last]


def table_tensors(after_one: Ids, after_two: Ids) -> dict[str, Tensor]:
    """As engine/lookup.py reads them. Raises: ValueError for a vocabulary whose pairs are too many for 32 bits."""
    if len(after_one) > 2**15:
        raise ValueError(f"a vocabulary of {len(after_one)} tokens is too large for a table of pairs")
    return {
        f"{TABLE}one": torch.from_numpy(after_one.astype(np.int16)),
        f"{TABLE}two": torch.from_numpy(after_two.astype(np.int32)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lacuna_ls.training.ngrams", description="Count the table of drafts into a packed model."
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a packed .safetensors file")
    parser.add_argument("--out", type=Path, required=True, help="the same with the table; may be the model itself")
    args = parser.parse_args(argv)
    tokenizer = load_tokenizer(args.model)
    texts = track(sample_texts(args.corpus, NUM_BYTES), "counting", console=Console(stderr=True))
    # two reserved tokens between texts: no pair reaches across
    parts = [np.asarray([*tokenizer.encode(text), 0, 0], dtype=np.int64) for text in texts]
    after_one, after_two = count_ngrams(np.concatenate(parts), tokenizer.vocab_size)
    size = repack(args.model, args.out, {}, table_tensors(after_one, after_two))
    Console().print(f"{len(after_two)} pairs; {args.out} takes {size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
