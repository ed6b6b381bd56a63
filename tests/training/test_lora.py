"""Factors beside a frozen model can be exchanged for others, whatever their rank."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training.lora import attach, factors, put
from lacuna_ls.training.train import SIZES, initialise


def test_factors_of_another_rank_are_put_in_and_taken_out(small_tokenizer: Tokenizer) -> None:
    config = SIZES["tiny"].config(small_tokenizer.vocab_size)
    torch.manual_seed(0)
    model = initialise(DiffusionGemma(config)).eval()
    attached = attach(model, 4)
    own = factors(attached)
    shapes = {name: (up.shape[0], down.shape[1]) for name, (up, down) in own.items()}
    others = {name: (torch.randn(n, 2), torch.randn(2, k)) for name, (n, k) in shapes.items()}
    name, low = next(iter(attached.items()))
    rows = torch.randn(3, shapes[name][1])
    before = low(rows)
    put(attached, others)
    up, down = others[name]
    torch.testing.assert_close(low(rows), before + rows @ down.T @ up.T)
    put(attached, own)
    torch.testing.assert_close(low(rows), before)
    # what is put in is a copy: training must not change an adapter that was read
    low.up.data.add_(1.0)
    assert not own[name][0].any()


def test_factors_that_do_not_fit_are_our_own_mistake(small_tokenizer: Tokenizer) -> None:
    model = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size)))
    attached = attach(model, 4)
    own = factors(attached)
    name = next(iter(own))
    with pytest.raises(ValueError, match="other weights"):
        put(attached, {each: pair for each, pair in own.items() if each != name})
    with pytest.raises(ValueError, match="takes"):
        put(attached, {**own, name: (torch.zeros(3, 2), torch.zeros(2, 3))})
