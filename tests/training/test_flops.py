"""The formula against a count of every product that a step makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training.batches import Batches, BatchShape
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.flops import layer_parameters, step_flops
from lacuna_ls.training.holes import sample_hole
from lacuna_ls.training.objective import believe, encoder_only, losses, soft_of
from lacuna_ls.training.train import SIZES, initialise
from torch.utils.flop_counter import FlopCounterMode

SHAPE = BatchShape(num_examples=3, num_encoder=128, num_canvases=2, num_canvas_rows=16, max_middle=24)


@pytest.mark.parametrize(
    ("is_joint", "is_conditioned"),
    [
        pytest.param(False, False, id="the first phase has no canvases"),
        pytest.param(True, False, id="both kinds of rows"),
        pytest.param(True, True, id="self-conditioning is a forward more"),
    ],
)
def test_a_step_is_as_much_work_as_is_counted(
    is_joint: bool, is_conditioned: bool, small_corpus: Path, small_tokenizer: Tokenizer
) -> None:
    batch = Batches(Corpus(small_corpus), small_tokenizer.to_json(), SHAPE, sample_hole)[0]
    batch = batch if is_joint else encoder_only(batch)
    # every expert is chosen: with few of them the trainer multiplies with all, chosen or not
    size = SIZES["tiny"]
    config = replace(size, top_k=size.num_experts).config(small_tokenizer.vocab_size)
    model = initialise(DiffusionGemma(config))
    # its bookkeeping is no product
    with FlopCounterMode(display=False) as counter:
        soft = soft_of(model, batch, believe(model, batch) if is_conditioned else None) if is_joint else None
        losses(model, batch, soft, 1.0).total.backward()
    B, T = batch.tokens.shape
    num_canvas = T - batch.num_encoder
    formula = step_flops(config, B, batch.num_encoder, num_canvas, is_conditioned)
    # the trainer also self-conditions encoder rows, and throws the result away: work, but not the model's
    waste = 6 * config.hidden_size * config.intermediate_size * B * batch.num_encoder * (4 if is_conditioned else 3)
    assert counter.get_total_flops() == formula + (waste if is_joint else 0)


def test_of_the_experts_only_the_chosen_count() -> None:
    sizes = [replace(SIZES["tiny"], top_k=k) for k in (1, 2)]
    one, two = (layer_parameters(size.config(300)) for size in sizes)
    assert two - one == sizes[0].num_layers * 3 * sizes[0].hidden_size * sizes[0].expert_width
    model = DiffusionGemma(replace(SIZES["tiny"], top_k=4).config(300))
    matrices = sum(p.numel() for name, p in model.layers.named_parameters() if p.dim() >= 2)
    assert layer_parameters(model.config) == matrices


def test_work_grows_with_examples_and_more_than_with_rows() -> None:
    config = SIZES["tiny"].config(300)
    assert step_flops(config, 6, 128, 32) == 2 * step_flops(config, 3, 128, 32)
    assert step_flops(config, 3, 256) > 2 * step_flops(config, 3, 128)
    assert torch.finfo(torch.float64).max > step_flops(SIZES["gpu"].config(6144), 256, 288, 128) > 10**12
