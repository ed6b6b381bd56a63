"""The table of drafts beside a count by hand, and its way into a packed file and out again."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.lookup import read_ngrams
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.tokenizer import NUM_RESERVED
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.export import repack
from lacuna_ls.training.ngrams import count_ngrams, table_tensors
from lacuna_ls.training.tokenizer import sample_texts

V = NUM_RESERVED + 4
TEXT = st.lists(st.integers(NUM_RESERVED, V - 1) | st.just(0), min_size=3, max_size=60)


@settings(max_examples=60, deadline=None)
@given(tokens=TEXT, num_pairs=st.integers(1, 40))
def test_it_is_what_counting_by_hand_gives(tokens: list[int], num_pairs: int):
    after_one, after_two = count_ngrams(np.array(tokens), V, num_pairs)
    one: dict[int, Counter[int]] = {}
    two: dict[tuple[int, int], Counter[int]] = {}
    for first, second in itertools.pairwise(tokens):
        if min(first, second) >= NUM_RESERVED:
            one.setdefault(first, Counter())[second] += 1
    for first, second, third in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if min(first, second, third) >= NUM_RESERVED:
            two.setdefault((first, second), Counter())[third] += 1
    for token in range(V):
        counts = one.get(token)
        assert counts[after_one[token]] == max(counts.values()) if counts else after_one[token] == 0
    gains = {
        pair: max(counts.values()) - counts[after_one[pair[1]]]
        for pair, counts in two.items()
        if max(counts.values()) > counts[after_one[pair[1]]]
    }
    kept = {(int(key) // V, int(key) % V): int(token) for key, token in after_two}
    assert len(kept) == min(num_pairs, len(gains))
    for pair, token in kept.items():
        assert two[pair][token] == max(two[pair].values())
    assert sorted((gains[pair] for pair in kept), reverse=True) == sorted(gains.values(), reverse=True)[: len(kept)]


def test_texts_are_read_once_until_there_is_enough(small_corpus: Path):
    (first,) = sample_texts(small_corpus, 1)
    every = list(sample_texts(small_corpus, 10**9))
    assert every[0] == first
    assert len(every) == len(set(every)) == len(Corpus(small_corpus))
    assert list(sample_texts(small_corpus, len(first.encode()) + 1)) == every[:2]


def test_it_goes_into_a_packed_file_and_saves_forwards(tmp_path: Path):
    """Whatever the table says, the answer is the encoder's own."""
    out = tmp_path / "model.safetensors"
    engine = LocalEngine.load(EMBEDDED)
    prompt = tuple(load_tokenizer(EMBEDDED).encode("import os\n\n\ndef main() -> None:\n    for name in "))
    problem = CanvasProblem(prompt, (Canvas.free(24),), decoding="autoregressive")
    plain = engine.fill(problem)[0]
    size = engine.model.config.vocab_size
    after_one, after_two = np.full(size, 3, dtype=np.int64), {}
    said = [*prompt[:-1], *plain.tokens[: plain.end]]
    for first, second, third in zip(said, said[1:], said[2:], strict=False):
        after_two.setdefault(first * size + second, third)
    repack(EMBEDDED, out, {}, table_tensors(after_one, np.array(sorted(after_two.items()))))
    table = read_ngrams(out, size)
    assert table.after_two == after_two
    assert list(table.after_one) == after_one.tolist()
    drafting = CanvasProblem(prompt, (Canvas.free(24),), decoding="verify")
    told = LocalEngine.load(out).fill(drafting)[0]
    assert told.tokens == plain.tokens
    assert told.timings.num_forwards < LocalEngine(engine.model).fill(drafting)[0].timings.num_forwards


def test_a_vocabulary_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="too large"):
        table_tensors(np.zeros(2**15 + 1, dtype=np.int64), np.zeros((0, 2), dtype=np.int64))
