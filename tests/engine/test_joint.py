"""Training's one forward beside the two that serve: encoder rows and canvas rows under a mask give the same states."""

from __future__ import annotations

import torch
from random_models import CONFIG, encode, random_model
from torch import Tensor


def layout(num_prompt: int, rows: int, num_padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """(positions [1, T], is_canvas [T], mask [1, 1, T, T]) of a prompt, its canvas, and rows that nobody looks at."""
    T = num_prompt + rows + num_padding
    is_canvas = torch.zeros(T, dtype=torch.bool)
    is_canvas[num_prompt : num_prompt + rows] = True
    mask = torch.zeros(T, T, dtype=torch.bool)
    mask[:num_prompt, :num_prompt] = torch.ones(num_prompt, num_prompt, dtype=torch.bool).tril()
    mask[num_prompt : num_prompt + rows, : num_prompt + rows] = True
    return torch.arange(T)[None], is_canvas, mask[None, None]


def test_one_forward_equals_encode_and_decode():
    model = random_model(seed=5)
    # shorter than the window: windows are the mask's business, and this mask has none
    num_prompt, rows = CONFIG.layers[0].window - 1, 6
    tokens = torch.randint(0, CONFIG.vocab_size, (1, num_prompt + rows + 2), generator=torch.Generator().manual_seed(2))
    soft = torch.randn(1, tokens.shape[1], CONFIG.hidden_size, generator=torch.Generator().manual_seed(3))
    positions, is_canvas, mask = layout(num_prompt, rows, 2)
    cache, encoded = encode(model, tokens[0, :num_prompt])
    for belief in (None, soft):
        hidden, probabilities = model.joint(tokens, positions, is_canvas, mask, belief)
        canvas = tokens[:, num_prompt : num_prompt + rows]
        part = None if belief is None else belief[:, num_prompt : num_prompt + rows]
        decoded = model.decode(canvas, cache, part)
        assert torch.allclose(hidden[0, :num_prompt], encoded, atol=1e-4)
        assert torch.allclose(hidden[:, num_prompt : num_prompt + rows], decoded, atol=1e-4)
        # a row that sees nothing must not spoil a batch
        assert bool(hidden.isfinite().all())
        assert probabilities.shape == (len(CONFIG.layers), tokens.shape[1], CONFIG.num_experts)
        assert torch.allclose(probabilities.sum(-1), torch.ones(()), atol=1e-5)


def test_every_weight_gets_a_gradient():
    model = random_model(seed=5).requires_grad_(True)
    tokens = torch.randint(0, CONFIG.vocab_size, (1, 17), generator=torch.Generator().manual_seed(2))
    positions, is_canvas, mask = layout(9, 8, 0)
    hidden, probabilities = model.joint(tokens, positions, is_canvas, mask, torch.ones(1, 17, CONFIG.hidden_size))
    (model.logits(hidden).square().mean() + probabilities[:, :, 0].sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []
