"""Training examples: the same for the same step, no row sees what it must predict, and rows are weighed as stated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lacuna_ls.infill.tokenizer import NUM_RESERVED, Tokenizer
from lacuna_ls.training.batches import Batch, Batches, BatchShape
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.holes import sample_hole

SHAPE = BatchShape(num_examples=6, num_encoder=160, num_canvases=3, num_canvas_rows=16, max_middle=30)


@pytest.fixture(scope="module")
def batches(small_corpus: Path) -> Batches:
    tokenizer_json = (small_corpus / "tokenizer.json").read_text("utf-8")
    return Batches(Corpus(small_corpus, "train"), tokenizer_json, SHAPE, sample_hole, seed=3)


@pytest.fixture(scope="module")
def batch(batches: Batches) -> Batch:
    return batches[0]


def ends_of(batch: Batch, b: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """(rows of the prompt, rows of prompt, middle and end token)."""
    row = batch.tokens[b, : SHAPE.num_encoder].tolist()
    num_prompt = row.index(tokenizer.mid) + 1
    return num_prompt, row.index(tokenizer.eos, num_prompt) + 1


def test_a_step_is_the_same_whenever_it_is_built(batches: Batches, batch: Batch) -> None:
    again, other = batches[0], batches[1]
    assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in Batch.__slots__)
    assert not torch.equal(batch.tokens, other.tokens)


def test_encoder_rows_are_causal_and_see_no_canvas(batch: Batch) -> None:
    n = SHAPE.num_encoder
    assert torch.equal(batch.mask[:, 0, :n, :n], torch.ones(n, n).tril().bool().expand(SHAPE.num_examples, n, n))
    assert not batch.mask[:, 0, :n, n:].any()


def test_a_canvas_sees_the_text_before_it_and_itself_only(batch: Batch, small_tokenizer: Tokenizer) -> None:
    n, C = SHAPE.num_encoder, SHAPE.num_canvas_rows
    for b in range(SHAPE.num_examples):
        num_prompt, _ = ends_of(batch, b, small_tokenizer)
        for r in range(SHAPE.num_canvases):
            rows = slice(n + r * C, n + (r + 1) * C)
            first = int(batch.positions[b, rows][0])
            seen = batch.mask[b, 0, rows]
            assert num_prompt <= first
            # nothing at or after its own first position: there stands what it must predict
            assert seen[:, :first].all()
            assert not seen[:, first:n].any()
            assert seen[:, rows].all()
            assert seen.sum(-1).tolist() == [first + C] * C
            assert batch.positions[b, rows].tolist() == list(range(first, first + C))


def test_targets_are_the_middle_then_end_tokens(batch: Batch, small_tokenizer: Tokenizer) -> None:
    n, C, eos = SHAPE.num_encoder, SHAPE.num_canvas_rows, small_tokenizer.eos
    for b in range(SHAPE.num_examples):
        _, num_text = ends_of(batch, b, small_tokenizer)
        text = batch.tokens[b, :num_text].tolist()
        assert batch.targets[b, : num_text - 1].tolist() == text[1:]
        for r in range(SHAPE.num_canvases):
            rows = slice(n + r * C, n + (r + 1) * C)
            first = int(batch.positions[b, rows][0])
            wanted = (text[first:] + [eos] * C)[:C]
            assert batch.targets[b, rows].tolist() == wanted


def test_noise_is_uniform_over_ordinary_tokens_and_pinned_rows_are_clean(batches: Batches) -> None:
    n = SHAPE.num_encoder
    num_pinned = num_noisy = 0
    for step in range(6):
        batch = batches[step]
        tokens, targets = batch.tokens[:, n:], batch.targets[:, n:]
        pinned, weights = batch.is_pinned[:, n:], batch.weights[:, n:]
        changed = tokens != targets
        assert not changed[pinned].any()
        assert (weights[pinned] == 0).all()
        assert (tokens[changed] >= NUM_RESERVED).all()
        num_pinned += int(pinned.sum())
        num_noisy += int(changed.sum())
        # the first canvas of every example is pure noise but for its pinned rows
        first = slice(0, SHAPE.num_canvas_rows)
        free = ~pinned[:, first]
        assert changed[:, first][free].float().mean() > 0.98
    assert num_pinned > 0
    assert num_noisy > 0


def test_weights_by_row_kind(batch: Batch, small_tokenizer: Tokenizer) -> None:
    for b in range(SHAPE.num_examples):
        num_prompt, num_text = ends_of(batch, b, small_tokenizer)
        weights = batch.weights[b, : SHAPE.num_encoder]
        assert (weights[num_prompt - 1 : num_text - 1] == 3.0).all()
        assert (weights[num_text - 1 :] == 0).all()
        # rows that would have to predict a marker teach nothing
        markers = batch.targets[b, : num_prompt - 1] < NUM_RESERVED
        assert (weights[: num_prompt - 1][markers] == 0).all()
        assert (weights[: num_prompt - 1][~markers] == 1.0).all()
