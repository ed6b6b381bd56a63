"""Training examples: the same for the same step, no row sees what it must predict, and rows are weighed as stated."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_tokenizer import chat_backend
from lacuna_ls.infill.chat import ChatTokenizer, build_chat_prompt
from lacuna_ls.infill.healing import opening_for
from lacuna_ls.infill.layout import Limits
from lacuna_ls.infill.pose import Policy, prompt_for
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap
from lacuna_ls.infill.tokenizer import NUM_RESERVED, Tokenizer
from lacuna_ls.training.batches import Batch, Batches, BatchShape, LossWeights, corrupt, healed_piece, pose
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.drafts import edited, similar_middle
from lacuna_ls.training.holes import Hole, sample_hole

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
    for name in Batch.__slots__:
        torch.testing.assert_close(getattr(batch, name), getattr(again, name), rtol=0, atol=0)
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


def with_drafts(small_corpus: Path, share: float) -> Batches:
    texts, tokenizer_json = Corpus(small_corpus, "train"), (small_corpus / "tokenizer.json").read_text("utf-8")
    return Batches(texts, tokenizer_json, replace(SHAPE, draft_share=share), sample_hole, seed=3)


def test_second_canvases_start_from_drafts(small_corpus: Path, small_tokenizer: Tokenizer) -> None:
    """Near the clean text, and free: nothing tells the model which rows are right."""
    n, C = SHAPE.num_encoder, SHAPE.num_canvas_rows
    wrong: list[float] = []
    for share in (1.0, 0.0):
        num_wrong = num_rows = 0
        for step in range(4):
            batch = with_drafts(small_corpus, share)[step]
            rows = slice(n + C, n + 2 * C)
            tokens, targets, weights = batch.tokens[:, rows], batch.targets[:, rows], batch.weights[:, rows]
            is_text = targets != small_tokenizer.eos
            num_wrong += int((tokens != targets)[is_text].sum())
            num_rows += int(is_text.sum())
            if share:
                assert not batch.is_pinned[:, rows].any()
                # a draft stands for the whole middle: it begins where the prompt ends
                firsts = batch.positions[:, n + C].tolist()
                assert firsts == [ends_of(batch, b, small_tokenizer)[0] for b in range(len(tokens))]
                assert (weights[is_text] == torch.where(tokens == targets, 0.2, 1.0)[is_text]).all()
        wrong.append(num_wrong / num_rows)
    assert 0.02 < wrong[0] < 0.9
    assert wrong[0] != wrong[1]


def test_a_similar_line_is_the_draft() -> None:
    text = "def one(a):\n    first = a + 1\n    return first\n\n\ndef two(b):\n    first = b * 22\n    return first\n"
    start = text.index("b * 22")
    assert similar_middle(text, Hole(start, start + 6, "rest-of-line")) == "a + 1"
    assert similar_middle(text, Hole(start, start + 6, "node")) is None
    assert similar_middle("x = 1\n", Hole(4, 5, "rest-of-line")) is None


def test_an_edited_middle_is_near_it() -> None:
    noise = np.random.default_rng(0)
    for _ in range(200):
        draft = edited([7] * 10, noise, 20, 30)
        assert 7 <= len(draft) <= 13
        assert draft.count(7) >= 7
        assert all(token == 7 or 20 <= token < 30 for token in draft)


def test_noise_is_uniform_over_ordinary_tokens_and_pinned_rows_are_clean(small_corpus: Path) -> None:
    batches = with_drafts(small_corpus, 0.0)
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


def test_an_instruct_model_learns_from_what_it_is_asked_in_service() -> None:
    tokenizer = ChatTokenizer(chat_backend())
    text = "".join(f"def read_{i}(path):\n    return open(path).read()\n\n\n" for i in range(40))
    start = text.index("open", len(text) // 2)
    hole = Hole(start, text.index("\n", start), "rest-of-line")
    middle = text[hole.start : hole.end]
    shape = replace(SHAPE, num_encoder=1400, num_canvas_rows=24)
    for seed in range(8):
        posed = pose(tokenizer, text, hole, random.Random(seed), shape)
        assert posed is not None
        prompt, answer = posed.encoder[: posed.num_prompt], posed.encoder[posed.num_prompt :]
        # the budgets are pose's to choose; the question, the turns and the open code block are the server's
        suffix = text[hole.end :] if "After the gap:\n```\n\n```" not in tokenizer.decode(prompt) else ""
        limits = (Limits(576, num_suffix, 0) for num_suffix in (109, 192))
        served = [build_chat_prompt(tokenizer, text[:start], suffix, limits=each).tokens for each in limits]
        assert tuple(prompt) in served
        assert answer == [*tokenizer.encode(f"{middle}\n```"), tokenizer.eos]
        assert tokenizer.answer(answer[:-1]) == middle
        example = corrupt(posed, tokenizer, np.random.default_rng(seed), shape, LossWeights())
        rows = answer[: shape.num_canvas_rows]
        assert example.canvas_targets[0].tolist() == [*rows, *[tokenizer.pad] * (shape.num_canvas_rows - len(rows))]
    # where the turns leave less room, the prefix gives way; where there is none, there is no example
    short = pose(tokenizer, text, hole, random.Random(0), replace(shape, num_encoder=740))
    assert short is not None
    assert len(short.encoder) <= 740 < len(posed.encoder)
    assert tokenizer.decode(short.encoder).count("return open") > 1
    assert pose(tokenizer, text, hole, random.Random(0), replace(shape, num_encoder=300)) is None


class _Draws(random.Random):
    """What pose() draws, chosen: a suffix of the usual length, a header or none, noise instead of a draft or not."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self._draws = list(draws)

    def random(self) -> float:
        return self._draws.pop(0) if self._draws else 0.99

    def choice(self, seq):  # type: ignore[no-untyped-def, override]
        return seq[-1]


