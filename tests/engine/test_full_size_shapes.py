"""The full-size engine at its true sizes, with neither a GPU nor memory: all shapes fit, and no tensor of the host gets
among the card's (tests/support/full_size.py). What comes out is nothing; that it is right, tiny models show.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
import torch
from lacuna_ls.engine.formats import Scheme
from lacuna_ls.engine.packed_engine import FULL_SIZE_POLICY, PackedEngine
from lacuna_ls.engine.packed_model import PackedModel
from lacuna_ls.engine.pipeline import Pipeline, StepOptions
from lacuna_ls.engine.policies import RegionEntropySum, SamplingPolicy
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem
from lacuna_ls.engine.slots import SlotPool

full_size = pytest.importorskip("full_size", reason="Triton has no build for this system")
if TYPE_CHECKING:
    from full_size import Launch

META = torch.device("meta")
ARGMAX = SamplingPolicy(stop=RegionEntropySum(1.0), choose="argmax")

WARM = Canvas((3, NOISE, 7, NOISE, 5), (False, False, False, False, True))
KERNELS = {
    "rms_norm_kernel", "soft_embedding_kernel", "packed_product", "gated_gelu_kernel", "qkv_kernel", "attention_kernel",
    "merge_kernel", "attention_glue_kernel", "router_logits_kernel", "router_choose_kernel", "route_kernel",
    "mlp_glue_kernel", "vocab_tile_kernel", "vocab_merge_kernel",
}  # fmt: skip
"""What a step on a GPU is made of."""


@pytest.fixture
def launches(request: pytest.FixtureRequest) -> Generator[list[Launch]]:
    """A card's, while a test runs; an H200's unless the test says which."""
    with full_size.sizes_of_a_card(getattr(request, "param", 90)) as launches:
        yield launches


@pytest.mark.parametrize(
    ("launches", "policy", "num_top"),
    [
        pytest.param(90, FULL_SIZE_POLICY, 8, id="as served, on an H200"),
        pytest.param(89, FULL_SIZE_POLICY, 8, id="as served, on an RTX 4090"),
        pytest.param(90, SamplingPolicy(), 16, id="the reference's stop"),
        pytest.param(89, ARGMAX, 0, id="argmax, dense self-conditioning"),
    ],
    indirect=["launches"],
)
def test_requests_of_every_kind_fit(launches: list[Launch], policy: SamplingPolicy, num_top: int):
    engine = PackedEngine(full_size.released_model(), policy, options=StepOptions(num_top=num_top))
    engine.warm_up()
    prompt = tuple(range(700))

    def fill(*canvases: Canvas, prompt: tuple[int, ...] = prompt, **more) -> list[int]:
        return [len(result.tokens) for result in engine.fill(CanvasProblem(prompt, canvases, **more))]

    # read in chunks, the rest in the first step
    assert fill(Canvas.free(9), WARM, banned=(4, 5), stop=(107,)) == [9, 5]
    # a whole canvas behind a few keys, and in the middle of the text
    assert fill(Canvas.free(256), prompt=(*prompt, 8, 9), max_steps=80) == [256]
    assert fill(Canvas.free(100), prompt=(*prompt[:350], 8, *prompt[350:])) == [100]
    # more end tokens than usual, nothing new to read, several canvases
    assert fill(*[Canvas.free(32)] * 8, prompt=(*prompt[:350], 8, *prompt[350:]), stop=tuple(range(100))) == [32] * 8
    # block by block, and other documents until one has to make room
    assert fill(Canvas.free(300)) == [300]
    for first in range(10, 15):
        assert engine.prefill(tuple(range(first, 2000 + first))).num_prefilled == 2000
    engine.shrink(1024)
    assert fill(Canvas.free(33)) == [33]
    engine.close()
    names = {launch.kernel.__name__ for launch in launches}
    assert names >= (KERNELS if num_top else KERNELS - {"soft_embedding_kernel"})


@pytest.mark.parametrize(("experts", "dense"), [("int4", "int8"), ("int8", "bf16"), ("fp8", "int4"), ("bf16", "fp8")])
def test_every_format_fits(launches: list[Launch], experts: str, dense: str):
    """Every number of rows, with what each operation is given looked at by its truth."""
    with full_size.beside_truths():
        full_size.run_every_size(full_size.released_model(Scheme(experts=experts, dense=dense), is_whole=False))
    products = [launch for launch in launches if launch.kernel.__name__ == "packed_product"]
    assert len({launch.args[1].dtype for launch in products}) == 2


@torch.inference_mode()
def test_causal_forwards_fit(launches: list[Launch]):
    model = full_size.released_model()
    slot = SlotPool(model.config, META, model.dtype, 4096).take(tuple(range(40)), 512)
    hidden, V = model.config.hidden_size, model.config.vocab_size
    steps = Pipeline(model, FULL_SIZE_POLICY)
    assert steps.encode(tuple(range(40)), slot, only_last=True).shape == (1, hidden)
    # more than any bucket holds
    assert steps.encode(tuple(range(300)), slot).shape == (300, hidden)
    assert slot.length == 340
    tokens = torch.zeros(2, 5, dtype=torch.long, device=META)
    branch = model.branch(tokens, slot)
    assert branch.shape == (2, 5, hidden)
    assert model.logits(branch).shape == (2, 5, V)
    soft = model.soft_embedding(model.logits(branch))
    assert model.decode(tokens, slot, soft, torch.tensor([3, 5])).shape == (2, 5, hidden)
    assert launches


@torch.inference_mode()
def test_a_tensor_of_the_host_is_noticed(launches: list[Launch]):
    model: PackedModel = full_size.released_model(is_whole=False)
    slot = SlotPool(model.config, META, model.dtype, 1024).take((1,), 512)
    sweep, step = Pipeline(model, FULL_SIZE_POLICY).prepare(slot, 1, 9)
    step.replay()
    row_ids, noise = sweep.rows, sweep.noise
    # to torch
    sweep.noise = torch.zeros(noise.shape, dtype=torch.long)
    with pytest.raises(AssertionError, match="cpu"):
        step.replay()
    sweep.noise = noise
    # to a kernel
    sweep.rows = torch.zeros(row_ids.shape, dtype=torch.long)
    with pytest.raises(AssertionError, match="tensor of the host"):
        step.replay()
    sweep.rows = row_ids
    step.replay()
