"""The causal forward of a few rows on a CPU, in numpy: what decoding one token after the other is made of.

At one row torch's dispatcher costs twice as much as the arithmetic; numpy's costs a third of it. The products are the
ones that int8.py packed, and keys and values go into the same cache, so the two forwards take turns on one sequence.
The truth is `DiffusionGemma.encode` without this; tests/engine/test_few_rows.py compares.
Shapes: T rows, H hidden, D head size, S positions seen, G key heads, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .int8 import GELU_SLOPE, Int8Linear, Norm, Product, QuickExperts, QuickLayer, few_rows_matmul
from .kv_cache import KVCache
from .model import MAX_FEW, DiffusionGemma

Array = NDArray[np.float32]

ALONE = 1 << 17
"""Multiplications of one product that OpenBLAS surely does in one thread (it begins to share at 2^18): its threads
would wait for each other on cores that are busy."""

Seen = tuple[int, Array | None]
"""The first position that any row sees, and the bias [T, 1, S] of the positions from there on, or None."""


class _Norm:
    """int8.py's Norm."""

    def __init__(self, norm: Norm) -> None:
        self.least = np.float32(float(norm.least) ** 2)
        self.weight: Array | None = None if norm.weight is None else _array(norm.weight)

    def unit(self, x: Array) -> Array:
        length = np.vecdot(x, x)
        length += self.least
        return x / np.sqrt(length)[..., None]

    def weigh(self, unit: Array) -> Array:
        return unit if self.weight is None else unit * self.weight

    def __call__(self, x: Array) -> Array:
        """A new array, which the caller may write to."""
        unit = self.unit(x)
        if self.weight is not None:
            unit *= self.weight
        return unit


