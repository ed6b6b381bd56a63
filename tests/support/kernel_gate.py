"""The offline gate: compiles every shipped tile for its card with no GPU at hand, and says what a card would refuse.

    python tests/support/kernel_gate.py          the table, and what is wrong

Each configuration is launched through the product's own code with the released model's shapes; the launch is caught and
compiled with exactly the specialisation (alignment, dtypes) it would have on the device. Speaks for the pinned Triton.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from triton.compiler.errors import CompilationError

sys.path.insert(0, str(Path(__file__).resolve().parent))
import triton_offline
from lacuna_ls.kernels import (
    attention_triton,
    experts_triton,
    norms_triton,
    packed_triton,
    router_triton,
    tiles,
    vocab_triton,
)
from lacuna_ls.kernels.experts import PackedExperts
from lacuna_ls.kernels.packed_triton import launch
from lacuna_ls.kernels.packing import PANEL, Format, PackedMatrix, block_k_of

H, WIDTH, DENSE, V, HEADS = 2816, 704, 2112, 262144, 16
INT4: tuple[tuple[Format, int], ...] = (("int4", 64), ("int4", 32), ("int4", 128))
WIDE: tuple[tuple[Format, int], ...] = (("fp8", 0), ("bf16", 0), ("int8", 64))
WIDE_EXPERTS: tuple[tuple[Format, int], ...] = (*WIDE, ("int8", 32), ("int8", 128))
"""(format, group size) of everything that `lacuna quantize` writes and a checkpoint is taken over in."""

CARDS: dict[int, tuple[str, tuple[int, int]]] = {
    89: ("NVIDIA GeForce RTX 4090", (8, 9)),
    90: ("NVIDIA H200", (9, 0)),
}
"""Name and capability of the card that stands for an architecture."""

DTYPES = {"int4": torch.int32, "int8": torch.int8, "fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16}


@dataclass
class Row:
    """One compiled configuration."""

    name: str
    tile: str
    report: triton_offline.Report
    problems: list[str]
    weights_per_turn: int = 0
    """Weights that one turn of the main loop decodes and multiplies; 0 where that is not the point."""

    @property
    def cost(self) -> str:
        """Instructions of a thread per weight: what limits an H200 (see kernels/roofline.py)."""
        if not self.weights_per_turn:
            return ""
        threads = 32 * self.report.num_warps
        return f"  {self.report.loop_instructions() * threads / self.weights_per_turn:.2f} instructions a weight"

    def line(self, with_cost: bool = False) -> str:
        """with_cost: also disassemble, which takes as long as compiling."""
        r, o = self.report, self.report.occupancy()
        counts = r.ptx_counts()
        made = " ".join(f"{k} {counts[k]}" for k in ("mma", "wgmma", "ldmatrix", "cp_async") if counts[k])
        return (
            f"sm_{r.arch} {self.name:26s} {self.tile:42s} regs {r.regs:3d}  shared {r.shared:6d}"
            f"  spill {r.spill_stores}  blocks {o['blocks']} ({o['limit']})  warps {o['occupancy']:4.0%}"
            f"  {made}{self.cost if with_cost else ''}{'  <-- ' if self.problems else ''}"
            f"{'; '.join(self.problems)}"
        )


def matrix(E: int, N: int, K: int, format: Format, group_size: int) -> PackedMatrix:
    """A packed matrix of the right shape and strides with nothing in it."""
    block_k = block_k_of(K, format, group_size)
    rows, cols = -(-N // PANEL), -(-K // block_k)
    width = block_k // 8 if format == "int4" else block_k
    data = torch.zeros((E, rows, cols, PANEL, width), dtype=torch.uint8).to(DTYPES[format])
    scale = None
    if group_size:
        scale = torch.zeros((E, -(-K // group_size // 2), rows * PANEL), dtype=torch.int32)
    elif format != "bf16":
        scale = torch.zeros((E, 1, rows * PANEL))
    return PackedMatrix(data, scale, format, N, K, group_size, block_k)


def bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def product(
    op: str, tile: tiles.Tile, format: Format, group_size: int, rows: int = 64, K: int = 0
) -> Callable[[], None]:
    """The launch of one packed product. Experts: two of them, which is as good as 128 for the compiler. K: columns,
    where they are not the operation's usual ones.
    """
    is_gated = op == "gate_up"
    usual, N = (WIDTH, H) if op == "down" else (H, WIDTH if is_gated else 4096)
    K = K or usual
    weight = matrix(1 if op == "linear" else 2, 2 * N if is_gated else N, K, format, group_size)
    slots, experts = torch.zeros(64, dtype=torch.int32), torch.zeros(16, dtype=torch.int32)
    routed = {} if op == "linear" else {"slots": slots, "tile_expert": experts}
    row_div = 8 if is_gated else 1
    return lambda: launch(
        bf16(rows, K),
        weight,
        bf16(512, N),
        tile,
        num_slots=rows,
        num_columns=N,
        row_div=row_div,
        is_gated=is_gated,
        **routed,
    )


def vocab_pass(tile: tiles.Tile, rows: int = 64) -> Callable[[], object]:
    return lambda: vocab_triton.vocab_stats(
        bf16(rows, H), torch.empty((V, H), dtype=torch.bfloat16, device="meta"), softcap=30.0,
        temperature=torch.ones(rows), noise=torch.zeros(2, dtype=torch.int64), num_top=8,
        row_ids=torch.zeros(rows, dtype=torch.int64), is_banned=torch.zeros(V, dtype=torch.bool), tile=tile,
    )  # fmt: skip


def attention(
    tile: tiles.Tile, rows: tuple[int, ...] = (8, 16, 32, 64, 256)
) -> Iterator[tuple[str, Callable[[], object]]]:
    # the candidate's own limit says which head size it is for
    D, kv = {128: (128, 4), 256: (256, 8), 0: (512, 2)}[tile.get("rows", 0)]
    # few rows take a part of the tile
    heights = {attention_triton.fitted(tile, T * HEADS // kv)["BM"]: T for T in rows}
    for BM, T in heights.items():
        cache = bf16(kv, 64, D)
        operands = (bf16(T, HEADS, D), bf16(T, kv, D), bf16(T, kv, D), cache, cache, torch.zeros(T, 4).int())
        # as many splits as the merge has ever to hold
        whole = {**tile, "splits": attention_triton.MAX_SPLITS}
        yield (
            f"attention.{D}{f' BM {BM}' if tile['BM'] != BM else ''}",
            lambda o=operands, t=whole: attention_triton.canvas_attention(*o, t),
        )


def router(tile: tiles.Tile, rows: int = 64) -> Callable[[], object]:
    return lambda: router_triton.router(bf16(rows, H), bf16(128, H), torch.ones(128), 8, tile)


PARTS = sorted({tile.get("split", 1) for table in tiles.shipped().values() for key in ("linear.int4", "linear.wide")
                for tile in table[key]})  # fmt: skip
"""What the shipped tiles split a dense product into."""


def elementwise(T: int = 64) -> Iterator[tuple[str, Callable[[], object]]]:
    """The operations without a tile: one program per row."""
    x, w, K = bf16(T, H), bf16(H), 8
    ids, share = torch.zeros(T, K, dtype=torch.int64), torch.zeros(T, K)
    cos = torch.zeros(T, 256)
    empty = matrix(2, 2 * WIDTH, H, "int4", 64)
    experts = PackedExperts(empty, matrix(2, H, WIDTH, "int4", 64))
    yield "rms_norm", lambda: norms_triton.rms_norm(x, w, 1e-6)
    for parts in PARTS:
        # what a split product leaves is fp32
        def left(*shape: int, n: int = parts) -> torch.Tensor:
            return bf16(1, *shape) if n == 1 else torch.zeros(n, *shape)

        name = f" of {parts} parts" if parts > 1 else ""
        yield (
            f"qkv_norm_rotate{name}",
            lambda left=left: norms_triton.qkv_norm_rotate(left(T, 32, 256), 16, 8, w, w, (cos, cos), 1e-6),
        )
        yield (
            f"attention_glue{name}",
            lambda left=left: norms_triton.attention_glue(x, left(T, H), w, w, w, w, 1e-6),
        )
        yield (
            f"mlp_glue{name}",
            lambda left=left: norms_triton.mlp_glue(
                x, left(T, H), bf16(T, K, H), share, w, w, w, torch.ones(1), w, 1e-6
            ),
        )
        yield f"gated_gelu{name}", lambda left=left: norms_triton.gated_gelu(left(T, 2 * 2112), torch.bfloat16)
    yield "soft_embedding", lambda: norms_triton.soft_embedding(ids, share, bf16(100, H), 53.0)
    yield "combine", lambda: experts_triton.experts(x, ids, share, experts)


def wanted(name: str, arch: int, report: triton_offline.Report, bytes_a_thread: float = 16) -> list[str]:
    """What the configuration must not do, or must have. bytes_a_thread: see `bytes_of_a_load`."""
    found: list[str] = []
    card = triton_offline.ARCH[arch]
    if report.shared + report.static_smem > card["smem_block"]:
        found.append(f"{report.shared} bytes of shared memory, the card has {card['smem_block']}")
    if report.spill_stores + report.spill_loads:
        found.append(f"spills {report.spill_stores + report.spill_loads} bytes")
    counts = report.ptx_counts()
    if not name.startswith(("gate_up", "down", "linear", "vocab ", "attention.")):
        return found
    if not counts["mma"] + counts["wgmma"]:
        found.append("no tensor cores")
    if not counts["cp_async"]:
        found.append("no cp.async")
    # of a pair of codes both are subtracted from at once; Triton 3.7 would take them apart and put them together again
    if "int4" in name and re.search(r"\b(?:add|sub|fma)(?:\.rn)?\.bf16\s", report.ptx):
        found.append("codes are decoded one by one")
    # int4 words go from shared memory to the registers of the tensor core as 8-byte loads without conflicts: the
    # decoded pair of a word is one operand register. wgmma reads x from shared memory by itself
    if "int4" not in name and arch == 89 and not counts["ldmatrix"]:
        found.append("no ldmatrix")
    width = weight_load_bytes(report)
    # for wgmma triton lays 8-bit operands out in pieces of 8 elements, whatever the tile. And a block of 64 columns
    # (K = 2112) or 32 (groups of 32) may be less than 16 bytes a thread: then each loads its share, side by side as
    # ever. With fewer warps it would be 16, but other shapes and formats share the entry and need them
    least = 8 if arch == 90 and ("fp8" in name or "int8" in name) else 16
    if width < min(least, max(8, bytes_a_thread)):
        found.append(f"weights are loaded {width} bytes at a time")
    return found


def weight_load_bytes(report: triton_offline.Report) -> int:
    """The narrowest asynchronous load of an operand whose last dimension is contiguous: weights, table, values.

    Activations are loaded transposed, and a tile of eight rows has less than 16 bytes of them for each thread.
    """
    layouts: dict[str, int] = {}
    pattern = r"^(#\w+) = #ttg\.blocked<\{sizePerThread = \[\d+, (\d+)\],.*order = \[1, 0\]"
    for found in re.finditer(pattern, report.ttgir, re.M):
        layouts[found[1]] = int(found[2])
    sizes = {"i32": 4, "i8": 1, "f8E4M3FN": 1, "bf16": 2}
    copies = re.findall(r"async_copy_global_to_local .*tensor<\d+x\d+x!tt\.ptr<(\w+)>, (#\w+)>", report.ttgir)
    return min((layouts[layout] * sizes[kind] for kind, layout in copies if layout in layouts), default=0)


def configurations(arch: int) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(name, tile, launcher) of everything shipped for an architecture, without repetition."""
    seen: set[str] = set()
    name, capability = CARDS[arch]
    tables = [tiles.table_for("", capability), tiles.table_for(name, capability)]
    for table in tables:
        for operation, candidates in table.items():
            for tile in candidates:
                shape = " ".join(f"{k} {v}" for k, v in tile.items() if k != "rows")
                cases: list[tuple[str, Callable[[], object]]] = []
                op, _, kind = operation.partition(".")
                if op == "vocab":
                    cases.append(("vocab pass", vocab_pass(tile)))
                elif op == "attention":
                    cases += attention(tile)
                elif op == "router":
                    cases.append(("router", router(tile)))
                else:
                    formats = INT4 if kind == "int4" else WIDE if op == "linear" else WIDE_EXPERTS
                    cases += [(f"{op}.{f}{f' g{g}' if g else ''}", product(op, tile, f, g)) for f, g in formats]
                    if op == "linear":
                        # the dense MLP's way back: blocks of 64 columns instead of 128
                        cases += [
                            (f"{op}.{f}{f' g{g}' if g else ''} K {DENSE}", product(op, tile, f, g, K=DENSE))
                            for f, g in formats
                        ]
                for case, launcher in cases:
                    key = f"{case} {shape}"
                    if key not in seen:
                        seen.add(key)
                        yield case, shape, launcher
    for case, launcher in elementwise():
        yield case, "", launcher


