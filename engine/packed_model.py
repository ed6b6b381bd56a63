"""The text model over packed weights: the same function as DiffusionGemma, as few launches as the kernels allow.

All rows of a forward are one flat list, whoever they are: prompt rows that look back and write the KV cache, canvas
rows that look at the cache and at their own canvas. `RowPlan` says which is which, as data; so one forward serves
prefill, denoising, and both at once, and a CUDA graph can replay it. Every product goes through kernels/dispatch.py:
Triton on a GPU, the PyTorch truth elsewhere. Knows no sampler and no text.

Shapes: T rows of a forward, of which the first C are causal; B canvases of L rows; H hidden, D head size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import dispatch as ops
from ..kernels.experts import PackedExperts, unpack_experts
from ..kernels.packing import PackedMatrix, unpack
from ..kernels.vocab import VocabStats
from .config import LayerSpec, ModelConfig
from .cuda_graph import Fork
from .formats import LAYER_NORMS, Part
from .model import DiffusionGemma, capped_logits, rope_table
from .text_model import Cache, Place


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Who the rows of a forward are. positions: int64 [T]; num_causal: C; ranges: by window, int32 [T, 4] as
    kernels/attention.py wants them, in the cache's storage; ropes: by layer, cos and sin [T, D]. is_branch: the other
    rows are encoder rows too, which only do not write the cache. is_forked: a layer's dense MLP runs beside its
    experts. places: int64 [C], where in the cache's storage the causal rows' keys and values go, for a forward that is
    captured; None: behind what the cache holds.

    Constant over the steps of a fill, so it is made once; all tensors may be static buffers of a CUDA graph.
    """

    positions: Tensor
    num_causal: int
    ranges: dict[int | None, Tensor]
    ropes: list[tuple[Tensor, Tensor]]
    is_branch: bool = False
    is_forked: bool = False
    places: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PackedMLP:
    """down(gelu(gate(x)) * up(x)); gate_up: gate rows, then up rows."""

    gate_up: PackedMatrix
    down: PackedMatrix

    def parts(self, x: Tensor) -> Tensor:
        """[T, H] -> [P, T, H], to be added by who reads them."""
        return ops.linear_parts(self._inner(x), self.down)

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(self._inner(x), self.down)

    def _inner(self, x: Tensor) -> Tensor:
        return ops.gated_gelu(ops.linear_parts(x, self.gate_up), x.dtype)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One layer. norms: by the names of LAYER_NORMS; router_scale: router.scale * H^-0.5."""

    spec: LayerSpec
    qkv: PackedMatrix
    out: PackedMatrix
    mlp: PackedMLP
    experts: PackedExperts
    norms: dict[str, Tensor]
    q_norm: Tensor
    k_norm: Tensor
    router_proj: Tensor
    router_scale: Tensor
    per_expert_scale: Tensor
    decoder_scalar: Tensor
    encoder_scalar: Tensor


class PackedModel:
    """Weights and forward. Fits TextModel; made by `from_parts` from what formats.stream yields."""

    def __init__(self, config: ModelConfig, weights: dict[str, PackedMatrix | Tensor]) -> None:
        """weights: every part of formats.parts by name. Raises: ValueError when one is missing."""
        self.config = config
        self._weights = weights
        self.table = self._plain("embed_tokens.weight")
        self._scale = torch.tensor(config.hidden_size**0.5, dtype=self.table.dtype, device=self.table.device)
        # a number, not read from the device: that would stall, and end the capture of a graph
        self._scale_number = float(torch.tensor(config.hidden_size**0.5, dtype=self.table.dtype))
        self._final_norm = self._plain("norm.weight")
        self._pre_norm = self._plain("self_conditioning.pre_norm.weight")
        self._self_conditioning = PackedMLP(
            self._matrix("self_conditioning.gate_up"), self._matrix("self_conditioning.down")
        )
        self.layers = [self._layer(i, spec) for i, spec in enumerate(config.layers)]
        self._fork = Fork(self.device)

    @classmethod
    def from_parts(cls, config: ModelConfig, stream: Iterable[tuple[Part, PackedMatrix | Tensor]]) -> PackedModel:
        """Take every part of a stream (formats.stream, packed.read_packed)."""
        return cls(config, {part.name: weight for part, weight in stream})

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    @property
    def num_bytes(self) -> int:
        plain = (w.numel() * w.element_size() for w in self._weights.values() if isinstance(w, Tensor))
        return sum(plain) + sum(w.num_bytes for w in self._weights.values() if isinstance(w, PackedMatrix))

    # -- the ends of the network -------------------------------------------------------------------------------------

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., H]."""
        return F.embedding(tokens, self.table) * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., H] after the final norm -> softcapped fp32 logits [..., V]. The fused pass is `vocab_stats`."""
        return capped_logits(hidden, self.table, self.config.softcap)

    def soft_embedding(self, logits: Tensor) -> Tensor:
        """The expected embedding under softmax(logits). [B, L, V] -> [B, L, H]; the truth of `top_soft_embedding`."""
        return torch.softmax(logits, dim=-1, dtype=torch.float32).to(self.dtype) @ self.table * self._scale

    def top_soft_embedding(self, ids: Tensor, weights: Tensor) -> Tensor:
        """The same from k tokens a row. ids: int [R, k]; weights: float [R, k] -> [R, H]."""
        return ops.soft_embedding(ids, weights, self.table, self._scale_number)

    def vocab_stats(
        self,
        hidden: Tensor,
        temperature: Tensor,
        noise: Tensor,
        row_ids: Tensor,
        num_top: int,
        is_banned: Tensor | None,
    ) -> VocabStats:
        """hidden: [R, H]; see kernels/vocab.py."""
        return ops.vocab_stats(
            hidden, self.table, softcap=self.config.softcap, temperature=temperature, noise=noise, num_top=num_top,
            row_ids=row_ids, is_banned=is_banned,
        )  # fmt: skip

    # -- the forward -------------------------------------------------------------------------------------------------

    def plan_rows(
        self, cache: Place, num_causal: int, num_rows: Tensor | None, L: int, B: int, room: int = 0, spare: int = 0
    ) -> RowPlan:
        """num_causal prompt rows behind what the cache holds, then B canvases of L rows, of which num_rows [B] are in
        use.

        A row that is not in use sees nothing and means nothing. room: the causal rows are padded to so many, and the
        plan says where keys and values go; those of padding to `spare`, a position of the storage where nobody looks.
        """
        device, start, padding = self.device, cache.length, max(0, room - num_causal)
        # on the host, and brought over as a whole: a hundred tiny operations cost a device a hundred launches
        host = torch.device("cpu")
        num_rows = None if num_rows is None else num_rows.to(host)
        causal = torch.arange(start, start + num_causal)
        rows = start + num_causal + torch.arange(L).repeat(B)
        positions = torch.cat((F.pad(causal, (0, padding)), rows)).to(device)
        ranges = {
            window: row_ranges(cache.origin, start, num_causal, num_rows, L, B, window, host, padding).to(device)
            for window in {spec.window for spec in self.config.layers}
        }
        places = F.pad(causal + cache.origin, (0, padding), value=spare).to(device) if room else None
        return RowPlan(positions, num_causal + padding, ranges, self.ropes(positions), places=places)

    def ropes(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """By layer, cos and sin [T, D] for positions [T]."""
        specs = [(s.rope_theta, s.head_dim, s.num_rotated) for s in self.config.layers]
        tables: dict[tuple[float, int, int], tuple[Tensor, Tensor]] = {}
        for spec in set(specs):
            cos, sin = rope_table(positions[None], *spec, dtype=self.dtype)
            tables[spec] = (cos[0, :, 0], sin[0, :, 0])
        return [tables[spec] for spec in specs]

    @torch.no_grad()
    def rows(self, tokens: Tensor, plan: RowPlan, cache: Cache, soft: Tensor | None = None) -> Tensor:
        """tokens: int64 [T]; soft: [T - C, H] self-conditioning of the canvas rows, or None -> normed states [T, H].

        Keys and values of the causal rows are written behind the cache's; its length changes only with `advance`.
        """
        eps, C = self.config.rms_norm_eps, plan.num_causal
        x = self.embed(tokens)
        if len(tokens) > C and not plan.is_branch:
            canvas = x[C:] if soft is None else x[C:] + self._self_conditioning(ops.rms_norm(soft, self._pre_norm, eps))
            canvas = ops.rms_norm(canvas, None, eps)
            x = torch.cat((x[:C], canvas)) if C else canvas
        normed = ops.rms_norm(x, self.layers[0].norms["input_layernorm"], eps)
        for i, layer in enumerate(self.layers):
            next_norm = self.layers[i + 1].norms["input_layernorm"] if i + 1 < len(self.layers) else self._final_norm
            x, normed = self._run_layer(i, layer, x, normed, plan, cache, next_norm)
        return normed

    def _run_layer(
        self, i: int, layer: PackedLayer, x: Tensor, normed: Tensor, plan: RowPlan, cache: Cache, next_norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        eps, C, T, spec, norms = self.config.rms_norm_eps, plan.num_causal, len(x), layer.spec, layer.norms
        qkv = ops.linear_parts(normed, layer.qkv)
        heads = qkv.view(len(qkv), T, -1, spec.head_dim)
        q, k, v = ops.qkv_norm_rotate(
            heads, self.config.num_heads, spec.num_kv_heads, layer.q_norm, layer.k_norm, plan.ropes[i], eps
        )
        if C and plan.places is None:
            cache.append(i, k[:C].transpose(0, 1), v[:C].transpose(0, 1))
        keys, values = cache.storage(i)
        if plan.places is not None:
            keys.index_copy_(1, plan.places, k[:C].transpose(0, 1))
            values.index_copy_(1, plan.places, v[:C].transpose(0, 1))
        seen = ops.canvas_attention(q, k, v, keys, values, plan.ranges[spec.window])
        x, dense_in, sparse_in, router_in = ops.attention_glue(
            x,
            ops.linear_parts(seen.flatten(1), layer.out),
            norms["post_attention_layernorm"],
            norms["pre_feedforward_layernorm"],
            norms["pre_feedforward_layernorm_2"],
            layer.router_scale,
            eps,
        )
        # 18 MB of weights in three small launches, which cannot fill a card that is waiting for them
        with self._fork.branch() if plan.is_forked else contextlib.nullcontext():
            dense = layer.mlp.parts(dense_in)
        weights, ids = self._route(router_in, layer)
        slots = ops.expert_slots(sparse_in, ids, layer.experts)
        if plan.is_forked:
            self._fork.join()
        if 0 < C < T and not plan.is_branch:
            is_canvas = torch.arange(T, device=x.device) >= C
            scalar = torch.where(is_canvas, layer.decoder_scalar, layer.encoder_scalar)
        else:
            scalar = layer.encoder_scalar if C or plan.is_branch else layer.decoder_scalar
        return ops.mlp_glue(
            x,
            dense,
            slots,
            weights,
            norms["post_feedforward_layernorm_1"],
            norms["post_feedforward_layernorm_2"],
            norms["post_feedforward_layernorm"],
            scalar,
            next_norm,
            eps,
        )

    def _route(self, x: Tensor, layer: PackedLayer) -> tuple[Tensor, Tensor]:
        """-> weights fp32 [T, K] and ids int32 [T, K]."""
        ids, weights = ops.router(x, layer.router_proj, layer.per_expert_scale, self.config.top_k)
        return weights, ids

    # -- TextModel's forwards, for everything but the fast step -------------------------------------------------------

    @torch.no_grad()
    def encode(self, tokens: Tensor, cache: Cache, only_last: bool = False) -> Tensor:
        """Append tokens [T] to the cache, causally. Returns the normed hidden states [T, H], or of the last [1, H]."""
        plan = self.plan_rows(cache, len(tokens), None, 0, 0)
        hidden = self.rows(tokens, plan, cache)
        cache.advance(len(tokens))
        return hidden[-1:] if only_last else hidden

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, cache: Cache, soft: Tensor | None = None, num_rows: Tensor | None = None
    ) -> Tensor:
        """One bidirectional pass of the canvases [B, L]; the cache is only read. -> [B, L, H]."""
        B, L = tokens.shape
        plan = self.plan_rows(cache, 0, num_rows, L, B)
        return self.rows(tokens.flatten(), plan, cache, None if soft is None else soft.flatten(0, 1)).view(B, L, -1)

    @torch.no_grad()
    def branch(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Causal pass of several continuations [B, L] of the cached prompt; the cache is only read. -> [B, L, H]."""
        (B, L), start = tokens.shape, cache.length
        row = torch.arange(L, device=self.device).repeat(B)
        first = torch.arange(B, device=self.device).repeat_interleave(L) * L
        ranges: dict[int | None, Tensor] = {}
        for window in {spec.window for spec in self.config.layers}:
            reach = row + 1 + start if window is None else torch.full_like(row, window)
            low = (start + row + 1 - reach).clamp(0, start)
            own = first + (row + 1 - reach).clamp_min(0)
            seen = (low + cache.origin, torch.full_like(row, start + cache.origin), own, first + row + 1)
            ranges[window] = torch.stack(seen, dim=1).to(torch.int32)
        plan = RowPlan(start + row, 0, ranges, self.ropes(start + row), is_branch=True)
        return self.rows(tokens.flatten(), plan, cache).view(B, L, -1)

    # -- weights -----------------------------------------------------------------------------------------------------

    def dequantised(self) -> DiffusionGemma:
        """The same weights as the plain fp32 model: the truth that this one is compared with."""
        state: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            if isinstance(weight, Tensor):
                state[name] = weight.float().cpu()
        for i, layer in enumerate(self.layers):
            at, heads = f"layers.{i}", [self.config.num_heads, layer.spec.num_kv_heads, layer.spec.num_kv_heads]
            rows = [n * layer.spec.head_dim for n in heads[: 3 if layer.spec.has_value_proj else 2]]
            for name, part in zip("qkv", torch.split(unpack(layer.qkv, 0).cpu(), rows)):
                state[f"{at}.self_attn.{name}_proj.weight"] = part
            state[f"{at}.self_attn.o_proj.weight"] = unpack(layer.out, 0).cpu()
            state |= _plain_mlp(f"{at}.mlp", layer.mlp)
            experts = [unpack_experts(layer.experts, e) for e in range(self.config.num_experts)]
            state[f"{at}.experts.gate_up_proj"] = torch.stack([torch.cat((gate, up)) for gate, up, _ in experts]).cpu()
            state[f"{at}.experts.down_proj"] = torch.stack([down for _, _, down in experts]).cpu()
        state |= _plain_mlp("self_conditioning", self._self_conditioning)
        with torch.device("meta"):
            model = DiffusionGemma(self.config)
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).eval()

    def _layer(self, i: int, spec: LayerSpec) -> PackedLayer:
        at = f"layers.{i}"
        return PackedLayer(
            spec=spec,
            qkv=self._matrix(f"{at}.qkv"),
            out=self._matrix(f"{at}.out"),
            mlp=PackedMLP(self._matrix(f"{at}.mlp.gate_up"), self._matrix(f"{at}.mlp.down")),
            experts=PackedExperts(self._matrix(f"{at}.experts.gate_up"), self._matrix(f"{at}.experts.down")),
            norms={name: self._plain(f"{at}.{name}.weight") for name in LAYER_NORMS},
            q_norm=self._plain(f"{at}.self_attn.q_norm.weight"),
            k_norm=self._plain(f"{at}.self_attn.k_norm.weight"),
            router_proj=self._plain(f"{at}.router.proj.weight"),
            router_scale=self._plain(f"{at}.router.scale").float() * self.config.hidden_size**-0.5,
            per_expert_scale=self._plain(f"{at}.router.per_expert_scale").float(),
            decoder_scalar=self._plain(f"{at}.layer_scalar").float(),
            encoder_scalar=self._plain(f"{at}.encoder_layer_scalar").float(),
        )

    def _plain(self, name: str) -> Tensor:
        weight = self._weights.get(name)
        if not isinstance(weight, Tensor):
            raise ValueError(f"the packed model has no tensor {name}")
        return weight

    def _matrix(self, name: str) -> PackedMatrix:
        weight = self._weights.get(name)
        if not isinstance(weight, PackedMatrix):
            raise ValueError(f"the packed model has no matrix {name}")
        return weight


