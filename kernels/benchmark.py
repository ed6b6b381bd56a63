"""Speed of every operation on the device at hand, beside PyTorch and torch.compile, only where the answer is right.

A case brings the operation, the truth of the same operands, the bytes that it must move, and PyTorch's ways to the same
numbers from bf16 weights, of which the quickest counts. `run` checks first: a wrong answer, or an operation whose tests
are not known to be green, gives a row that says so, and no speed. Knows no file and no terminal: bench/kernels_gpu.py
shows the rows.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from . import agreement, attention, dispatch, measure, vocab
from .agreement import Answer, Scores, Truth
from .experts import PackedExperts, expert_slots_reference, unpack_experts
from .measure import Operand
from .packing import Format, PackedMatrix, pack_weights, unpack
from .vocab import VocabStats

OPERATIONS = ("experts", "vocab", "attention", "linear", "norms", "router")
"""As the modules with their truths are called, and the files with their tests."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The defaults are the released model's; tests shrink them. kv: (key heads, head size, window) of each kind of
    layer.
    """

    hidden: int = 2816
    expert_size: int = 704
    num_experts: int = 128
    top_k: int = 8
    vocab: int = 262144
    heads: int = 16
    kv: tuple[tuple[int, int, int | None], ...] = ((8, 256, None), (8, 256, 1024), (2, 512, None))
    cached: int = 8192
    dense: tuple[int, int] = (4224, 2816)
    rows: tuple[int, ...] = (8, 16, 32, 64, 256)
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the report.

    run(*moved): the operation. moved: what a step finds in memory, weights and caches; while it is measured each call
    takes another copy. baselines: the same numbers in plain PyTorch, called with baseline_moved.
    """

    operation: str
    name: str
    num_bytes: float
    run: Callable[..., Answer]
    truth: Callable[[], Truth]
    moved: tuple[Operand, ...] = ()
    baselines: tuple[Callable[..., object], ...] = ()
    baseline_moved: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """error: the largest of a row, or the share of wrong choices; None where the operation's tests are not green. Times
    in ms, None: not measured.
    """

    name: str
    error: float | None
    is_right: bool
    ms: float | None = None
    gbs: float | None = None
    share_of_copy: float | None = None
    torch_ms: float | None = None
    compiled_ms: float | None = None

    def line(self) -> str:
        if self.error is None:
            return f"{self.name:34s} no speed is shown: the tests of this operation are not green"
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


def run(
    device: torch.device,
    sizes: Sizes,
    only: str = "",
    compile_s: float = 100.0,
    proven: Collection[str] = OPERATIONS,
) -> Iterator[Row]:
    """Checks and measures every case whose name contains `only`, one row at a time. compile_s: after so many seconds no
    more baselines are compiled. proven: the operations whose tests are green; others are not measured.
    """
    deadline = time.monotonic() + compile_s
    is_cuda = device.type == "cuda"
    copy = measure.copy_gbs(device, 2**30 if is_cuda else 2**20)
    for case in cases(device, sizes, only):
        if case.operation not in proven:
            yield Row(case.name, None, is_right=False)
            continue
        error, is_right = agreement.judge(case.run(*case.moved), case.truth())
        if not is_right:
            yield Row(case.name, error, is_right)
            continue
        ms = _time(case.run, case.moved, device)
        gbs = case.num_bytes / ms / 1e6
        times, compiled, is_in_time = list[float](), list[float](), time.monotonic() < deadline
        for work in case.baselines:
            # somebody else's program, at sizes that nobody tried it at: where it fails there is no time of it
            with contextlib.suppress(Exception):
                times.append(_time(work, case.baseline_moved, device, can_wait=True))
            with contextlib.suppress(Exception):
                compiled += [_time(_compiled(work), case.baseline_moved, device, can_wait=True)] if is_in_time else []
        yield Row(
            case.name, error, is_right, ms, gbs, gbs / copy, min(times, default=None), min(compiled, default=None)
        )


def cases(device: torch.device, sizes: Sizes, only: str = "") -> Iterator[Case]:
    """The cases one after the other: operands of one are freed before the next needs memory."""
    for maker in (_experts, _vocabulary, _attention, _linear, _norms, _router):
        for case in maker(device, sizes):
            if only in case.name:
                yield case