def gate(arch: int, only: str = "") -> list[Row]:
    """Compiles everything for sm_<arch>."""
    rows: list[Row] = []
    done: set[tuple[str, str]] = set()
    for name, shape, launcher in configurations(arch):
        if only not in name:
            continue
        for kernel, args, kwargs in captured(launcher, arch):
            title = name if kernel.__name__ in MAIN else f"({kernel.__name__})"
            # tiles share the helpers of their operation, as far as those are compiled to the same
            variant = " ".join(f"{k} {v}" for k, v in kwargs.items())
            if title.startswith("(") and (title, variant) in done:
                continue
            done.add((title, variant))
            report = triton_offline.compile_launch(kernel, args, kwargs, arch)
            shown = shape if title == name else variant
            problems = wanted(title, arch, report, bytes_of_a_load(kernel, args, kwargs))
            rows.append(Row(title, shown, report, problems, weights_of_a_turn(kernel, kwargs)))
    return rows


def one_row(arch: int) -> list[str]:
    """What does not compile for a single row: Triton makes an argument that is 1 a constant of Python's, which has not
    the methods of a tensor. The interpreter does not.
    """
    tile: tiles.Tile = {"BM": 8, "BN": 64, "warps": 4, "stages": 3}
    table = tiles.table_for("", divmod(arch, 10))
    cases: list[tuple[str, Callable[[], object]]] = [
        (f"{op} split {split}", product(op, {**tile, "split": split}, format, 64, rows=1))
        for op, format in (("linear", "int8"), ("linear", "int4"), ("gate_up", "int4"), ("down", "int4"))
        for split in (1, 2)
    ]
    cases += [("vocab pass", vocab_pass(table["vocab"][0], rows=1)), ("router", router(table["router"][0], rows=1))]
    cases += [case for entry in table["attention"] for case in attention(entry, rows=(1,))]
    failed: list[str] = []
    for name, launcher in (*cases, *elementwise(1)):
        for kernel, args, kwargs in captured(launcher, arch):
            try:
                triton_offline.compile_launch(kernel, args, kwargs, arch)
            except CompilationError as error:
                failed.append(f"{name}: {kernel.__name__}: {str(error).splitlines()[-1]}")
    return failed


