"""A frozen packed model is the plain model over the dequantised weights, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lacuna_ls.engine.checkpoint import save_folder
from lacuna_ls.engine.formats import EXACT, Scheme
from lacuna_ls.engine.frozen import FrozenLinear, load_frozen, product
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.packed import load_packed, quantize
from tiny_models import tiny_config, tiny_model

QUANTISED = Scheme(experts_group=32, dense_group=32, dtype=torch.float32)


def joint_of(model: DiffusionGemma, soft: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    B, T = 2, 14
    tokens = torch.randint(3, 97, (B, T), generator=generator)
    positions = torch.arange(T).expand(B, T)
    is_canvas = torch.arange(T) >= 9
    mask = torch.ones(T, T).tril().bool() | is_canvas[:, None]
    return model.joint(tokens, positions, is_canvas, mask.expand(B, 1, T, T), soft)[0]


@pytest.mark.parametrize("is_packed", [False, True], ids=["quantised while loading", "our packed folder"])
def test_forward_and_backward_are_the_dequantised_models(tmp_path: Path, is_packed: bool) -> None:
    source = tmp_path / "float"
    save_folder(tiny_model(tiny_config()), source)
    if is_packed:
        quantize(source, tmp_path / "packed", QUANTISED)
        source = tmp_path / "packed"
    frozen, truth = load_frozen(source, scheme=QUANTISED), load_packed(source, QUANTISED).dequantised()
    assert isinstance(frozen.layers[1].self_attn.o_proj, FrozenLinear)
    # full-attention layers have no value projection
    assert frozen.layers[1].self_attn.v_proj is None
    outs, grads = [], []
    for model in (frozen, truth):
        soft = torch.randn(2, 14, 48, generator=torch.Generator().manual_seed(6)).requires_grad_(True)
        out = joint_of(model, soft)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        outs.append(out.detach())
        grads.append(soft.grad)
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-3)
    assert float(grads[0].abs().max()) > 0


def test_a_product_keeps_no_weight() -> None:
    made = []
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))

    def dequantise(dtype: torch.dtype) -> torch.Tensor:
        made.append(dtype)
        return weight.to(dtype)

    x = torch.randn(3, 5, requires_grad=True)
    out = product(x, dequantise)
    out.backward(torch.ones_like(out))
    assert len(made) == 2
    torch.testing.assert_close(x.grad, torch.ones(3, 6) @ weight)


def test_a_stream_that_leaves_something_out_is_refused(tmp_path: Path) -> None:
    from lacuna_ls.engine.formats import stream
    from lacuna_ls.engine.frozen import frozen_model

    save_folder(tiny_model(tiny_config()), tmp_path)
    pieces = [piece for piece in stream(tmp_path, tiny_config(), EXACT) if piece[0].name != "norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight"):
        frozen_model(tiny_config(), pieces)