def _rand(device: torch.device, *size: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(size, device=device) * scale).to(dtype)


def random_experts(
    num_experts: int, hidden: int, expert_size: int, device: torch.device, format: Format = "int4", group_size: int = 64
) -> PackedExperts:
    """Random codes under scales that make weights of the usual size; quantising them all would take minutes."""

    def spread(N: int, K: int) -> PackedMatrix:
        weight = torch.randn(1, N, K) / K**0.5
        # packed as they are, and a released model's are no fp32
        one = pack_weights(weight.bfloat16() if format == "bf16" else weight, format, group_size)
        shape = (num_experts, *one.data.shape[1:])
        if format == "int4":
            data = torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32, device=device)
        else:
            data = one.data.to(device).expand(shape).contiguous()
        scale = None if one.scale is None else one.scale.to(device).expand(num_experts, -1, -1).contiguous()
        return PackedMatrix(data, scale, format, N, K, one.group_size, one.block_k)

    # the interleaved gate and up rows of whole panels
    return PackedExperts(spread(2 * (-(-expert_size // 16) * 16), hidden), spread(hidden, expert_size))


def vocab_answer(got: VocabStats) -> Answer:
    """What a sampler takes of it. The sample's logit is left out: of two samples that fp32 does not tell apart each has
    its own.
    """
    choices = (got.argmax, got.sample, got.top_ids)
    return (*choices, got.logit, got.lse, got.entropy, got.lse_1, got.entropy_1, got.top_logits)


def vocab_truth(hidden: Tensor, table: Tensor, temperature: Tensor, noise: Tensor, row_ids: Tensor) -> Truth:
    """The truth of `vocab_answer` in fp32 with dispatch's own softcap and num_top; operands as of
    vocab.vocab_stats_reference.
    """
    hidden, table = hidden.float(), table.float()
    logits = vocab.logits_reference(hidden, table, 30.0, None)
    noisy = vocab.noisy_logits_reference(logits / temperature[:, None], noise, row_ids)
    stats = dispatch.vocab_stats(
        hidden, table, temperature=temperature, noise=noise, row_ids=row_ids, path="reference"
    )
    return (Scores(logits), Scores(noisy), Scores(logits), *vocab_answer(stats)[3:])


def _experts(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_experts = importlib.import_module(".experts_triton", package=__package__)
    H, E, K = sizes.hidden, sizes.num_experts, sizes.top_k
    # every format that `lacuna quantize` writes, the usual one at all sizes
    formats: tuple[tuple[Format, int, tuple[int, ...]], ...] = (
        ("int4", 64, sizes.rows), ("int4", 32, sizes.rows[-2:-1]), ("int4", 128, sizes.rows[-2:-1]),
        ("int8", 64, sizes.rows[-2:-1]), ("fp8", 0, sizes.rows[-2:-1]), ("bf16", 0, sizes.rows[-2:-1]),
    )  # fmt: skip
    for format, group_size, rows in formats:
        packed = random_experts(E, H, sizes.expert_size, device, format, group_size)
        plain_weights: tuple[Tensor, ...] = ()
        if (format, group_size) == ("int4", 64):
            halves = [unpack_experts(packed, e) for e in range(E)]
            gate_up = torch.stack([torch.cat((gate, up)) for gate, up, _ in halves]).to(torch.bfloat16)
            plain_weights = (gate_up, torch.stack([back for _, _, back in halves]).to(torch.bfloat16))
            del halves, gate_up
        for T in rows:
            x = _rand(device, T, H, dtype=sizes.dtype)
            ids = torch.rand(T, E, device=device).topk(K).indices
            share = torch.softmax(torch.randn(T, K, device=device), -1)
            touched = len(set(ids.flatten().tolist()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            num_bytes = touched * packed.num_bytes / E + 2 * T * (2 * H + 2 * K * (sizes.expert_size + H))

            def run_mine(packed: PackedExperts, x: Tensor = x, ids: Tensor = ids, share: Tensor = share) -> Answer:
                return (triton_experts.experts(x, ids, share, packed),)

            def true(packed: PackedExperts = packed, x: Tensor = x, ids: Tensor = ids, share: Tensor = share) -> Truth:
                return ((expert_slots_reference(x.float(), ids, packed) * share[..., None]).sum(1),)

            baselines: list[Callable[..., object]] = []
            if plain_weights and T <= 64:
                baselines.append(partial(_every_expert, x=x, ids=ids, share=share))
            if plain_weights and hasattr(F, "grouped_mm"):
                baselines.append(partial(_grouped_experts, x=x, ids=ids, share=share))
            kind = f"{format} g{group_size}" if group_size else format
            name = f"experts {kind}, {T} rows, {touched} of {E}"
            yield Case("experts", name, num_bytes, run_mine, true, (packed,), tuple(baselines), plain_weights)


def _every_expert(gate_up: Tensor, down: Tensor, *, x: Tensor, ids: Tensor, share: Tensor) -> Tensor:
    """Every expert on every row, unchosen ones weighted zero: needs no host round trip, and is quick at few rows.
    gate_up: bf16 [E, 2 I, H]; down: [E, H, I]. -> [T, H].
    """
    weight = torch.zeros(x.shape[0], len(down), dtype=x.dtype, device=x.device).scatter(1, ids, share.to(x.dtype))
    gate, up = torch.matmul(x[None], gate_up.transpose(1, 2)).chunk(2, -1)
    act = F.gelu(gate, approximate="tanh") * up * weight.T[..., None]
    return torch.matmul(act, down.transpose(1, 2)).sum(0)


def _grouped_experts(gate_up: Tensor, down: Tensor, *, x: Tensor, ids: Tensor, share: Tensor) -> Tensor:
    """The same by PyTorch's grouped product over rows in the order of their experts; no round trip either."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    ends = (flat[:, None] == torch.arange(len(down), device=x.device)).sum(0).cumsum(0).to(torch.int32)
    row = order // ids.shape[1]
    gate, up = F.grouped_mm(x[row], gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
    act = F.gelu(gate, approximate="tanh") * up * share.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, row, F.grouped_mm(act, down.transpose(1, 2), offs=ends))


def _vocabulary(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    H, V = sizes.hidden, sizes.vocab
    table = _rand(device, V, H, scale=H**-0.5 * 3, dtype=sizes.dtype)
    for R in sizes.rows[1:]:
        hidden, temperature = _rand(device, R, H, dtype=sizes.dtype), torch.full((R,), 0.7, device=device)
        noise, row_ids = torch.tensor([5, 1], device=device), torch.arange(R, device=device)

        def run_mine(table: Tensor, hidden: Tensor = hidden, temperature: Tensor = temperature,
                     noise: Tensor = noise, row_ids: Tensor = row_ids) -> Answer:  # fmt: skip
            return vocab_answer(
                dispatch.vocab_stats(
                    hidden, table, temperature=temperature, noise=noise, row_ids=row_ids, path="triton"
                )
            )

        def plain(table: Tensor, hidden: Tensor = hidden) -> Tensor:
            logits = torch.tanh(F.linear(hidden, table).float() / 30.0) * 30.0
            processed = logits / 0.7
            probability = torch.softmax(processed, -1)
            sample = torch.argmax(processed - torch.log(-torch.log(torch.rand_like(processed))), -1)
            entropy = -(probability * torch.log(probability.clamp_min(1e-30))).sum(-1)
            return torch.topk(logits, 8).values.sum() + entropy.sum() + sample.sum()

        num_bytes = table.numel() * table.element_size() + hidden.numel() * 2
        true = partial(vocab_truth, hidden, table, temperature, noise, row_ids)
        yield Case("vocab", f"vocabulary pass, {R} rows", num_bytes, run_mine, true, (table,), (plain,), (table,))


def _attention(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_attention = importlib.import_module(".attention_triton", package=__package__)
    S, Hq = sizes.cached, sizes.heads
    for Hkv, D, window in sizes.kv:
        # the shapes of a denoise step at its usual size; the widest is a prefill's
        for T in sizes.rows[-2:]:
            query, key, value = (_rand(device, T, n, D, scale=D**-0.25, dtype=sizes.dtype) for n in (Hq, Hkv, Hkv))
            cache = tuple(_rand(device, Hkv, S, D, scale=D**-0.25, dtype=sizes.dtype) for _ in range(2))
            ranges = attention.row_ranges(S, 0, [T // 2, T - T // 2], window, device)
            rows = (query, key, value)

            def run_mine(cached_key: Tensor, cached_value: Tensor, rows: tuple[Tensor, ...] = rows,
                         ranges: Tensor = ranges) -> Answer:  # fmt: skip
                return (triton_attention.canvas_attention(*rows, cached_key, cached_value, ranges),)

            def true(operands: tuple[Tensor, ...] = (*rows, *cache), ranges: Tensor = ranges) -> Truth:
                q, k, v, ck, cv = (x.float() for x in operands)
                return (attention.canvas_attention_reference(q, k, v, ck, cv, ranges),)

            seen = S if window is None else min(S, window - 1)

            def plain(ck: Tensor, cv: Tensor, rows: tuple[Tensor, ...] = rows, seen: int = seen) -> Tensor:
                q, k, v = (x.transpose(0, 1) for x in rows)
                keys, values = torch.cat((ck[:, -seen:], k), 1)[None], torch.cat((cv[:, -seen:], v), 1)[None]
                return F.scaled_dot_product_attention(q[None], keys, values, scale=1.0, enable_gqa=True)

            num_bytes = 2 * 2 * Hkv * D * (seen + T) + 2 * query.numel() * 2
            name = f"attention D={D}, {seen} cached, {T} rows"
            yield Case("attention", name, num_bytes, run_mine, true, cache, (plain,), cache)


def _linear(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    triton_linear = importlib.import_module(".linear_triton", package=__package__)
    N, K = sizes.dense
    formats: tuple[tuple[Format, int], ...] = (("int8", 64), ("fp8", 0), ("int4", 64))
    for format, group_size in formats:
        weight = pack_weights(torch.randn(1, N, K, device=device) / K**0.5, format, group_size)
        plain_weight = unpack(weight, 0).to(sizes.dtype)
        for T in sizes.rows[1::2]:
            x = _rand(device, T, K, dtype=sizes.dtype)

            def run_mine(weight: PackedMatrix, x: Tensor = x) -> Answer:
                return (triton_linear.linear(x, weight),)

            def true(x: Tensor = x, weight: PackedMatrix = weight) -> Truth:
                return (dispatch.linear(x.float(), weight, path="reference"),)

            def plain(plain_weight: Tensor, x: Tensor = x) -> Tensor:
                return F.linear(x, plain_weight)

            name, num_bytes = f"linear {format} {N}x{K}, {T} rows", weight.num_bytes + 2 * T * (N + K)
            yield Case("linear", name, num_bytes, run_mine, true, (weight,), (plain,), (plain_weight,))


def _norms(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """What stands between the products. Its operands were written a moment ago, so they come from the cache in a step
    too; only the rows of the soft embedding do not.
    """
    H, K, T, dtype = sizes.hidden, sizes.top_k, sizes.rows[-2], sizes.dtype
    Hkv, D, _ = sizes.kv[0]
    heads, width = sizes.heads + 2 * Hkv, sizes.dense[0] // 2
    x, slots = _rand(device, T, H, dtype=dtype), _rand(device, T, K, H, dtype=dtype)
    # split products leave fp32 parts
    parts, gate_up = _rand(device, 4, T, H, dtype=torch.float32), _rand(device, 4, T, 2 * width, dtype=torch.float32)
    qkv = _rand(device, 4, T, heads, D, dtype=torch.float32)
    share = torch.softmax(torch.randn(T, K, device=device), -1)
    w1, w2, w3, w4 = (_rand(device, H, dtype=dtype) for _ in range(4))
    head_weights = [_rand(device, D, dtype=dtype) for _ in range(2)]
    scalar = torch.ones(1, device=device)
    angle = torch.rand(T, D // 2, device=device).repeat(1, 2)
    rope = (angle.cos(), angle.sin())

    def case(name: str, num_values: float, num_parts: float, work: Callable[[dispatch.Path, bool], Answer]) -> Case:
        # the truth sees the same numbers in fp32
        return Case(
            "norms", f"{name}, {T} rows", 2.0 * num_values + 4.0 * num_parts, partial(work, "triton", False),
            partial(work, "reference", True), baselines=(partial(work, "reference", False),),
        )  # fmt: skip

    def rms_norm(path: dispatch.Path, is_wide: bool) -> Answer:
        return (dispatch.rms_norm(x.float() if is_wide else x, w1, 1e-6, path=path),)

    def attention_glue(path: dispatch.Path, is_wide: bool) -> Answer:
        return dispatch.attention_glue(x.float() if is_wide else x, parts, w1, w2, w3, w4, 1e-6, path=path)

    def mlp_glue(path: dispatch.Path, is_wide: bool) -> Answer:
        stream = x.float() if is_wide else x
        return dispatch.mlp_glue(stream, parts, slots, share, w1, w2, w3, scalar, w4, 1e-6, path=path)

    def gated_gelu(path: dispatch.Path, is_wide: bool) -> Answer:
        return (dispatch.gated_gelu(gate_up, torch.float32 if is_wide else dtype, path=path),)

    def qkv_norm_rotate(path: dispatch.Path, is_wide: bool) -> Answer:
        q_weight, k_weight = (w.float() if is_wide else w for w in head_weights)
        return dispatch.qkv_norm_rotate(qkv, sizes.heads, Hkv, q_weight, k_weight, rope, 1e-6, path=path)

    yield case("rms_norm", 2 * T * H, 0, rms_norm)
    yield case("norms and rotation of q, k, v", T * heads * D, qkv.numel() + 2 * T * D, qkv_norm_rotate)
    yield case("glue after attention", 5 * T * H, parts.numel(), attention_glue)
    yield case("gated gelu", T * width, gate_up.numel(), gated_gelu)
    yield case("glue after the MLPs", T * H * (3 + K), parts.numel(), mlp_glue)
    table = _rand(device, sizes.vocab, H, dtype=dtype)
    ids = torch.randint(0, sizes.vocab, (T, 8), device=device)
    token_weights = torch.rand(T, 8, device=device)

    def soft_embedding(path: dispatch.Path, table: Tensor) -> Answer:
        return (dispatch.soft_embedding(ids, token_weights, table, 53.0, path=path),)

    yield Case(
        "norms", f"soft embedding, {T} rows", 2.0 * T * 9 * H, partial(soft_embedding, "triton"),
        lambda: soft_embedding("reference", table.float()), (table,), (partial(soft_embedding, "reference"),), (table,),
    )  # fmt: skip


def _router(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    E, K = sizes.num_experts, sizes.top_k
    proj, scale = _rand(device, E, sizes.hidden, scale=0.02, dtype=sizes.dtype), torch.ones(E, device=device)
    for T in sizes.rows[-2:]:
        x = _rand(device, T, sizes.hidden, dtype=sizes.dtype)

        def run_mine(proj: Tensor, x: Tensor = x) -> Answer:
            return dispatch.router(x, proj, scale, K, path="triton")

        def true(x: Tensor = x) -> Truth:
            return router_truth(x, proj, scale, K)

        def plain(proj: Tensor, x: Tensor = x) -> Tensor:
            top, ids = torch.topk(F.linear(x, proj).float(), K, dim=-1)
            return torch.softmax(top, dim=-1) * scale[ids]

        num_bytes = 2.0 * (E + T) * sizes.hidden
        yield Case("router", f"router, {T} rows", num_bytes, run_mine, true, (proj,), (plain,), (proj,))


def router_truth(x: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int) -> Truth:
    """The truth of a router's ids and weights in fp32; operands as of router.router_reference."""
    weights = dispatch.router(x.float(), proj.float(), per_expert_scale, top_k, path="reference")[1]
    return Scores(x.float() @ proj.float().T), weights


def _time(
    work: Callable[..., object], moved: tuple[Operand, ...], device: torch.device, can_wait: bool = False
) -> float:
    """ms of a call, each on another copy of what it moves. can_wait: where the work cannot be captured, with what the
    host takes to launch it.
    """
    if device.type != "cuda":
        return measure.time_ms(partial(work, *moved), repeats=1, warm_up=0, is_cuda=False)
    works = [partial(work, *operands) for operands in measure.copies(moved, measure.cache_bytes(device))]
    try:
        return measure.time_ms(measure.as_graph(works)) / len(works)
    except RuntimeError:
        # what waits for the device cannot be captured
        if not can_wait:
            raise
        torch.cuda.synchronize()
        return measure.time_ms(lambda: [each() for each in works]) / len(works)


def _compiled(work: Callable[..., object]) -> Callable[..., object]:
    # to the compiler every `partial` is one function, which it compiles eight times and then runs as it is
    torch.compiler.reset()
    return torch.compile(work, dynamic=False)
