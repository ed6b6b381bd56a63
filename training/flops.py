"""How much work a training step is, from the shapes alone: the model's FLOPs, not what a machine did beyond them.

Knows no batch contents, no optimiser and no clock.
Source: 6 FLOPs per parameter and token plus the attention's products, as in Chowdhery et al., "PaLM" (arXiv
2204.02311), appendix B; here the table counts once, as the output product, and only chosen experts count.
"""

from __future__ import annotations

from ..engine.config import ModelConfig


def layer_parameters(config: ModelConfig) -> int:
    """Matrix entries that a row is multiplied with in all layers: of a layer's experts only as many as are chosen."""
    H = config.hidden_size
    dense = 3 * H * config.intermediate_size + H * config.num_experts + config.top_k * 3 * H * config.expert_size
    attention = sum(
        H * spec.head_dim * (2 * config.num_heads + (2 if spec.has_value_proj else 1) * spec.num_kv_heads)
        for spec in config.layers
    )
    return attention + len(config.layers) * dense


def step_flops(
    config: ModelConfig, num_examples: int, num_encoder: int, num_canvas: int = 0, is_conditioned: bool = False
) -> int:
    """FLOPs of one forward and backward. num_encoder, num_canvas: rows of an example, padding included.

    With R = num_examples * T rows, T = num_encoder + num_canvas, and C = num_examples * num_canvas rows of canvases:

        body  = 2 * layer_parameters * R  +  4 * (heads * head size, summed over layers) * T * R
        table = 2 * vocabulary * hidden size, a row
        soft  = 2 * 3 * hidden size * dense width * C          (self-conditioning reads canvas rows only)
        step  = 3 * (body + table * R + soft)                  (a backward is two forwards)
              + body + soft + 2 * table * C, where is_conditioned: the first pass of self-conditioning, forward only

    Attention counts the whole square T * T, as the masked product computes it. Norms, rotations, activations, the
    optimisers (Muon's Newton-Schulz steps) and the evaluation are left out.
    """
    T = num_encoder + num_canvas
    rows, canvas_rows = num_examples * T, num_examples * num_canvas
    width = sum(config.num_heads * spec.head_dim for spec in config.layers)
    body = 2 * layer_parameters(config) * rows + 4 * width * T * rows
    table = 2 * config.vocab_size * config.hidden_size
    soft = 6 * config.hidden_size * config.intermediate_size * canvas_rows
    first_pass = body + soft + 2 * table * canvas_rows if is_conditioned else 0
    return 3 * (body + table * rows + soft) + first_pass
