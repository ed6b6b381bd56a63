"""The DiffusionGemma text model in PyTorch: one stack of layers that is a causal encoder or a bidirectional decoder.

The layers are the same weights either way; what differs is who attends to whom, so attention is a policy that the
caller passes in: `encode` appends to a KV cache and looks back, `branch` looks back without appending, `decode` lets
canvas rows see the cache and each other and leaves the cache alone, `joint` (training) runs both kinds of rows in one
forward under a mask. Knows no sampler and no text.

Source: transformers 5.23.0, models/diffusion_gemma/modeling_diffusion_gemma.py. Parameter names are its names without
the prefix `model.decoder.`; the encoder's own layer scalars are `layers.N.encoder_layer_scalar` here.
Shapes: B canvases, L rows, T tokens, H hidden, D head size, E experts, K top-k, I expert width, V vocabulary, S cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LayerSpec, ModelConfig
from .kv_cache import KVCache
from .text_model import Cache
from .wavefront import Front, in_parts

if TYPE_CHECKING:
    from .few_rows import FewRows

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query [B, Hq, T, D], key [B, Hkv, T, D], value [B, Hkv, T, D]) -> [B, Hq, T, D]"""

Write = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(layer, key [Hkv, T, D], value [Hkv, T, D]) -> all keys and values that the last of these rows may see."""

MIN_PART = 32
"""Rows of a prompt that are worth a thread."""

MIN_KNOWN_ROPES = 512
"""Positions whose rotations are worked out at first."""

MAX_KNOWN_MASK = 512
"""Up to this position the causal masks are kept, 1 MiB for each window; beyond, they are made when needed."""

MAX_FEW = 4
"""Rows up to which `few_rows` is asked; from six on torch is as quick, as the products take most of the time then."""

CAUSAL_PIECE = 64
"""Rows of a causal attention that a CPU works out together (32 to 80 of 240 rows take the same time)."""


class Linear(nn.Linear):
    """A linear layer without bias whose weight is always loaded or set by the caller, never drawn here."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out, bias=False)  # pyright: ignore[reportUnknownMemberType]

    def reset_parameters(self) -> None:
        # torch's own draw costs a second of imports on the meta device, and is always thrown away
        return


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) * weight, computed in fp32 and cast back to x's dtype. weight: [dim], or None."""

    weight: nn.Parameter | None

    def __init__(self, dim: int, eps: float, has_weight: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if has_weight else None

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), (self.dim,), weight, self.eps).to(x.dtype)


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x)). x: [..., H]."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, width)
        self.up_proj = Linear(hidden_size, width)
        self.down_proj = Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Router(nn.Module):
    """Top-k expert choice from the raw residual.

    x: [T, H] -> (weights [T, K] fp32, ids [T, K] int64, probabilities [T, E]).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, has_weight=False)
        self.proj = Linear(config.hidden_size, config.num_experts)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.choose(self.norm(x))

    def choose(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For rows that are normed already. normed: [T, H]."""
        x = normed * self.scale * normed.shape[-1] ** -0.5
        probabilities = F.softmax(self.proj(x), dim=-1, dtype=torch.float32)
        weights, ids = torch.topk(probabilities, self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights * self.per_expert_scale[ids], ids, probabilities


class Experts(nn.Module):
    """E gated MLPs of width I. x: [T, H], ids and weights: [T, K] -> [T, H].

    Two ways to the same sum. With few experts (E <= 4 K) all of them run as one dense product and unchosen ones get
    weight zero: no gather, which is what a CPU wants. With many, only the experts that some row chose are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, H, width = config.num_experts, config.hidden_size, config.expert_size
        self.num_experts, self.width = E, width
        self.is_dense = 4 * config.top_k >= E
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * width, H))
        self.down_proj = nn.Parameter(torch.empty(E, H, width))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return self.dense(x, ids, weights) if self.is_dense else self.gathered(x, ids, weights)

    def dense(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        share = torch.zeros(x.shape[0], self.num_experts, dtype=weights.dtype, device=x.device).scatter(1, ids, weights)
        every = F.linear(x, self.gate_up_proj.flatten(0, 1))
        gate, up = every.view(-1, self.num_experts, 2, self.width).unbind(2)
        act = F.gelu(gate, approximate="tanh") * up * share[..., None].to(gate.dtype)
        # the sum over experts included
        return F.linear(act.flatten(1), self.down_proj.permute(1, 0, 2).flatten(1))

    def gathered(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in cast(list[int], torch.unique(ids).tolist()):
            row, place = torch.where(ids == expert)
            gate, up = F.linear(x[row], self.gate_up_proj[expert]).chunk(2, dim=-1)
            y = F.linear(F.gelu(gate, approximate="tanh") * up, self.down_proj[expert])
            out.index_add_(0, row, (y * weights[row, place, None]).to(out.dtype))
        return out


class Attention(nn.Module):
    """QK-normed rotary attention with scale 1.0.

    Full-attention layers have no v_proj: their value is the scaleless norm of the raw key projection.
    """

    def __init__(self, config: ModelConfig, spec: LayerSpec) -> None:
        super().__init__()
        H, D, eps = config.hidden_size, spec.head_dim, config.rms_norm_eps
        self.head_dim = D
        self.q_proj = Linear(H, config.num_heads * D)
        self.k_proj = Linear(H, spec.num_kv_heads * D)
        self.v_proj = Linear(H, spec.num_kv_heads * D) if spec.has_value_proj else None
        self.o_proj = Linear(config.num_heads * D, H)
        self.q_norm = RMSNorm(D, eps)
        self.k_norm = RMSNorm(D, eps)
        self.v_norm = RMSNorm(D, eps, has_weight=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend, only_last: bool = False
    ) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(x).view(heads)), rope)
        if only_last:
            query = query[:, -1:]
        raw_key = self.k_proj(x).view(heads)
        value = self.v_norm(raw_key if self.v_proj is None else self.v_proj(x).view(heads))
        key = rotate(self.k_norm(raw_key), rope)
        out = attend(layer, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention, then a dense MLP and the experts in parallel, each between its norms. x: [B, T, H]."""

    encoder_layer_scalar: Tensor
    layer_scalar: Tensor

    def __init__(self, config: ModelConfig, spec: LayerSpec) -> None:
        super().__init__()
        H, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, spec)
        self.mlp = GatedMLP(H, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = RMSNorm(H, eps)
        self.post_attention_layernorm = RMSNorm(H, eps)
        self.pre_feedforward_layernorm = RMSNorm(H, eps)
        self.post_feedforward_layernorm = RMSNorm(H, eps)
        self.post_feedforward_layernorm_1 = RMSNorm(H, eps)
        self.post_feedforward_layernorm_2 = RMSNorm(H, eps)
        self.pre_feedforward_layernorm_2 = RMSNorm(H, eps)
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        layer: int,
        attend: Attend,
        scalar: Tensor,
        only_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """scalar: broadcastable to [B, T, 1]. Returns x and the router's probabilities [B * T, E].

        only_last: of the last row alone, for a layer whose other rows nobody reads; all rows give keys and values.
        """
        attended = self.self_attn(self.input_layernorm(x), rope, layer, attend, only_last)
        x = (x[:, -1:] if only_last else x) + self.post_attention_layernorm(attended)
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        rows = x.reshape(-1, x.shape[-1])
        weights, ids, probabilities = self.router(rows)
        sparse = self.experts(self.pre_feedforward_layernorm_2(rows), ids, weights).view(x.shape)
        both = dense + self.post_feedforward_layernorm_2(sparse)
        return (x + self.post_feedforward_layernorm(both)) * scalar, probabilities


class SelfConditioning(GatedMLP):
    """Adds what the previous step believed to a canvas row's embedding.

    soft: [B, L, H]; None stands for the zeros of the first step.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size)
        self.pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, has_weight=False)

    def combine(self, embedding: Tensor, soft: Tensor | None) -> Tensor:
        # pre_norm(0) is 0 and the MLP has no bias, so the first step needs no product at all
        return self.post_norm(embedding if soft is None else embedding + super().forward(self.pre_norm(soft)))


class DiffusionGemma(nn.Module):
    """The whole text model; embed_tokens serves as embedding, output projection and self-conditioning table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
        self.layers = nn.ModuleList(Layer(config, spec) for spec in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        # quicker products with the embedding and with its transpose, where there are any (int8.py)
        self.to_vocabulary: nn.Module | None = None
        self.from_vocabulary: nn.Module | None = None
        # threads that encode a long prompt together
        self.num_parts = 1
        # `encode` of a few rows, where there is a quicker way (few_rows.py)
        self.few_rows: FewRows | None = None
        # one table of frequencies for each distinct (theta, head size, rotated pairs)
        self._rope_specs = [(s.rope_theta, s.head_dim, s.num_rotated) for s in config.layers]
        # rotations of positions 0.. as far as they were needed: working them out costs as much as a layer
        self._known_ropes: list[tuple[Tensor, Tensor]] = []
        # who sees whom among positions 0..MAX_KNOWN_MASK, by window
        self._known_masks: dict[int | None, Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype if self.norm.weight is not None else torch.float32

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def num_bytes(self) -> int:
        """Of all weights and buffers, those included that a product has packed for itself."""
        packed = sum(cast(int, getattr(module, "packed_bytes", 0)) for module in self.modules())
        return packed + sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., H], scaled by sqrt(H) rounded to the weights' dtype as the reference does."""
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=self.embed_tokens.weight.dtype, device=self.device)
        return self.embed_tokens(tokens) * scale

    def soft_embedding(self, logits: Tensor) -> Tensor:
        """The expected embedding under softmax(logits). logits: [B, L, V], divided by the temperature -> [B, L, H]."""
        table = self.embed_tokens.weight
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=table.dtype, device=table.device)
        chances = torch.softmax(logits, dim=-1, dtype=torch.float32).to(table.dtype)
        return (chances @ table if self.from_vocabulary is None else self.from_vocabulary(chances)) * scale

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., H] after the final norm -> softcapped fp32 logits [..., V]."""
        cap = self.config.softcap
        if self.to_vocabulary is None:
            return capped_logits(hidden, self.embed_tokens.weight, cap)
        # the same curve; a tanh takes three times as long on a CPU
        return self.to_vocabulary(hidden).mul_(2 / cap).sigmoid_().mul_(2 * cap).sub_(cap)

    @torch.no_grad()
    def encode(self, tokens: Tensor, cache: Cache, only_last: bool = False) -> Tensor:
        """Append tokens [T] to the cache, causally. Returns the normed hidden states [T, H], or of the last [1, H]."""
        start, T = cache.length, tokens.shape[0]
        if self.few_rows is not None and T <= MAX_FEW and isinstance(cache, KVCache):
            states = self.few_rows.encode(cast(list[int], tokens.tolist()), cache, self._ropes_until(start + T))
            return states[-1:] if only_last else states
        num_parts = min(self.num_parts, T // MIN_PART)
        if num_parts > 1 and isinstance(cache, KVCache):
            x = self._encode_in_parts(tokens, cache, num_parts, only_last)
        else:
            x = self._encode_rows(tokens, start, cache.append, only_last)
        cache.advance(T)
        return x

    def _encode_in_parts(self, tokens: Tensor, cache: KVCache, num_parts: int, only_last: bool) -> Tensor:
        start, T = cache.length, tokens.shape[0]
        bounds = [start + round(T * part / num_parts) for part in range(num_parts + 1)]
        # made before the threads would ask for them at the same time
        cache.reserve(start + T)
        self._ropes_until(start + T)
        self._masks(start, start + T)

        def run(part: int, ahead: Front | None, front: Front) -> Tensor:
            first, last = bounds[part], bounds[part + 1]

            def write(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
                seen = cache.write(layer, first, key, value)
                if ahead is not None:
                    ahead.wait(layer)
                front.reach(layer)
                return seen

            return self._encode_rows(tokens[first - start : last - start], first, write, only_last)

        parts = in_parts(num_parts, len(self.layers), run)
        return parts[-1] if only_last else torch.cat(parts)

    def _encode_rows(self, tokens: Tensor, start: int, write: Write, only_last: bool) -> Tensor:
        """Rows [T] at the positions from start on; write: puts a layer's keys and values where they are looked up."""
        T = tokens.shape[0]
        masks = self._masks(start, start + T) if T > 1 else {}

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            window = self.config.layers[layer].window
            keys, values = write(layer, key[0], value[0])
            if query.shape[2] == 1:
                if window is not None and window < start + T:
                    keys, values = keys[:, -window:], values[:, -window:]
                return _sdpa(query, keys[None], values[None], None)
            return _causal_sdpa(query, keys[None], values[None], masks[window])

        return self._run(self.embed(tokens)[None], start, attend, is_encoder=True, only_last=only_last and T > 1)[0]

    @torch.no_grad()
    def grow(self, tokens: Tensor, cache: KVCache, position: int, places: Tensor, is_seen: Tensor) -> Tensor:
        """Append tokens [N] to the cache that all stand at one position, each going on a line of rows of its own.

        places: int64 [S + N], the position of every cached row and of these. is_seen: bool [N, S + N], the rows that
        each sees, itself included. Returns normed hidden states [N, H], for each as if `encode` had appended its line.
        """
        N = tokens.shape[0]
        near = position - places
        bias: dict[int | None, Tensor] = {}
        for window in {spec.window for spec in self.config.layers}:
            seen = is_seen if window is None else is_seen & (near < window)
            bias[window] = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, -torch.inf)
        if self.few_rows is not None and N <= MAX_FEW:
            ids = cast(list[int], tokens.tolist())
            return self.few_rows.grow(ids, cache, self._ropes_until(position + 1), position, bias)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.append(layer, key[0], value[0])
            return _sdpa(query, keys[None], values[None], bias[self.config.layers[layer].window])

        x = self._run(self.embed(tokens)[None], position, attend, is_encoder=True, num_positions=1)[0]
        cache.advance(N)
        return x

    @torch.no_grad()
    def branch(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Causal pass of several continuations [B, L] of one cached prompt; the cache is only read.

        Row i of a continuation sees the cache and its own rows up to i, as if `encode` had appended it alone. Returns
        normed hidden states [B, L, H].
        """
        B, L = tokens.shape
        start = cache.length
        masks = self._masks(start, start + L)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.read(layer)
            keys = torch.cat([keys[None].expand(B, -1, -1, -1), key], dim=2)
            values = torch.cat([values[None].expand(B, -1, -1, -1), value], dim=2)
            return _sdpa(query, keys, values, masks[self.config.layers[layer].window])

        return self._run(self.embed(tokens), start, attend, is_encoder=True)

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, cache: Cache, soft: Tensor | None = None, num_rows: Tensor | None = None
    ) -> Tensor:
        """One bidirectional pass of the canvases [B, L] over [cache ; own canvas]; the cache is only read.

        soft: [B, L, H] self-conditioning or None. num_rows: [B] rows in use when canvases differ in length, or None.
        Returns normed hidden states [B, L, H]; those of unused rows mean nothing.
        """
        B, L = tokens.shape
        start = cache.length
        in_use = None if num_rows is None else torch.arange(L, device=tokens.device) < num_rows[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            window = self.config.layers[layer].window
            # the canvas sees the last window - 1 cached positions, whichever row asks (transformers' sliding cache)
            keys, values = cache.read(layer, None if window is None else window - 1)
            keys = torch.cat([keys[None].expand(B, -1, -1, -1), key], dim=2)
            values = torch.cat([values[None].expand(B, -1, -1, -1), value], dim=2)
            mask = None if in_use is None else F.pad(in_use, (keys.shape[2] - L, 0), value=True)[:, None, None, :]
            return _sdpa(query, keys, values, mask)

        x = self.self_conditioning.combine(self.embed(tokens), soft)
        return self._run(x, start, attend, is_encoder=False)

    def joint(
        self,
        tokens: Tensor,
        positions: Tensor,
        is_canvas: Tensor,
        mask: Tensor,
        soft: Tensor | None,
        run_layer: JointLayer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Training: encoder rows and canvas rows of several canvases in one forward.

        tokens, positions: [B, T]; is_canvas: bool [T]; mask: bool [B, 1, T, T], True where a row may look;
        soft: [B, T, H] self-conditioning (read for canvas rows only). run_layer: joint_layer, or what a compiler made
        of it. Returns hidden [B, T, H] and router probabilities [layers, B * T, E]. Sliding windows are the mask's
        business.
        """
        plain = self.embed(tokens)
        x = torch.where(is_canvas[None, :, None], self.self_conditioning.combine(plain, soft), plain)
        ropes = self._ropes(positions)
        # fused attention's backward is twice as slow on a CPU at these sizes, and much faster on a GPU
        if x.is_cpu:
            # finite, so that a padding row that sees nothing gives a mean instead of NaN
            mask = torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill(~mask, -1e9)
        run_layer = run_layer or joint_layer
        probabilities: list[Tensor] = []
        for i, layer in enumerate(self.blocks()):
            x, chosen = run_layer(layer, x, ropes[i], is_canvas, mask)
            probabilities.append(chosen)
        return self.norm(x), torch.stack(probabilities)

    def blocks(self) -> Iterator[Layer]:
        """The layers, with their type."""
        return (cast(Layer, layer) for layer in self.layers)

    def _run(
        self,
        x: Tensor,
        start: int,
        attend: Attend,
        is_encoder: bool,
        only_last: bool = False,
        num_positions: int | None = None,
    ) -> Tensor:
        """num_positions: 1 where all rows stand at the same one; None: one after the other."""
        ropes = self._ropes_between(start, start + (num_positions or x.shape[1]))
        for i, layer in enumerate(self.blocks()):
            scalar = layer.encoder_layer_scalar if is_encoder else layer.layer_scalar
            x, _ = layer(x, ropes[i], i, attend, scalar, only_last and i == len(ropes) - 1)
        return self.norm(x)

    def _masks(self, start: int, end: int) -> dict[int | None, Tensor]:
        """Of rows at the positions [start, end), by window: the bias [end - start, end] of all positions up to end."""
        windows = {spec.window for spec in self.config.layers}
        if end > MAX_KNOWN_MASK:
            return {each: _causal_bias(start, end, each, self.dtype, self.device) for each in windows}
        known = next(iter(self._known_masks.values()), None)
        if known is None or known.device != self.device or known.dtype != self.dtype:
            tables = ((each, _causal_bias(0, MAX_KNOWN_MASK, each, self.dtype, self.device)) for each in windows)
            self._known_masks = dict(tables)
        return {each: mask[start:end, :end] for each, mask in self._known_masks.items()}

    def _ropes_between(self, start: int, end: int) -> list[tuple[Tensor, Tensor]]:
        """`_ropes` of the positions [start, end)."""
        # layers of one kind share a table, and cutting it costs as much as a norm
        known = self._ropes_until(end)
        cut = {id(cos): (cos[:, start:end], sin[:, start:end]) for cos, sin in known}
        return [cut[id(cos)] for cos, _ in known]

    def _ropes_until(self, end: int) -> list[tuple[Tensor, Tensor]]:
        """`_ropes` of the positions [0, end) and more; the same list as long as it is long enough."""
        known = self._known_ropes[0][0] if self._known_ropes else None
        if known is None or known.shape[1] < end or known.device != self.device or known.dtype != self.dtype:
            length = max(MIN_KNOWN_ROPES, 1 << (end - 1).bit_length())
            self._known_ropes = self._ropes(torch.arange(length, device=self.device)[None])
        return self._known_ropes

    def _ropes(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        tables: dict[tuple[float, int, int], tuple[Tensor, Tensor]] = {}
        for spec in set(self._rope_specs):
            cos, sin = rope_table(positions, *spec, dtype=self.dtype)
            low, high = sin.chunk(2, dim=-1)
            tables[spec] = cos, torch.cat((-low, high), dim=-1)
        return [tables[spec] for spec in self._rope_specs]


JointLayer = Callable[[Layer, Tensor, tuple[Tensor, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def joint_layer(
    layer: Layer, x: Tensor, rope: tuple[Tensor, Tensor], is_canvas: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer of `joint`, a function of its own so that it is compiled once for all layers of a kind.

    mask: bool, or on a CPU the bias that it means, bf16; both [B, 1, T, T].
    """

    def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.is_cpu:
            return _grouped_attention(query, key, value, mask)
        return _sdpa(query, key, value, mask)

    scalar = torch.where(is_canvas[:, None], layer.layer_scalar, layer.encoder_layer_scalar)
    return layer(x, rope, 0, attend, scalar)


def capped_logits(hidden: Tensor, table: Tensor, softcap: float) -> Tensor:
    """hidden: [..., H] after the final norm; table: [V, H] -> softcapped fp32 logits [..., V]."""
    return torch.tanh(F.linear(hidden, table).float() / softcap) * softcap


def rope_table(
    positions: Tensor, theta: float, head_dim: int, num_rotated: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin for positions [B, T] -> [B, T, 1, D] each. Pairs past num_rotated do not turn (angle 0).

    Source: transformers 5.23.0, modeling_rope_utils.py, `_compute_proportional_rope_parameters`; with all pairs rotated
    it is the default RoPE.
    """
    exponent = torch.arange(0, 2 * num_rotated, 2, device=positions.device, dtype=torch.float32) / head_dim
    frequency = F.pad(1.0 / theta**exponent, (0, head_dim // 2 - num_rotated))
    angle = positions[..., None].float() * frequency
    angle = torch.cat((angle, angle), dim=-1)[..., None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """x: [B, T, heads, D]; rope: cos and sin [B, T, 1, D], the first half of sin negated."""
    cos, sin = rope
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def _causal_bias(start: int, end: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[end - start, end]: 0 where the row at a position sees a position, else minus infinity."""
    distance = torch.arange(start, end, device=device)[:, None] - torch.arange(end, device=device)
    is_seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return torch.zeros(is_seen.shape, dtype=dtype, device=device).masked_fill_(~is_seen, -torch.inf)


def _causal_sdpa(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention of the last T of S positions under their causal bias [T, S].

    On a CPU in pieces of rows, each with the keys up to its own last: half of the square need not be computed.
    """
    T, S = bias.shape
    if not query.is_cpu or T <= CAUSAL_PIECE:
        return _sdpa(query, key, value, bias)
    pieces: list[Tensor] = []
    for first in range(0, T, CAUSAL_PIECE):
        last = min(first + CAUSAL_PIECE, T)
        seen = S - T + last
        rows = query[:, :, first:last]
        pieces.append(_sdpa(rows, key[:, :, :seen], value[:, :, :seen], bias[first:last, :seen]))
    return torch.cat(pieces, dim=2)


def _grouped_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Plain softmax(q k^T + bias) v for training; the query heads of one key head are stacked into one product."""
    B, heads, T, D = query.shape
    groups = key.shape[1]
    stacked = query.reshape(B, groups, heads // groups * T, D)
    scores = (stacked @ key.mT).view(B, groups, heads // groups, T, -1) + bias[:, :, None].to(query.dtype)
    return (torch.softmax(scores, dim=-1).flatten(2, 3) @ value).view(B, heads, T, D)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    key, value = key.to(query.dtype), value.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0, enable_gqa=True)
