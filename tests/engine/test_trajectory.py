"""Whole denoises beside transformers' `generate`: the same random numbers give the same canvas at every step.

A random model whose layers say much is chaotic: through self-conditioning a rounding difference grows tenfold a step,
and after eight steps two builds of one program would differ. So the layers here say little (`reach`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lacuna_ls.engine.denoise import denoise
from lacuna_ls.engine.local import _Bound
from lacuna_ls.engine.policies import EntropyBound, SamplingPolicy, StableAndConfident, TemperatureSchedule
from lacuna_ls.engine.problem import Canvas
from random_models import encode, ours, reference, run_denoise

pytestmark = pytest.mark.usefixtures("hf")


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch):
    # generate marks a step of a CUDA graph that is not there, and imports a compiler to do so
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)


class Drafts:
    """transformers' streamer interface: keeps the argmax canvas of every step."""

    def __init__(self) -> None:
        self.canvases: list[torch.Tensor] = []

    def put(self, value: torch.Tensor) -> None:
        pass

    def put_draft(self, value: torch.Tensor) -> None:
        self.canvases.append(value)

    def end(self) -> None:
        pass


def generate(truth: Any, prompt: torch.Tensor, num_canvases: int, seed: int, max_steps: int, **options: Any):
    """(argmax canvases, canvases shown to the decoder) of each step, [B, L]."""
    shown: list[torch.Tensor] = []
    forward = type(truth).forward

    def recording(*args: Any, **kwargs: Any) -> Any:
        shown.append(kwargs["decoder_input_ids"].clone())
        return forward(truth, *args, **kwargs)

    drafts = Drafts()
    torch.manual_seed(seed)
    truth.forward = recording
    try:
        truth.generate(
            prompt[None].expand(num_canvases, -1), streamer=drafts, max_new_tokens=truth.config.canvas_length,
            max_denoising_steps=max_steps, **options,
        )  # fmt: skip
    finally:
        del truth.forward
    return drafts.canvases, shown


def by_steps(
    model: Any, prompt: torch.Tensor, rows: int, num_canvases: int, seed: int, max_steps: int, policy: SamplingPolicy
):
    canvases = [Canvas.free(rows)] * num_canvases
    return run_denoise(model, prompt.tolist(), canvases, policy, seed=seed, max_steps=max_steps)


@pytest.mark.parametrize(
    ("sharpness", "reach", "rows", "num_canvases", "max_steps", "stops"),
    [
        # few rows are certain: all steps run, mostly one row is accepted in each
        (0.15, 0.3, 8, 1, 10, False),
        # the reference's number of steps on a canvas longer than the window: step by step it becomes certain
        (0.2, 0.3, 24, 1, 48, True),
        # several rows are accepted at once, others renoised; two canvases draw from one stream
        (0.3, 0.3, 16, 2, 5, False),
        # certain and stable almost at once
        (3.0, 0.01, 8, 1, 48, True),
        # each canvas stops on its own
        (0.3, 0.2, 4, 6, 48, True),
    ],
)
def test_same_numbers_same_canvases(
    sharpness: float, reach: float, rows: int, num_canvases: int, max_steps: int, stops: bool
):
    truth = reference(seed=rows, canvas_length=rows, sharpness=sharpness, reach=reach)
    model = ours(truth)
    prompt = torch.randint(3, 97, (20,), generator=torch.Generator().manual_seed(1))
    drafts, shown = generate(truth, prompt, num_canvases, 77, max_steps)
    out, recorder = by_steps(model, prompt, rows, num_canvases, 77, max_steps, SamplingPolicy())
    assert out.num_forwards == len(drafts) == len(shown)
    assert torch.equal(out.tokens, drafts[-1])
    for step, (ours_shown, theirs_shown) in enumerate(zip(recorder.canvases, shown, strict=True)):
        # a canvas that stopped is shown on and on, and what it is shown counts for nothing
        running = out.steps > step
        assert torch.equal(ours_shown[running], theirs_shown[running]), f"step {step}"
    if num_canvases > 2:
        assert len(set(out.steps.tolist())) > 1
    assert bool(out.finished.all()) == stops
    if stops:
        assert len(drafts) < max_steps
    else:
        assert len(drafts) == max_steps


@pytest.mark.parametrize(
    ("bound", "t_min", "t_max", "stability", "confidence"),
    [
        # everything is accepted at once
        (1e9, 0.4, 0.8, 1, 0.005),
        # cold and hot ends swapped for others
        (0.5, 0.1, 1.3, 1, 0.005),
        # three equal canvases in a row before it may stop
        (2.0, 0.2, 0.3, 3, 5.0),
        # no stability asked for
        (2.0, 0.2, 0.3, 0, 5.0),
        # a stability longer than any history that one would think to keep
        (1e9, 0.01, 0.02, 7, 5.0),
    ],
)
def test_every_number_of_the_policy_means_what_transformers_means(
    bound: float, t_min: float, t_max: float, stability: int, confidence: float
):
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    truth = reference(seed=3, canvas_length=6, sharpness=0.7, reach=0.2)
    model = ours(truth)
    prompt = torch.arange(5, 30)
    drafts, shown = generate(
        truth, prompt, 2, 5, 20, sampler_config=EntropyBoundSamplerConfig(bound), t_min=t_min, t_max=t_max,
        stability_threshold=stability, confidence_threshold=confidence,
    )  # fmt: skip
    policy = SamplingPolicy(
        TemperatureSchedule(t_max, t_min), EntropyBound(bound), StableAndConfident(stability, confidence)
    )
    out, recorder = by_steps(model, prompt, 6, 2, 5, 20, policy)
    assert torch.equal(out.tokens, drafts[-1])
    assert out.num_forwards == len(shown)
    assert torch.equal(recorder.canvases[0], shown[0])


def test_the_next_block_continues_where_transformers_does():
    """Two blocks: the first answer is encoded, and the second canvas stands behind it."""
    truth = reference(seed=9, canvas_length=8, sharpness=0.6)
    model = ours(truth)
    prompt = torch.arange(4, 25)
    torch.manual_seed(3)
    sequences = truth.generate(
        prompt[None], max_new_tokens=16, max_denoising_steps=5, eos_token_id=None, pad_token_id=None
    ).sequences[0]
    generator = torch.Generator().manual_seed(3)
    cache, _ = encode(model, prompt)
    answer: list[int] = []
    for _ in range(2):
        out = denoise(_Bound(model, cache), [Canvas.free(8)], SamplingPolicy(), 5, generator, frozenset())
        answer += out.tokens[0].tolist()
        model.encode(out.tokens[0], cache)
    assert sequences.tolist() == [*prompt.tolist(), *answer]
