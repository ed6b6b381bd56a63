"""The one place where an operation's path is chosen: Triton on CUDA, the PyTorch truth everywhere else.

    from lacuna_ls.kernels import dispatch as ops
    y = ops.experts(x, ids, weights, packed)

`path` ("triton" or "reference") overrides the choice for one call; LACUNA_KERNELS=reference overrides it for the
process, which is how a wrong answer on somebody's card is narrowed down; another value of it is told once in the log
and changes nothing. Without Triton (Windows, macOS, ARM) the truth is used on every device. Nothing below this file
knows about that choice. Signatures are those of the truths, see each module.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from . import norms
from .attention import canvas_attention_reference
from .experts import PackedExperts, expert_slots_reference, experts_reference
from .linear import linear_parts_reference, linear_reference
from .packing import PackedMatrix
from .router import router_reference
from .vocab import VocabStats, vocab_stats_reference

logger = logging.getLogger(__name__)

Path = Literal["triton", "reference"]
Given = ParamSpec("Given")
Result = TypeVar("Result")


@cache
def has_triton() -> bool:
    """Whether Triton can be imported here. It need not mean that there is a GPU."""
    return importlib.util.find_spec("triton") is not None


def choose(x: Tensor, path: Path | None) -> Path:
    """The path for an operation on x."""
    if path is not None:
        return path
    if _wants_reference(os.environ.get("LACUNA_KERNELS", "")) or not x.is_cuda or not has_triton():
        return "reference"
    return "triton"


@cache
def _wants_reference(wanted: str) -> bool:
    """Whether a value of LACUNA_KERNELS asks for the truth. What it cannot be is told once: the cache remembers."""
    if wanted not in ("", "triton", "reference"):
        logger.warning("LACUNA_KERNELS is %r; use 'reference' for the PyTorch path, or unset it", wanted)
    return wanted == "reference"


def _operation(truth: Callable[Given, Result], x: Tensor, path: Path | None) -> Callable[Given, Result]:
    """What computes an operation on x: its truth `NAME_reference`, or the kernel NAME beside it in `*_triton.py`."""
    if choose(x, path) == "reference":
        return truth
    kernels = importlib.import_module(f"{truth.__module__}_triton")
    kernel: Callable[Given, Result] = getattr(kernels, truth.__name__.removesuffix("_reference"))
    return kernel


def experts(x: Tensor, ids: Tensor, weights: Tensor, packed: PackedExperts, *, path: Path | None = None) -> Tensor:
    """The weighted sum of the chosen experts. x: [T, H]; ids: int [T, K]; weights: [T, K] -> [T, H]."""
    if ids.shape != weights.shape or ids.shape[0] != x.shape[0] or x.shape[1] != packed.hidden_size:
        given = f"x {tuple(x.shape)}, ids {tuple(ids.shape)}, weights {tuple(weights.shape)}"
        raise ValueError(f"{given} for H={packed.hidden_size}")
    return _operation(experts_reference, x, path)(x, ids, weights, packed)


def expert_slots(x: Tensor, ids: Tensor, packed: PackedExperts, *, path: Path | None = None) -> Tensor:
    """The chosen experts' answers before the weighted sum [T, K, H], which `mlp_glue` finishes."""
    if ids.shape[0] != x.shape[0] or x.shape[1] != packed.hidden_size:
        raise ValueError(f"x {tuple(x.shape)} and ids {tuple(ids.shape)} for H={packed.hidden_size}")
    return _operation(expert_slots_reference, x, path)(x, ids, packed)


def linear(x: Tensor, weight: PackedMatrix, *, path: Path | None = None) -> Tensor:
    """x: [T, K] @ weight.T -> [T, N]."""
    _check_product(x, weight)
    return _operation(linear_reference, x, path)(x, weight)


def linear_parts(x: Tensor, weight: PackedMatrix, *, path: Path | None = None) -> Tensor:
    """The same before its last addition, [P, T, N]: for the operations below that add as they read."""
    _check_product(x, weight)
    return _operation(linear_parts_reference, x, path)(x, weight)


def _check_product(x: Tensor, weight: PackedMatrix) -> None:
    if x.dim() != 2 or x.shape[1] != weight.num_cols or weight.num_matrices != 1:
        wanted = f"{weight.num_matrices} x [{weight.num_rows}, {weight.num_cols}]"
        raise ValueError(f"x {tuple(x.shape)} does not fit {wanted}")


