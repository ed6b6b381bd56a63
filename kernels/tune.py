"""`lacuna tune`: measures tile candidates on the user's own card and returns the table of winners.

The caller shows progress and keeps the result (`tiles.use` puts it to work). A candidate that does not compile, does
not fit the card or does not give the truth is passed over, the shipped tile like any other; when the time is up, what
was not measured keeps its shipped tile. Knows no file and no terminal.
"""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import agreement, measure, tiles
from .agreement import Answer, Truth
from .attention import canvas_attention_reference, row_ranges
from .benchmark import random_experts, router_truth, vocab_answer, vocab_truth
from .experts import PackedExperts, expert_slots_reference
from .linear import linear_reference
from .measure import Operand
from .packing import Format, PackedMatrix, pack_weights
from .tiles import Table, Tile

Progress = Callable[[int, int, str], None]
"""(jobs done, jobs in all, what is measured now)"""


@dataclass(frozen=True, slots=True)
class TuneShape:
    """The operands' sizes; the defaults are the released model's, with as many experts as exceed any cache."""

    hidden: int = 2816
    expert_size: int = 704
    num_experts: int = 64
    num_routed: int = 128
    """Experts that the router chooses among"""
    top_k: int = 8
    dense_size: int = 4096
    vocab: int = 65536
    heads: int = 16
    kv: tuple[tuple[int, int], ...] = ((8, 256), (2, 512))
    """(key heads, head size) of each kind of layer"""
    cached: int = 4096