def row_ranges(
    origin: int,
    start: int,
    num_causal: int,
    num_rows: Tensor | None,
    L: int,
    B: int,
    window: int | None,
    device: torch.device,
    padding: int = 0,
) -> Tensor:
    """kernels/attention.row_ranges for B canvases of L rows each, vectorised, with positions counted in the cache's
    storage.

    origin: where position 0 lies there; start: positions cached before this forward; num_rows: int [B] or None;
    padding: rows between the causal ones and the canvases, which see nothing.
    """
    total = start + num_causal
    position = torch.arange(start, total, device=device)
    first = torch.zeros_like(position) if window is None else (position + 1 - window).clamp_min(0)
    zero = torch.zeros_like(position)
    causal = torch.stack((first + origin, position + 1 + origin, zero, zero), dim=1)
    canvas = torch.arange(B, device=device)[:, None].expand(B, L)
    row = torch.arange(L, device=device)[None, :].expand(B, L)
    used = torch.full((B, 1), L, device=device) if num_rows is None else num_rows[:, None]
    low = 0 if window is None else max(0, total - (window - 1))
    own = num_causal + padding + canvas * L
    seen = torch.stack(
        (torch.full_like(own, low + origin), torch.full_like(own, total + origin), own, own + used), dim=-1
    )
    seen = torch.where((row < used)[..., None], seen, 0)
    return torch.cat((F.pad(causal, (0, 0, 0, padding)), seen.reshape(-1, 4))).to(torch.int32)


def _plain_mlp(name: str, mlp: PackedMLP) -> dict[str, Tensor]:
    gate, up = unpack(mlp.gate_up, 0).cpu().chunk(2)
    return {
        f"{name}.gate_proj.weight": gate,
        f"{name}.up_proj.weight": up,
        f"{name}.down_proj.weight": unpack(mlp.down, 0).cpu(),
    }