class _Layer:
    """int8.py's QuickLayer for the encoder, with experts that are all computed."""

    def __init__(self, layer: QuickLayer, experts: QuickExperts) -> None:
        attention = layer.self_attn
        self.input_norm, self.attention_norm = _Norm(layer.input_norm), _Norm(layer.attention_norm)
        self.mlp_norm, self.experts_norm = _Norm(layer.mlp_norm), _Norm(layer.experts_norm)
        self.mlp_out_norm, self.experts_out_norm = _Norm(layer.mlp_out_norm), _Norm(layer.experts_out_norm)
        self.out_norm, self.head_norm = _Norm(layer.out_norm), _Norm(attention.norm)
        self.head_weight = _array(attention.head_weight)
        self.head_dim, self.num_kv_heads = attention.head_dim, attention.num_kv_heads
        self.num_heads, self.num_turned = attention.num_heads, attention.num_heads + attention.num_kv_heads
        self.qkv, self.out = _product(attention.qkv), _product(attention.out)
        self.together = None if layer.together is None else _product(layer.together)
        self.gate_up, self.down, self.width = _product(layer.mlp.gate_up), _product(layer.mlp.down), layer.mlp.width
        self.experts_gate_up = None if experts.gate_up is None else _product(experts.gate_up)
        self.experts_down = _product(experts.down)
        self.router, self.top_k = np.ascontiguousarray(_array(layer.router).T), layer.top_k
        self.expert_scale = cast(list[float], experts.scale.tolist())
        self.scalar = np.float32(layer.encoder_layer_scalar.item())

    def run(self, x: Array, rope: tuple[Array, Array], keys: Array, values: Array, start: int, seen: Seen) -> Array:
        """x: [T, H]; keys and values: storage [G, capacity, D], written at the rows' own positions."""
        residual = self.attention_norm(self.attend(x, rope, keys, values, start, seen))
        residual += x
        unit = self.mlp_norm.unit(residual)
        if self.together is not None:
            both = _gated(self.together(unit))
            dense, act = both[:, : self.width], np.ascontiguousarray(both[:, self.width :])
        else:
            assert self.experts_gate_up is not None
            dense = _gated(self.gate_up(self.mlp_norm.weigh(unit)))
            act = _gated(self.experts_gate_up(self.experts_norm.weigh(unit)))
        dense = self.mlp_out_norm(self.down(dense))
        share = self.share(unit @ self.router)
        parts = act.reshape(*share.shape, -1)
        parts *= share[..., None]
        both = self.experts_out_norm(self.experts_down(act))
        both += dense
        out = self.out_norm(both)
        out += residual
        out *= self.scalar
        return out

    def attend(self, x: Array, rope: tuple[Array, Array], keys: Array, values: Array, start: int, seen: Seen) -> Array:
        T, G, D, half = len(x), self.num_kv_heads, self.head_dim, self.head_dim // 2
        cos, sin = rope
        heads = self.head_norm.unit(self.qkv(self.input_norm(x)).reshape(T, -1, D))
        heads *= self.head_weight
        to_turn = heads[:, : self.num_turned]
        turned = to_turn * cos
        # the first half of sin is negated
        turned[..., :half] += to_turn[..., half:] * sin[..., :half]
        turned[..., half:] += to_turn[..., :half] * sin[..., half:]
        end = start + T
        keys[:, start:end] = turned[:, self.num_heads :].swapaxes(0, 1)
        values[:, start:end] = heads[:, self.num_turned :].swapaxes(0, 1)
        query = turned[:, : self.num_heads].reshape(T, G, -1, D).swapaxes(0, 1)
        first, bias = seen
        keys, values = keys[:, first:end], values[:, first:end]
        # products one by one: numpy's loop over a batch of them takes longer than they do
        scores = np.empty((G, T * query.shape[2], end - first), np.float32)
        step = max(1, ALONE // (query.shape[2] * D * (end - first)))
        for head in range(G):
            key, answers = keys[head].T, scores[head].reshape(T, -1, end - first)
            for row in range(0, T, step):
                rows = query[head, row : row + step]
                np.matmul(rows.reshape(-1, D), key, answers[row : row + step].reshape(-1, end - first))
        if bias is not None:
            scores.reshape(G, T, -1, end - first)[...] += bias
        scores -= np.maximum.reduce(scores, -1, keepdims=True)
        np.exp(scores, scores)
        total = np.add.reduce(scores, -1, keepdims=True)
        out = np.empty((T, G, query.shape[2], D), np.float32)
        for head in range(G):
            for row in range(0, T, step):
                few = scores[head].reshape(T, -1, end - first)[row : row + step]
                out[row : row + step, head] = (few.reshape(-1, end - first) @ values[head]).reshape(-1, *out.shape[2:])
        out /= total.reshape(G, T, -1, 1).swapaxes(0, 1)
        return self.out(out.reshape(T, -1))

    def share(self, logits: Array) -> Array:
        """logits: [T, E] -> what each expert's answer counts for, 0 for those that are not chosen."""
        # plain Python: with a handful of experts a call of numpy costs as much as a row
        shares: list[list[float]] = []
        for row in cast(list[list[float]], logits.tolist()):
            ordered = sorted(row)
            least, most = ordered[-self.top_k], ordered[-1]
            powers = [math.exp(logit - most) if logit >= least else 0.0 for logit in row]
            total = sum(powers)
            shares.append([power / total * scale for power, scale in zip(powers, self.expert_scale, strict=True)])
        return np.array(shares, np.float32)


class FewRows:
    """`encode` of a converted model, for model.MAX_FEW rows at most."""

    def __init__(self, model: DiffusionGemma, layers: Sequence[tuple[QuickLayer, QuickExperts]]) -> None:
        self._layers = [_Layer(*parts) for parts in layers]
        self._windows = [spec.window for spec in model.config.layers]
        self._table = _array(model.embed_tokens.weight)
        self._scale = np.float32(model.config.hidden_size**0.5)
        self._norm = _Norm(Norm(model.norm))
        self._ropes_of: list[tuple[Tensor, Tensor]] | None = None
        self._ropes: list[tuple[Array, Array]] = []

    def encode(self, tokens: Sequence[int], cache: KVCache, ropes: list[tuple[Tensor, Tensor]]) -> Tensor:
        """See DiffusionGemma.encode. ropes: by layer, cos and sin [1, P, 1, D] of all positions from 0 on.

        Returns normed states [T, H].
        """
        start, T = cache.length, len(tokens)
        seen = {window: _seen(start, T, window) for window in set(self._windows)}
        return self._run(tokens, cache, ropes, slice(start, start + T), seen)

    def grow(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        ropes: list[tuple[Tensor, Tensor]],
        position: int,
        bias: Mapping[int | None, Tensor],
    ) -> Tensor:
        """See DiffusionGemma.grow. bias: [T, S + T] by window, 0 or minus infinity. Returns normed states [T, H]."""
        seen: dict[int | None, Seen] = {window: (0, _array(each)[:, None]) for window, each in bias.items()}
        return self._run(tokens, cache, ropes, slice(position, position + 1), seen)

    def _run(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        ropes: list[tuple[Tensor, Tensor]],
        positions: slice,
        seen: Mapping[int | None, Seen],
    ) -> Tensor:
        """positions: of the rows, or the one where all of them stand."""
        start, T = cache.length, len(tokens)
        if self._ropes_of is not ropes:
            self._ropes_of = ropes
            self._ropes = [(_array(cos[0]), _array(sin[0])) for cos, sin in ropes]
        cache.reserve(start + T)
        storage = cache.arrays()
        x = self._table[list(tokens)]
        x *= self._scale
        # what is far below zero has a gate of 1 / infinity, which is right
        with np.errstate(over="ignore"):
            for i, layer in enumerate(self._layers):
                cos, sin = self._ropes[i]
                x = layer.run(x, (cos[positions], sin[positions]), *storage[i], start, seen[self._windows[i]])
        cache.advance(T)
        return torch.from_numpy(self._norm(x))


def _seen(start: int, T: int, window: int | None) -> Seen:
    first = 0 if window is None else max(0, start + 1 - window)
    if T == 1:
        return first, None
    position, row = np.arange(first, start + T), np.arange(start, start + T)[:, None]
    is_seen = position <= row if window is None else (position <= row) & (position > row - window)
    return first, np.where(is_seen, np.float32(0.0), np.float32(-np.inf))[:, None]


def _product(product: Product) -> Callable[[Array], Array]:
    """x: [T, K] -> [T, N]."""
    if isinstance(product, Int8Linear) and product.num_few >= MAX_FEW:
        # what a module's call adds is a tenth of a row's time
        weight, scale = product.weight_nk, product.scale_few
        return lambda x: few_rows_matmul(torch.from_numpy(x), weight, scale).numpy()
    multiply = product.multiply
    return lambda x: multiply(torch.from_numpy(x)).numpy()


def _gated(gate_up: Array) -> Array:
    """gelu_tanh(gate) * up as in int8.py; gate_up: [T, 2 N] -> [T, N]."""
    half = gate_up.shape[1] // 2
    gate, up = gate_up[:, :half], gate_up[:, half:]
    act = gate * gate
    act *= np.float32(-0.044715 * GELU_SLOPE)
    act -= np.float32(GELU_SLOPE)
    act *= gate
    np.exp(act, act)
    act += np.float32(1.0)
    np.divide(gate, act, act)
    act *= up
    return act


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