@dataclass(frozen=True, slots=True)
class Winner:
    """What became of one entry of the table. Times in ms; best_ms equals shipped_ms when the shipped tile stays, and
    shipped_ms is infinite when that one does not run on this card or gives another answer.
    """

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
    width = next(key for key in ("BV", "BS", "BE", "BN") if key in shipped)
    found = [shipped]
    changes = [
        (width, 2 * shipped[width]),
        (width, shipped[width] // 2),
        ("warps", 2 * shipped["warps"]),
        ("warps", shipped["warps"] // 2),
    ]
    if "stages" in shipped:
        changes = [("stages", shipped["stages"] + 1), ("stages", shipped["stages"] - 1), *changes]
    if operation.startswith("linear"):
        split = shipped.get("split", 1)
        changes += [("split", 2 * split), ("split", split // 2)]
    if operation.endswith(".int4"):
        changes.append(("fold", 1 - shipped.get("fold", 0)))
    for key, value in changes:
        tile = {**shipped, key: value}
        # a dot wants 16 keys, a warp 8 weight rows, a pipeline two stages; more than 8 warps only where that is shipped
        is_sane = 16 <= tile[width] <= 256 and 1 <= tile["warps"] <= max(8, shipped["warps"])
        is_sane = is_sane and 2 <= tile.get("stages", 2) <= 6 and 1 <= tile.get("split", 1) <= 16
        if is_sane and (operation == "attention" or tile[width] >= 8 * tile["warps"]):
            found.append(tile)
    return found


def tune(
    device: torch.device,
    progress: Progress,
    seconds: float = 110.0,
    measured_by: measure.Measure | None = None,
) -> Tuned:
    """Measures the device. progress is called before each candidate. Raises: ValueError without a CUDA device."""
    if device.type != "cuda" and measured_by is None:
        raise ValueError(f"tiles are measured on a CUDA device, not on {device}")
    deadline = time.monotonic() + seconds
    clock = measured_by or _graph_ms
    table = copy.deepcopy(tiles.table_of(device))
    jobs = list(_jobs(table, TuneShape(), device))
    total = sum(len(candidates(job.operation, job.tile)) for job in jobs)
    done, winners, is_complete = 0, list[Winner](), True
    for job in jobs:
        best: tuple[float, Tile] | None = None
        truth: Truth | None = None
        shipped_ms, num_measured = float("inf"), 0
        operands = measure.copies(job.moved, measure.cache_bytes(device))
        for index, tile in enumerate(candidates(job.operation, job.tile)):
            if time.monotonic() > deadline:
                is_complete = False
                break
            progress(done, total, f"{job.operation}, {job.rows:g} rows")
            done += 1
            truth = truth or job.truth()
            try:
                if not agreement.judge(job.run(tile, *job.moved), truth)[1]:
                    continue
                elapsed = clock([partial(job.run, tile, *moved) for moved in operands])
            except Exception:
                # too much shared memory, too many registers, a shape the compiler refuses: not a candidate here
                continue
            num_measured += 1
            if index == 0:
                shipped_ms = elapsed
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
    """One entry of the table, how to run the operation with a tile in its place, run(tile, *moved), and what it has to
    give. moved: what a step finds in memory, of which each call takes another copy.
    """

    operation: str
    rows: float
    tile: Tile
    entries: list[Tile]
    index: int
    run: Callable[..., Answer]
    truth: Callable[[], Truth]
    moved: tuple[Operand, ...] = ()


def _jobs(table: Table, shape: TuneShape, device: torch.device) -> Iterator[_Job]:
    """The operations of a denoise step, the heaviest first; then those of formats that few choose, which go without
    when the time is over.
    """
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float32).to(torch.bfloat16).to(device)

    for maker in (
        partial(_expert_jobs, format="int4"), partial(_linear_jobs, format="int8"), _vocab_jobs, _attention_jobs,
        _router_jobs, partial(_expert_jobs, format="int8"), partial(_linear_jobs, format="int4"),
    ):  # fmt: skip
        yield from maker(table, shape, device, rand)


Rand = Callable[..., Tensor]
"""Normal bf16 numbers of a size on the device"""


def _expert_jobs(table: Table, shape: TuneShape, device: torch.device, rand: Rand, *, format: Format) -> Iterator[_Job]:
    triton_experts = importlib.import_module(".experts_triton", package=__package__)
    experts = random_experts(shape.num_experts, shape.hidden, shape.expert_size, device, format)
    kind = "int4" if format == "int4" else "wide"
    generator = torch.Generator().manual_seed(1)
    for half, other in (("gate_up", "down"), ("down", "gate_up")):
        entries, others = table[f"{half}.{kind}"], table[f"{other}.{kind}"]
        for index, tile in enumerate(entries):
            per_expert = tile.get("rows", 2 * tile["BM"])
            T = max(1, round(per_expert * shape.num_experts / shape.top_k))
            x = rand(T, shape.hidden)
            ids = torch.rand(T, shape.num_experts, generator=generator).topk(shape.top_k).indices.to(device)
            # the other half of the operation takes a fixed tile with the same rows, so that routing runs once
            fixed = {**others[min(index, len(others) - 1)], "BM": tile["BM"]}

            def run(t: Tile, experts: PackedExperts, half: str = half, x: Tensor = x, ids: Tensor = ids,
                    fixed: Tile = fixed) -> Answer:  # fmt: skip
                pair = (t, fixed) if half == "gate_up" else (fixed, t)
                return (triton_experts.expert_slots(x, ids, experts, *pair),)

            def truth(x: Tensor = x, ids: Tensor = ids) -> Truth:
                return (expert_slots_reference(x.float(), ids, experts),)

            yield _Job(f"{half}.{kind}", per_expert, dict(tile), entries, index, run, truth, (experts,))


def _linear_jobs(table: Table, shape: TuneShape, device: torch.device, rand: Rand, *, format: Format) -> Iterator[_Job]:
    triton_linear = importlib.import_module(".linear_triton", package=__package__)
    weight = pack_weights(rand(shape.dense_size, shape.hidden) * shape.hidden**-0.5, format, 64)
    operation = "linear.int4" if format == "int4" else "linear.wide"
    for index, tile in enumerate(table[operation]):
        x = rand(tile.get("rows", 2 * tile["BM"]), shape.hidden)

        def run(t: Tile, weight: PackedMatrix, x: Tensor = x) -> Answer:
            return (triton_linear.linear(x, weight, t),)

        def truth(x: Tensor = x) -> Truth:
            return (linear_reference(x.float(), weight),)

        yield _Job(operation, x.shape[0], dict(tile), table[operation], index, run, truth, (weight,))


def _vocab_jobs(table: Table, shape: TuneShape, device: torch.device, rand: Rand) -> Iterator[_Job]:
    triton_vocab = importlib.import_module(".vocab_triton", package=__package__)
    noise = torch.zeros(2, dtype=torch.int64, device=device)
    # logits as a model has them: larger ones would all be at the cap
    vocab_rows = rand(shape.vocab, shape.hidden) * (3 * shape.hidden**-0.5)
    for index, tile in enumerate(table["vocab"]):
        # the last entry serves the rest of what a canvas has
        R = tile.get("rows", 256)
        hidden, ones = rand(R, shape.hidden), torch.ones(R, device=device)
        row_ids = torch.arange(R, device=device)

        def run(t: Tile, vocab_rows: Tensor, hidden: Tensor = hidden, ones: Tensor = ones,
                row_ids: Tensor = row_ids) -> Answer:  # fmt: skip
            return vocab_answer(
                triton_vocab.vocab_stats(
                    hidden, vocab_rows, softcap=30.0, temperature=ones, noise=noise, num_top=8, row_ids=row_ids,
                    is_banned=None, tile=t,
                )
            )  # fmt: skip

        truth = partial(vocab_truth, hidden, vocab_rows, ones, noise, row_ids)
        yield _Job("vocab", R, dict(tile), table["vocab"], index, run, truth, (vocab_rows,))


def _attention_jobs(table: Table, shape: TuneShape, device: torch.device, rand: Rand) -> Iterator[_Job]:
    triton_attention = importlib.import_module(".attention_triton", package=__package__)
    ranges = row_ranges(shape.cached, 0, [64], None, device)
    entries = table["attention"]
    for Hkv, D in shape.kv:
        query, key, value = (rand(64, heads, D) * 0.4 for heads in (shape.heads, Hkv, Hkv))
        cache = (rand(Hkv, shape.cached, D) * 0.4, rand(Hkv, shape.cached, D) * 0.4)
        index = next(i for i, t in enumerate(entries) if t.get("rows", D) >= D)

        def run(t: Tile, cached_key: Tensor, cached_value: Tensor, query: Tensor = query, key: Tensor = key,
                value: Tensor = value) -> Answer:  # fmt: skip
            return (triton_attention.canvas_attention(query, key, value, cached_key, cached_value, ranges, t),)

        def truth(operands: tuple[Tensor, ...] = (query, key, value, *cache)) -> Truth:
            q, k, v, ck, cv = (part.float() for part in operands)
            return (canvas_attention_reference(q, k, v, ck, cv, ranges),)

        yield _Job("attention", D, dict(entries[index]), entries, index, run, truth, cache)


def _router_jobs(table: Table, shape: TuneShape, device: torch.device, rand: Rand) -> Iterator[_Job]:
    triton_router = importlib.import_module(".router_triton", package=__package__)
    proj, scale = rand(shape.num_routed, shape.hidden) * 0.02, torch.ones(shape.num_routed, device=device)
    for index, tile in enumerate(table["router"]):
        x = rand(tile.get("rows", 256), shape.hidden)

        def run(t: Tile, proj: Tensor, x: Tensor = x) -> Answer:
            got: Answer = triton_router.router(x, proj, scale, shape.top_k, t)
            return got

        truth = partial(router_truth, x, proj, scale, shape.top_k)
        yield _Job("router", x.shape[0], dict(tile), table["router"], index, run, truth, (proj,))


def _graph_ms(works: Sequence[measure.Work]) -> float:
    return measure.time_ms(measure.as_graph(works), repeats=10, warm_up=2) / len(works)
