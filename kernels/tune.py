"""`lacuna tune`: measures tile candidates on the user's own card and returns the table of winners.

The caller shows progress and keeps the result (`tiles.use` puts it to work). A candidate that does not compile, does
not fit the card or gives another answer than the shipped tile is passed over; when the time is up, what was not
measured keeps its shipped tile. Knows no file and no terminal.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import measure, tiles
from .attention import row_ranges
from .experts import PackedExperts, pack_experts
from .packing import PackedMatrix, pack_weights
from .tiles import Table, Tile

Progress = Callable[[int, int, str], None]
"""(jobs done, jobs in all, what is measured now)"""


@dataclass(frozen=True, slots=True)
class TuneShape:
    """The operands' sizes; the defaults are the released model's, with as many experts as exceed any cache."""

    hidden: int = 2816
    expert_size: int = 704
    num_experts: int = 64
    top_k: int = 8
    dense_size: int = 4096
    vocab: int = 65536
    heads: tuple[int, int] = (16, 8)
    head_size: int = 256
    cached: int = 4096


@dataclass(frozen=True, slots=True)
class Winner:
    """What became of one entry of the table. Times in ms; best_ms equals shipped_ms when the shipped tile stays."""

    operation: str
    rows: float
    tile: Tile
    shipped_ms: float
    best_ms: float
    num_measured: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """table: for `tiles.use({device name: table})`. is_complete: False when the time was over first."""

    table: Table
    winners: tuple[Winner, ...]
    is_complete: bool


def candidates(operation: str, shipped: Tile) -> list[Tile]:
    """The shipped tile, then those that differ from it in one thing: pipeline depth, width, warps, parts of K, and for
    int4 where the offset of the codes is taken off.
    """
    width = "BV" if "BV" in shipped else "BS" if "BS" in shipped else "BN"
    found = [shipped]
    changes = [
        ("stages", shipped["stages"] + 1),
        ("stages", shipped["stages"] - 1),
        (width, 2 * shipped[width]),
        (width, shipped[width] // 2),
        ("warps", 2 * shipped["warps"]),
        ("warps", shipped["warps"] // 2),
    ]
    if operation.startswith("linear"):
        split = shipped.get("split", 1)
        changes += [("split", 2 * split), ("split", split // 2)]
    if operation.endswith(".int4"):
        changes.append(("fold", 1 - shipped.get("fold", 0)))
    for key, value in changes:
        tile = {**shipped, key: value}
        # a dot wants 16 keys, a warp 8 weight rows, a pipeline two stages
        is_sane = 16 <= tile[width] <= 256 and 1 <= tile["warps"] <= 8 and 2 <= tile["stages"] <= 6
        is_sane = is_sane and 1 <= tile.get("split", 1) <= 16
        if is_sane and (operation == "attention" or tile[width] >= 8 * tile["warps"]):
            found.append(tile)
    return found


def tune(
    device: torch.device,
    progress: Progress,
    seconds: float = 110.0,
    shape: TuneShape | None = None,
    measured_by: measure.Measure | None = None,
) -> Tuned:
    """Measures the device. progress is called before each candidate. Raises: ValueError without a CUDA device."""
    if device.type != "cuda" and measured_by is None:
        raise ValueError(f"tiles are measured on a CUDA device, not on {device}")
    deadline = time.monotonic() + seconds
    shape = shape or TuneShape()
    clock = measured_by or _graph_ms
    base = tiles.table_for(_name(device), _capability(device))
    table: Table = {operation: [dict(tile) for tile in entries] for operation, entries in base.items()}
    jobs = list(_jobs(table, shape, device))
    total = sum(len(candidates(job.operation, job.tile)) for job in jobs)
    done, winners, is_complete = 0, list[Winner](), True
    for job in jobs:
        best: tuple[float, Tile] | None = None
        answer: Tensor | None = None
        shipped_ms, num_measured = float("inf"), 0
        for tile in candidates(job.operation, job.tile):
            if time.monotonic() > deadline:
                is_complete = False
                break
            progress(done, total, f"{job.operation}, {job.rows:g} rows")
            done += 1
            try:
                got = job.run(tile)
                if answer is not None and not _agree(got, answer):
                    continue
                elapsed = clock(partial(job.run, tile))
            except Exception:
                # too much shared memory, too many registers, a shape the compiler refuses: not a candidate here
                continue
            num_measured += 1
            if answer is None:
                answer, shipped_ms = got, elapsed
            # a change must be worth more than the noise of two measurements
            if best is None or elapsed < 0.98 * best[0]:
                best = (elapsed, tile)
        if best is not None:
            # candidates keep the shipped tile's limit
            job.entries[job.index] = best[1]
            winners.append(Winner(job.operation, job.rows, best[1], shipped_ms, best[0], num_measured))
        if not is_complete:
            break
    changed = {job.operation for job in jobs}
    return Tuned({name: entries for name, entries in table.items() if name in changed}, tuple(winners), is_complete)


@dataclass(slots=True)
class _Job:
    """One entry of the table, and how to run the operation with a tile in its place."""

    operation: str
    rows: float
    tile: Tile
    entries: list[Tile]
    index: int
    run: Callable[[Tile], Tensor]


def _jobs(table: Table, shape: TuneShape, device: torch.device) -> Iterator[_Job]:
    """The operations of a denoise step, the heaviest first."""
    triton_experts = importlib.import_module(".experts_triton", package=__package__)
    triton_linear = importlib.import_module(".linear_triton", package=__package__)
    triton_vocab = importlib.import_module(".vocab_triton", package=__package__)
    triton_attention = importlib.import_module(".attention_triton", package=__package__)
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float32).to(torch.bfloat16).to(device)

    experts = _random_experts(shape, device)
    for operation in ("gate_up.int4", "down.int4"):
        entries = table[operation]
        for index, tile in enumerate(entries):
            per_expert = tile.get("rows", 2 * tile["BM"])
            T = max(1, round(per_expert * shape.num_experts / shape.top_k))
            x = rand(T, shape.hidden)
            ids = torch.rand(T, shape.num_experts, generator=generator).topk(shape.top_k).indices.to(device)
            # the other half of the operation takes a fixed tile with the same rows, so that routing runs once
            other = "down.int4" if operation == "gate_up.int4" else "gate_up.int4"
            fixed = {**table[other][min(index, len(table[other]) - 1)], "BM": tile["BM"]}

            def run(t: Tile, op: str = operation, x: Tensor = x, ids: Tensor = ids, fixed: Tile = fixed) -> Tensor:
                pair = (t, fixed) if op == "gate_up.int4" else (fixed, t)
                out: Tensor = triton_experts.expert_slots(x, ids, experts, *pair)
                return out

            yield _Job(operation, per_expert, dict(tile), entries, index, run)

    noise = torch.zeros(2, dtype=torch.int64, device=device)
    table_rows = rand(shape.vocab, shape.hidden)
    for index, tile in enumerate(table["vocab"]):
        R = tile.get("rows", 64)
        hidden, ones = rand(R, shape.hidden), torch.ones(R, device=device)
        row_ids = torch.arange(R, device=device)

        def run_vocab(t: Tile, hidden: Tensor = hidden, ones: Tensor = ones, row_ids: Tensor = row_ids) -> Tensor:
            stats = triton_vocab.vocab_stats(
                hidden, table_rows, softcap=30.0, temperature=ones, noise=noise, num_top=8, row_ids=row_ids,
                is_banned=None, tile=t,
            )  # fmt: skip
            out: Tensor = stats.lse
            return out

        yield _Job("vocab", R, dict(tile), table["vocab"], index, run_vocab)

    Hq, Hkv = shape.heads
    cache = rand(Hkv, shape.cached, shape.head_size) * 0.4
    query, key = rand(64, Hq, shape.head_size) * 0.4, rand(64, Hkv, shape.head_size) * 0.4
    ranges = row_ranges(shape.cached, 0, [64], None, device)
    entries = table["attention"]
    index = next(i for i, t in enumerate(entries) if shape.head_size <= t.get("rows", shape.head_size))

    def run_attention(t: Tile) -> Tensor:
        out: Tensor = triton_attention.canvas_attention(query, key, key, cache, cache, ranges, t)
        return out

    yield _Job("attention", shape.head_size, dict(entries[index]), entries, index, run_attention)

    weight = pack_weights(rand(shape.dense_size, shape.hidden), "int8", 64)
    for index, tile in enumerate(table["linear.wide"]):
        x = rand(tile.get("rows", 2 * tile["BM"]), shape.hidden)

        def run_linear(t: Tile, x: Tensor = x) -> Tensor:
            out: Tensor = triton_linear.linear(x, weight, t)
            return out

        yield _Job("linear.wide", x.shape[0], dict(tile), table["linear.wide"], index, run_linear)


def _random_experts(shape: TuneShape, device: torch.device) -> PackedExperts:
    """Experts of the shape with random codes; quantising that many real numbers would take longer than the tuning."""
    one = pack_experts(
        torch.randn(1, 2 * shape.expert_size, shape.hidden), torch.randn(1, shape.hidden, shape.expert_size)
    )

    def spread(matrix: PackedMatrix) -> PackedMatrix:
        assert matrix.scale is not None
        size = (shape.num_experts, *matrix.data.shape[1:])
        data = torch.randint(-(2**31), 2**31 - 1, size, dtype=torch.int32, device=device)
        scale = matrix.scale.to(device).expand(shape.num_experts, -1, -1).contiguous()
        return PackedMatrix(
            data, scale, matrix.format, matrix.num_rows, matrix.num_cols, matrix.group_size, matrix.block_k
        )

    return PackedExperts(spread(one.gate_up), spread(one.down))


def _agree(got: Tensor, want: Tensor) -> bool:
    got, want = got.double(), want.double()
    return float((got - want).square().sum()) <= 1e-4 * float(want.square().sum())


def _graph_ms(work: measure.Work) -> float:
    return measure.time_ms(measure.as_graph(work), repeats=10, warm_up=2)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