def captured(launcher: Callable[[], object], arch: int) -> list[Any]:
    """The launches, decided as on a card of that architecture: the operands here are a CPU's."""
    original = packed_triton.has_wgmma
    packed_triton.has_wgmma = lambda device: arch == 90
    try:
        return triton_offline.captured(launcher)
    finally:
        packed_triton.has_wgmma = original


def bytes_of_a_load(kernel: Any, args: Any, kwargs: dict[str, Any]) -> float:
    """Bytes of weights that a thread has of one block of a tile: more than that it cannot load at a time."""
    if kernel.__name__ != "packed_product":
        return 16
    width = kwargs["BK"] // 8 if kwargs["IS_INT4"] else kwargs["BK"]
    weight = args[1]
    return kwargs["BN"] * width * weight.element_size() / (32 * kwargs["num_warps"])


def weights_of_a_turn(kernel: Any, kwargs: dict[str, Any]) -> int:
    if kernel.__name__ != "packed_product":
        return 0
    return kwargs["BN"] * kwargs["BK"] * (2 if kwargs["GATED"] else 1)


MAIN = {"packed_product", "vocab_tile_kernel", "attention_kernel", "router_logits_kernel"}


if __name__ == "__main__":
    failed = 0
    for arch in (89, 90):
        for row in gate(arch, only=sys.argv[1] if len(sys.argv) > 1 else ""):
            failed += bool(row.problems)
            print(row.line(with_cost=True), flush=True)
    sys.exit(failed > 0)
