"""Speed of every operation on the device at hand, beside PyTorch and torch.compile, only where the answer is right.

A case brings the operation, the truth of the same operands, the bytes that it must move, and PyTorch's best way to the
same numbers from bf16 weights. `run` checks first: a wrong answer gives a row that says so, and no speed. Knows no file
and no terminal: bench/kernels_gpu.py shows the rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from . import attention, dispatch, measure
from .experts import PackedExperts, expert_slots_reference, unpack_experts
from .packing import Format, PackedMatrix, pack_weights, unpack

TOLERANCE = 8e-3
"""Relative error against the fp32 truth: two roundings to bf16 between, where the tests compare one operation at a
time.
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The defaults are the released model's; tests shrink them."""

    hidden: int = 2816
    expert_size: int = 704
    num_experts: int = 128
    top_k: int = 8
    vocab: int = 262144
    heads: int = 16
    kv: tuple[tuple[int, int], ...] = ((8, 256), (2, 512))
    cached: int = 8192
    dense: tuple[int, int] = (4224, 2816)
    rows: tuple[int, ...] = (8, 16, 32, 64, 256)
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the report. torch: the same numbers in plain PyTorch from bf16 weights, or None."""

    name: str
    num_bytes: float
    run: Callable[[], Tensor]
    truth: Callable[[], Tensor]
    torch: Callable[[], Tensor] | None = None
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """error: relative, or the share of wrong choices for an exact case. Times in ms, None: not measured."""

    name: str
    error: float
    is_right: bool
    ms: float | None = None
    gbs: float | None = None
    share_of_copy: float | None = None
    torch_ms: float | None = None
    compiled_ms: float | None = None

    def line(self) -> str:
        if not self.is_right or self.ms is None:
            return f"{self.name:34s} WRONG: error {self.error:.1e}; no speed is shown for a wrong answer"
        assert self.gbs is not None
        assert self.share_of_copy is not None
        other = "".join(
            f"   {label} {ms:8.3f} ms ({ms / self.ms:5.1f}x)" if ms is not None else ""
            for label, ms in (("torch", self.torch_ms), ("compile", self.compiled_ms))
        )
        return (
            f"{self.name:34s} {self.ms:8.3f} ms {self.gbs:7.0f} GB/s {self.share_of_copy:5.0%} of copy"
            f"   error {self.error:.1e}{other}"
        )


def run(device: torch.device, sizes: Sizes, only: str = "", with_compile: bool = True) -> Iterator[Row]:
    """Checks and measures every case whose name contains `only`, one row at a time."""
    is_cuda = device.type == "cuda"
    copy = measure.copy_gbs(device, 2**30 if is_cuda else 2**20)
    for case in cases(device, sizes, only):
        got, truth = case.run().float(), case.truth().float()
        if case.is_exact:
            error = float((got != truth).float().mean())
        else:
            error = float((got - truth).norm() / truth.norm().clamp_min(1e-30))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        # a share of wrong choices above nought is right only where two noisy logits differ by less than fp32 resolves
        is_right = error <= (2e-3 if case.is_exact else TOLERANCE)
        if not is_right:
            yield Row(case.name, error, is_right)
            continue
        ms = _time(case.run, is_cuda)
        gbs = case.num_bytes / ms / 1e6
        torch_ms = compiled_ms = None
        if case.torch is not None:
            torch_ms = _time(case.torch, is_cuda)
            if with_compile:
                compiled_ms = _time(_compiled(case.torch), is_cuda)
        yield Row(case.name, error, is_right, ms, gbs, gbs / copy, torch_ms, compiled_ms)


def cases(device: torch.device, sizes: Sizes, only: str = "") -> Iterator[Case]:
    """The cases one after the other: operands of one are freed before the next needs memory."""
    makers = [_experts(device, sizes), _vocabulary(device, sizes), _attention(device, sizes), _linear(device, sizes)]
    makers += [_glue(device, sizes), _router(device, sizes)]
    for maker in makers:
        for case in maker:
            if only in case.name:
                yield case


def _rand(device: torch.device, *size: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(size, device=device) * scale).to(dtype)


def random_experts(sizes: Sizes, device: torch.device, format: Format = "int4", group_size: int = 64) -> PackedExperts:
    """Random codes under scales that make weights of the usual size; quantising them all would take minutes."""
    H, width = sizes.hidden, sizes.expert_size

    def spread(N: int, K: int) -> PackedMatrix:
        one = pack_weights(torch.randn(1, N, K) / K**0.5, format, group_size)
        shape = (sizes.num_experts, *one.data.shape[1:])
        if format == "int4":
            data = torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32, device=device)
        else:
            data = one.data.to(device).expand(shape).contiguous()
        scale = None if one.scale is None else one.scale.to(device).expand(sizes.num_experts, -1, -1).contiguous()
        return PackedMatrix(data, scale, format, N, K, one.group_size, one.block_k)

    # the interleaved gate and up rows of whole panels
    return PackedExperts(spread(2 * (-(-width // 16) * 16), H), spread(H, width))


def _experts(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_experts = importlib.import_module(".experts_triton", package=__package__)
    H, width, E, K = sizes.hidden, sizes.expert_size, sizes.num_experts, sizes.top_k
    packed = random_experts(sizes, device)
    halves = [unpack_experts(packed, e) for e in range(E)]
    gate_up = torch.stack([torch.cat((gate, up)) for gate, up, _ in halves]).to(torch.bfloat16)
    down = torch.stack([back for _, _, back in halves]).to(torch.bfloat16)
    per_expert = packed.num_bytes / E
    del halves
    for T in sizes.rows:
        x = _rand(device, T, H, dtype=sizes.dtype)
        ids = torch.rand(T, E, device=device).topk(K).indices
        share = torch.softmax(torch.randn(T, K, device=device), -1)
        touched = len(set(ids.flatten().tolist()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        num_bytes = touched * per_expert + 2 * T * (2 * H + 2 * K * (width + H))

        def run_mine(x: Tensor = x, ids: Tensor = ids, share: Tensor = share) -> Tensor:
            out: Tensor = triton_experts.experts(x, ids, share, packed)
            return out

        def true(x: Tensor = x, ids: Tensor = ids, share: Tensor = share) -> Tensor:
            return (expert_slots_reference(x.float(), ids, packed) * share[..., None]).sum(1)

        def plain(x: Tensor = x, ids: Tensor = ids, share: Tensor = share) -> Tensor:
            # every expert on every row, unchosen ones weighted zero: the fastest that needs no host round trip at few
            # rows
            weight = torch.zeros(x.shape[0], E, dtype=x.dtype, device=x.device).scatter(1, ids, share.to(x.dtype))
            gate, up = torch.matmul(x[None], gate_up.transpose(1, 2)).chunk(2, -1)
            act = F.gelu(gate, approximate="tanh") * up * weight.T[..., None]
            return torch.matmul(act, down.transpose(1, 2)).sum(0)

        name = f"experts int4 g64, {T} rows, {touched} of {E}"
        yield Case(name, num_bytes, run_mine, true, plain if T <= 64 else None)


def _vocabulary(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    H, V = sizes.hidden, sizes.vocab
    table = _rand(device, V, H, scale=H**-0.5 * 3, dtype=sizes.dtype)
    for R in sizes.rows[1:]:
        hidden, temperature = _rand(device, R, H, dtype=sizes.dtype), torch.full((R,), 0.7, device=device)
        noise, row_ids = torch.tensor([5, 1], device=device), torch.arange(R, device=device)

        def stats(path: dispatch.Path, hidden: Tensor = hidden, temperature: Tensor = temperature,
                  noise: Tensor = noise, row_ids: Tensor = row_ids) -> Tensor:  # fmt: skip
            wide = hidden.float() if path == "reference" else hidden
            lines = table.float() if path == "reference" else table
            got = dispatch.vocab_stats(
                wide, lines, temperature=temperature, noise=noise, row_ids=row_ids, num_top=8, path=path
            )
            return torch.stack((got.argmax, got.sample))

        def plain(hidden: Tensor = hidden) -> Tensor:
            logits = torch.tanh(F.linear(hidden, table).float() / 30.0) * 30.0
            processed = logits / 0.7
            probability = torch.softmax(processed, -1)
            sample = torch.argmax(processed - torch.log(-torch.log(torch.rand_like(processed))), -1)
            entropy = -(probability * torch.log(probability.clamp_min(1e-30))).sum(-1)
            return torch.topk(logits, 8).values.sum() + entropy.sum() + sample.sum()

        num_bytes = table.numel() * table.element_size() + hidden.numel() * 2
        name = f"vocabulary pass, {R} rows"
        yield Case(name, num_bytes, partial(stats, "triton"), partial(stats, "reference"), plain, is_exact=True)


def _attention(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_attention = importlib.import_module(".attention_triton", package=__package__)
    S, T, Hq = sizes.cached, 64, sizes.heads
    for Hkv, D in sizes.kv:
        query, key, value = (_rand(device, T, n, D, scale=D**-0.25, dtype=sizes.dtype) for n in (Hq, Hkv, Hkv))
        cached_key, cached_value = (_rand(device, Hkv, S, D, scale=D**-0.25, dtype=sizes.dtype) for _ in range(2))
        ranges = attention.row_ranges(S, 0, [T // 2, T - T // 2], None, device)
        operands = (query, key, value, cached_key, cached_value)

        def run_mine(operands: tuple[Tensor, ...] = operands, ranges: Tensor = ranges) -> Tensor:
            out: Tensor = triton_attention.canvas_attention(*operands, ranges)
            return out

        def true(operands: tuple[Tensor, ...] = operands, ranges: Tensor = ranges) -> Tensor:
            q, k, v, ck, cv = (x.float() for x in operands)
            return attention.canvas_attention_reference(q, k, v, ck, cv, ranges)

        def plain(operands: tuple[Tensor, ...] = operands) -> Tensor:
            q, k, v, ck, cv = operands
            keys = torch.cat((ck, k.transpose(0, 1)), 1)[None]
            values = torch.cat((cv, v.transpose(0, 1)), 1)[None]
            return F.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, scale=1.0, enable_gqa=True)

        num_bytes = 2 * (cached_key.numel() + key.numel()) * 2 + 2 * query.numel() * 2
        yield Case(f"attention D={D}, {S} cached, {T} rows", num_bytes, run_mine, true, plain)


def _linear(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_linear = importlib.import_module(".linear_triton", package=__package__)
    N, K = sizes.dense
    formats: tuple[tuple[Format, int], ...] = (("int8", 64), ("fp8", 0), ("int4", 64))
    for format, group_size in formats:
        weight = pack_weights(torch.randn(1, N, K, device=device) / K**0.5, format, group_size)
        plain_weight = unpack(weight, 0).to(torch.bfloat16)
        for T in sizes.rows[1::2]:
            x = _rand(device, T, K, dtype=sizes.dtype)

            def run_mine(x: Tensor = x, weight: PackedMatrix = weight) -> Tensor:
                out: Tensor = triton_linear.linear(x, weight)
                return out

            def true(x: Tensor = x, weight: PackedMatrix = weight) -> Tensor:
                return dispatch.linear(x.float(), weight, path="reference")

            def plain(x: Tensor = x, plain_weight: Tensor = plain_weight) -> Tensor:
                return F.linear(x, plain_weight.to(x.dtype))

            yield Case(f"linear {format} {N}x{K}, {T} rows", weight.num_bytes + 2 * T * (N + K), run_mine, true, plain)


def _glue(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    H, K, T = sizes.hidden, sizes.top_k, 64
    x, dense, slots = (_rand(device, *size, dtype=sizes.dtype) for size in ((T, H), (1, T, H), (T, K, H)))
    share = torch.softmax(torch.randn(T, K, device=device), -1)
    w1, w2, w3, w4 = (_rand(device, H, dtype=sizes.dtype) for _ in range(4))
    scalar = torch.ones(1, device=device)

    def glue(path: dispatch.Path, x: Tensor = x) -> Tensor:
        first, second = dispatch.mlp_glue(x, dense, slots, share, w1, w2, w3, scalar, w4, 1e-6, path=path)
        return torch.stack((first, second))

    num_bytes = 2.0 * T * H * (4 + K)
    yield Case(
        f"glue after the MLPs, {T} rows", num_bytes, lambda: glue("triton"), lambda: glue("reference", x.float()),
        lambda: glue("reference"),
    )  # fmt: skip


def _router(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    E, K, T = sizes.num_experts, sizes.top_k, 64
    x, proj = _rand(device, T, sizes.hidden, dtype=sizes.dtype), _rand(device, E, sizes.hidden, scale=0.02)
    scale = torch.ones(E, device=device)

    def weights(path: dispatch.Path, x: Tensor = x) -> Tensor:
        return dispatch.router(x, proj.to(x.dtype), scale, K, path=path)[1]

    def plain() -> Tensor:
        top, ids = torch.topk(F.linear(x, proj).float(), K, dim=-1)
        return torch.softmax(top, dim=-1) * scale[ids]

    num_bytes = 2.0 * (E + T) * sizes.hidden
    yield Case(
        f"router, {T} rows", num_bytes, lambda: weights("triton"), lambda: weights("reference", x.float()), plain
    )


def _time(work: Callable[[], Tensor], is_cuda: bool) -> float:
    if not is_cuda:
        return measure.time_ms(work, repeats=1, warm_up=0, is_cuda=False)
    try:
        return measure.time_ms(measure.as_graph(work))
    except RuntimeError:
        # what waits for the device cannot be captured
        torch.cuda.synchronize()
        return measure.time_ms(work)


def _compiled(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.compile(work, dynamic=False)
