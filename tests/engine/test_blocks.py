"""Fills longer than one canvas: block by block, with the reference's random numbers the reference's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.blocks import BlockResult, denoise_blocks, split
from lacuna_ls.engine.denoise import denoise
from lacuna_ls.engine.draws import PhiloxDraws
from lacuna_ls.engine.formats import EXACT
from lacuna_ls.engine.local import _Bound
from lacuna_ls.engine.packed import load_packed
from lacuna_ls.engine.packed_engine import PackedEngine
from lacuna_ls.engine.pipeline import StepOptions
from lacuna_ls.engine.policies import (
    EntropyBound,
    SamplingPolicy,
    StableAndConfident,
    TemperatureSchedule,
    answer_region,
)
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from random_models import encode, ours, random_model, reference


def by_plain_loop(model, cache, canvas, policy, max_steps, ends, next_draws, generator=None):
    """denoise_blocks over the plain loop. next_draws: a Draws per block, or None."""

    def denoise_block(block: Canvas) -> BlockResult:
        out = denoise(
            _Bound(model, cache), [block], policy, max_steps, generator or torch.Generator(), ends, draws=next_draws()
        )
        tokens = out.tokens[0].tolist()
        num_region = int(answer_region(out.tokens, ends).sum())
        return BlockResult(
            tuple(tokens), tuple(out.entropy[0].tolist()), tuple(out.logprob[0].tolist()), num_region,
            tokens[num_region - 1] in ends, int(out.steps[0]), out.num_forwards, bool(out.finished[0]),
            out.is_cancelled,
        )  # fmt: skip

    def commit(tokens: tuple[int, ...]) -> None:
        model.encode(torch.tensor(tokens), cache)

    return denoise_blocks(canvas, model.config.canvas_length, denoise_block, commit, model.config.pad_id)


@pytest.mark.parametrize(
    ("seed", "eos", "why"),
    [
        pytest.param(3, 96, "no end", id="all four blocks"),
        pytest.param(3, None, "an end", id="an end token in a later block: the rest becomes padding"),
    ],
)
def test_blocks_are_the_references_tokens(hf, monkeypatch: pytest.MonkeyPatch, seed: int, eos: int | None, why: str):
    # generate marks a step of a CUDA graph that is not there, and imports a compiler to do so
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    # layers that say little: a random model is chaotic otherwise (test_trajectory.py)
    truth = reference(seed, canvas_length=8, sharpness=0.5, reach=0.05)
    model = ours(truth)
    prompt = torch.randint(4, 97, (11,), generator=torch.Generator().manual_seed(seed))
    policy = SamplingPolicy(
        stop=StableAndConfident(1, 0.5), accept=EntropyBound(0.5), temperature=TemperatureSchedule(0.8, 0.4)
    )

    def generate(eos_id: int) -> list[int]:
        torch.manual_seed(7)
        out = truth.generate(
            prompt[None], max_new_tokens=32, max_denoising_steps=6, stability_threshold=1, confidence_threshold=0.5,
            sampler_config=hf.models.diffusion_gemma.generation_diffusion_gemma.EntropyBoundSamplerConfig(entropy_bound=0.5),
            t_min=0.4, t_max=0.8, eos_token_id=eos_id, pad_token_id=0,
        )  # fmt: skip
        return out.sequences[0, len(prompt) :].tolist()

    if eos is None:
        # a token that the answer has in its second block
        eos = generate(96)[12]
    wanted = generate(eos)
    cache, _ = encode(model, prompt)
    generator = torch.Generator().manual_seed(7)
    found = by_plain_loop(model, cache, Canvas.free(32), policy, 6, frozenset((eos,)), lambda: None, generator)
    # the reference stops where its canvases stop; ours fills up with the padding that it would write
    assert list(found.tokens[: len(wanted)]) == wanted
    assert set(found.tokens[len(wanted) :]) <= {0}
    assert found.has_end == (why == "an end")
    assert cache.length == len(prompt) + 8 * (len(wanted) // 8 - 1)


def test_split_keeps_rows_and_pins():
    canvas = Canvas((*range(5, 14), -1), (True,) * 9 + (False,))
    pieces = split(canvas, 4)
    assert [len(piece.tokens) for piece in pieces] == [4, 4, 2]
    assert sum((piece.tokens for piece in pieces), ()) == canvas.tokens
    assert sum((piece.pinned for piece in pieces), ()) == canvas.pinned


@pytest.mark.parametrize(
    ("num_rows", "pinned_last"),
    [
        pytest.param(24, False, id="three whole blocks"),
        pytest.param(19, True, id="a short last block with a pinned suffix"),
    ],
)
def test_engine_fills_long_canvases_as_the_plain_loop_does(tmp_path: Path, num_rows: int, pinned_last: bool):
    config = tiny.tiny_config(vocab_size=16, eos_ids=(15,))
    model = random_model(config, seed=2, sharpness=0.12, reach=0.1)
    packed = load_packed(tiny.save_shards(model, tmp_path), EXACT)
    policy = SamplingPolicy(stop=StableAndConfident(1, 0.5), accept=EntropyBound(0.5))
    engine = PackedEngine(packed, policy, kv_tokens=512, options=StepOptions(num_top=16))
    canvas = Canvas.free(num_rows)
    if pinned_last:
        canvas = Canvas((*canvas.tokens[:-2], 3, 4), (False,) * (num_rows - 2) + (True, True))
    prompt = tuple(range(2, 14))
    (found,) = engine.fill(CanvasProblem(prompt, (canvas,), max_steps=5, seed=40))
    cache, _ = encode(model, prompt)
    streams = iter(PhiloxDraws(40 + i, 0, 16, model.device) for i in range(9))
    wanted = by_plain_loop(model, cache, canvas, policy, 5, frozenset((15,)), lambda: next(streams))
    assert found.tokens == wanted.tokens
    assert found.entropy == pytest.approx(wanted.entropy, abs=1e-3)
    assert found.end == (wanted.num_region - 1 if wanted.has_end else wanted.num_region)
    assert found.timings.num_forwards >= wanted.num_forwards
    # what was committed is gone, and the prompt is still there for the next fill
    again = engine.fill(CanvasProblem(prompt, (canvas,), max_steps=5, seed=40))[0]
    assert again.tokens == found.tokens
    assert again.timings.num_cached == len(prompt)


def test_a_cancel_ends_the_long_fill(tmp_path: Path):
    config = tiny.tiny_config(vocab_size=16, eos_ids=(15,))
    packed = load_packed(tiny.save_shards(random_model(config, sharpness=0.8, reach=0.05), tmp_path), EXACT)
    engine = PackedEngine(packed, SamplingPolicy(), kv_tokens=512)
    calls = iter((False, False, True))
    (found,) = engine.fill(CanvasProblem((2, 3), (Canvas.free(40),), max_steps=3), lambda: next(calls))
    assert found.is_cancelled
    assert not found.is_finished
    assert len(found.tokens) == 40


@pytest.mark.parametrize("num_canvases", [1, 3])
def test_a_deadline_ends_the_long_fill(tmp_path: Path, num_canvases: int):
    config = tiny.tiny_config(vocab_size=16, eos_ids=(15,))
    packed = load_packed(tiny.save_shards(random_model(config, sharpness=0.8, reach=0.05), tmp_path), EXACT)
    # never sure enough to stop, and no end token that would
    engine = PackedEngine(packed, SamplingPolicy(stop=StableAndConfident(1, 0.0)), kv_tokens=512)
    canvases = (Canvas.free(40),) * num_canvases
    found = engine.fill(CanvasProblem((2, 3), canvases, max_steps=3, deadline_ms=0.0, banned=(15,)))
    assert [len(each.tokens) for each in found] == [40] * num_canvases
    assert not any(each.is_finished or each.is_cancelled for each in found)
    # one step of the first block, and nothing of the others
    assert [each.steps for each in found] == [1] + [0] * (num_canvases - 1)


def test_what_a_block_commits_rides_along_in_the_next_ones_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny.tiny_config(vocab_size=16, eos_ids=(15,))
    packed = load_packed(tiny.save_shards(random_model(config, sharpness=0.8, reach=0.05), tmp_path), EXACT)
    engine = PackedEngine(packed, SamplingPolicy(), kv_tokens=512)
    forwards: list[tuple[int, int]] = []
    rows = packed.rows
    monkeypatch.setattr(
        packed, "rows", lambda tokens, plan, *rest: forwards.append((plan.num_causal, len(tokens))) or rows(
            tokens, plan, *rest
        )
    )  # fmt: skip
    engine.fill(CanvasProblem((2, 3), (Canvas.free(24),), max_steps=2, banned=(15,)))
    # no forward of prompt rows alone: every one has the canvas's eight rows behind them
    assert all(total - causal == 8 for causal, total in forwards)
    assert [causal for causal, _ in forwards if causal] == [16, 16, 16]