def vocab_stats(
    hidden: Tensor,
    table: Tensor,
    *,
    softcap: float = 30.0,
    temperature: float | Tensor = 1.0,
    noise: Tensor | None = None,
    num_top: int = 8,
    row_ids: Tensor | None = None,
    is_banned: Tensor | None = None,
    path: Path | None = None,
) -> VocabStats:
    """Logits, argmax, sample, entropies and top-k of every row in one sweep over the table; see vocab.VocabStats.

    temperature: a number > 0, or fp32 [R]; row_ids: int [R], default 0..R-1; is_banned: bool [V]. noise: seed and step,
    default 0, as int64 [2] on the device, so that a CUDA graph can be replayed with other values in it.
    """
    R = hidden.shape[0]
    if hidden.shape[1] != table.shape[1] or not 1 <= num_top <= min(16, table.shape[0]):
        raise ValueError(f"hidden {tuple(hidden.shape)}, table {tuple(table.shape)}, num_top {num_top} (1..16)")
    if not isinstance(temperature, Tensor):
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; greedy decoding reads argmax")
        temperature = torch.full((R,), temperature, dtype=torch.float32, device=hidden.device)
    if row_ids is None:
        row_ids = torch.arange(R, device=hidden.device)
    if noise is None:
        noise = torch.zeros(2, dtype=torch.int64, device=hidden.device)
    return _operation(vocab_stats_reference, hidden, path)(
        hidden, table, softcap=softcap, temperature=temperature, noise=noise, num_top=num_top, row_ids=row_ids,
        is_banned=is_banned,
    )  # fmt: skip


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, *, path: Path | None = None) -> Tensor:
    """x: [T, H] -> [T, H]."""
    return _operation(norms.rms_norm_reference, x, path)(x, weight, eps)


def qkv_norm_rotate(
    qkv: Tensor,
    num_q: int,
    num_kv: int,
    q_weight: Tensor,
    k_weight: Tensor,
    rope: tuple[Tensor, Tensor],
    eps: float,
    *,
    path: Path | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A joint projection [P, T, heads, D] to normed and rotated q, k and v in one launch; rope: cos and sin [T, D]."""
    if qkv.dim() != 4 or qkv.shape[2] not in (num_q + num_kv, num_q + 2 * num_kv) or qkv.shape[3] % 2:
        raise ValueError(f"qkv {tuple(qkv.shape)} has neither {num_q}+{num_kv} nor {num_q}+2*{num_kv} even heads")
    return _operation(norms.qkv_norm_rotate_reference, qkv, path)(qkv, num_q, num_kv, q_weight, k_weight, rope, eps)


def attention_glue(
    x: Tensor,
    attention: Tensor,
    post_attention: Tensor,
    dense: Tensor,
    sparse: Tensor,
    router: Tensor,
    eps: float,
    *,
    path: Path | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Between attention and the MLPs: x1 and the inputs of dense MLP, experts and router, in one launch. attention:
    [P, T, H].
    """
    return _operation(norms.attention_glue_reference, x, path)(x, attention, post_attention, dense, sparse, router, eps)


def mlp_glue(
    x: Tensor,
    dense: Tensor,
    slots: Tensor,
    slot_weights: Tensor,
    post_dense: Tensor,
    post_sparse: Tensor,
    post_both: Tensor,
    scalar: Tensor,
    next_norm: Tensor,
    eps: float,
    *,
    path: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Between the MLPs and the next layer: weighted sum of experts, four norms, layer scalar, in one launch. dense:
    [P, T, H].
    """
    compute = _operation(norms.mlp_glue_reference, x, path)
    return compute(x, dense, slots, slot_weights, post_dense, post_sparse, post_both, scalar, next_norm, eps)


def gated_gelu(gate_up: Tensor, dtype: torch.dtype, *, path: Path | None = None) -> Tensor:
    """The dense MLP's activation, [P, T, 2 N] to [T, N] in dtype, in one launch."""
    if gate_up.dim() != 3 or gate_up.shape[2] % 2:
        raise ValueError(f"gate and up of shape {tuple(gate_up.shape)} are not parts of two halves")
    return _operation(norms.gated_gelu_reference, gate_up, path)(gate_up, dtype)


def router(
    x: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int, *, path: Path | None = None
) -> tuple[Tensor, Tensor]:
    """x: [T, H]; proj: [E, H] -> ids int32 and weights fp32, [T, K] each; see router.router_reference."""
    if x.shape[1] != proj.shape[1] or not 1 <= top_k <= proj.shape[0]:
        raise ValueError(f"x {tuple(x.shape)}, proj {tuple(proj.shape)}, top_k {top_k}")
    return _operation(router_reference, x, path)(x, proj, per_expert_scale, top_k)


def soft_embedding(ids: Tensor, weights: Tensor, table: Tensor, scale: float, *, path: Path | None = None) -> Tensor:
    """ids, weights: [R, k]; table: [V, H] -> [R, H]."""
    return _operation(norms.soft_embedding_reference, table, path)(ids, weights, table, scale)


def canvas_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cached_key: Tensor,
    cached_value: Tensor,
    ranges: Tensor,
    *,
    path: Path | None = None,
) -> Tensor:
    """query: [T, Hq, D] over cache [Hkv, S, D] and rows [T, Hkv, D], by ranges (attention.row_ranges) -> [T, Hq, D]."""
    if query.shape[1] % key.shape[1] or ranges.shape != (query.shape[0], 4):
        raise ValueError(f"query {tuple(query.shape)}, key {tuple(key.shape)}, ranges {tuple(ranges.shape)}")
    compute = _operation(canvas_attention_reference, query, path)
    return compute(query, key, value, cached_key, cached_value, ranges)