def holes_of(corpus: Path, num_texts: int, seed: int) -> list[tuple[str, Hole]]:
    texts, rng = Corpus(corpus, "train"), random.Random(seed)
    found = []
    for i in range(num_texts):
        text = texts.text(i % len(texts))
        hole = sample_hole(text, rng)
        found += [(text, hole)] if hole is not None else []
    return found


@pytest.mark.parametrize("has_header", [False, True], ids=["the window alone", "with the file's imports"])
def test_what_is_trained_on_is_what_serving_asks(
    has_header: bool, small_corpus: Path, small_tokenizer: Tokenizer
) -> None:
    """Prompts are equal to the token, and the middle begins in a way that serving allows."""
    shape = replace(SHAPE, num_encoder=1000, max_middle=200)
    num_healed = num_far = 0
    # other holes every time; a failure shows which
    seed = random.SystemRandom().randrange(2**32)
    for text, hole in holes_of(small_corpus, 400, seed):
        is_far = hole.start > 6 * Limits().num_prefix
        posed = pose(small_tokenizer, text, hole, _Draws(0.9, 0.1 if has_header else 0.9), shape)
        if posed is None or (is_far and not has_header):
            continue
        snapshot = Snapshot(text[: hole.start] + text[hole.end :])
        served = prompt_for(small_tokenizer, snapshot, Gap(hole.start, hole.start, "rest"), Policy())
        prompt, middle = posed.encoder[: posed.num_prompt], posed.encoder[posed.num_prompt :]
        assert tuple(prompt) == served.tokens, seed
        typed = healed_piece(small_tokenizer, text[: hole.start])
        assert typed == served.typed, seed
        assert small_tokenizer.decode(middle) == typed + text[hole.start : hole.end], seed
        opening = opening_for(small_tokenizer, typed)
        state = 0
        for token in middle:
            if state == len(opening):
                break
            state = dict(opening[state])[token]
        assert state == len(opening), seed
        num_healed += bool(typed)
        num_far += is_far
    assert num_healed >= 5
    assert num_far >= 10 * has_header


def test_the_tokens_before_a_healed_piece_stay_the_same(small_corpus: Path, small_tokenizer: Tokenizer) -> None:
    num_healed = 0
    for text, hole in holes_of(small_corpus, 200, 5):
        prefix = text[: hole.start]
        typed = healed_piece(small_tokenizer, prefix)
        if not typed:
            continue
        num_healed += 1
        before = small_tokenizer.encode(prefix.removesuffix(typed))
        assert small_tokenizer.encode(prefix)[: len(before)] == before
        # and the whole, as the file will stand there, is the same tokens cut in two
        whole = small_tokenizer.encode(text[: hole.end])
        assert [*before, *small_tokenizer.encode(typed + text[hole.start : hole.end])] == whole
    assert num_healed >= 20


def test_a_draft_begins_with_the_healed_piece(small_tokenizer: Tokenizer) -> None:
    text = "def one(a):\n    first = a + 1\n    return first\n\n\ndef two(b):\n    first = b * 22\n    return first\n"
    start = text.rindex("irst = b")
    hole = Hole(start, text.index("\n", start), "rest-of-line")
    posed = pose(small_tokenizer, text, hole, _Draws(0.9, 0.9, 0.1, 0.1, 0.1), SHAPE)
    assert posed is not None
    assert posed.draft is not None
    typed = healed_piece(small_tokenizer, text[:start])
    assert typed == "f"
    assert small_tokenizer.decode(posed.draft) == "first = a + 1"
    # where no line is alike there is no draft, and corrupt() edits the middle, its piece included
    node = pose(small_tokenizer, text, replace(hole, kind="node"), _Draws(0.9, 0.9, 0.1, 0.1, 0.1), SHAPE)
    assert node is not None
    assert node.draft == []


def test_a_chat_is_not_healed() -> None:
    tokenizer = ChatTokenizer(chat_backend())
    assert healed_piece(tokenizer, "value = conf") == ""
