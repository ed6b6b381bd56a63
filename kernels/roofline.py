"""The byte and operation model of one denoise step: what a card cannot go below, whatever the kernels.

Counts what the fused path moves, not what a kernel happens to move. A time is the larger of bytes over bandwidth and
operations over rate, times what such kernels reach of it. Decoding int4 adds a third limit, instruction slots, which an
RTX 4090 does not feel and an H200 does: its bandwidth grew five times, its instruction rate did not. Pure arithmetic.
Source: tensor shapes of google/diffusiongemma-26B-A4B-it; datasheets, and the copy bandwidth measured on an H200.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """bandwidth in GB/s and tflops (dense bf16, fp32 accumulation) from the datasheet; clock in GHz under load.

    reach: the share of the datasheet's bandwidth that a copy gets. 4.3 of 4.8 TB/s was measured on an H200; for the
    others the same share is an assumption.
    """

    name: str
    bandwidth: float
    tflops: float
    num_processors: int
    clock: float
    reach: float = 0.9

    def memory_ms(self, num_bytes: float) -> float:
        return num_bytes / (self.bandwidth * self.reach * 1e6)

    def compute_ms(self, operations: float) -> float:
        return operations / (self.tflops * 1e9)

    def issue_ms(self, num_weights: float, instructions: float) -> float:
        """Time to decode and multiply num_weights when each costs so many instructions of one thread: 4 x 32 a
        clock.
        """
        return num_weights * instructions / (self.num_processors * 128 * self.clock * 1e6)


CARDS = {
    "NVIDIA GeForce RTX 4090": Card("RTX 4090", 1008, 165.2, 128, 2.52),
    "NVIDIA H200": Card("H200", 4800, 989, 132, 1.75),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's shape as far as bytes go; by default the released model's. kv: (layers, heads, D, window)."""

    hidden: int = 2816
    vocab: int = 262144
    layers: int = 30
    experts: int = 128
    top_k: int = 8
    expert_size: int = 704
    dense_size: int = 2112
    query_heads: int = 16
    kv: tuple[tuple[int, int, int, int | None], ...] = ((25, 8, 256, 1024), (5, 2, 512, None))

    @property
    def expert_weights(self) -> int:
        """Of one expert of one layer."""
        return 3 * self.expert_size * self.hidden

    @property
    def attention_weights(self) -> int:
        # layers without a window have no value projection
        return sum(
            layers * self.hidden * d * (2 * self.query_heads + heads * (1 if window is None else 2))
            for layers, heads, d, window in self.kv
        )

    @property
    def dense_weights(self) -> int:
        """Of all dense MLPs and the self-conditioning MLP."""
        return (self.layers + 1) * 3 * self.dense_size * self.hidden

    def touched(self, rows: int) -> float:
        """Experts that rows rows choose on average, if all are equally likely."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** rows)


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits per weight, scales included."""

    experts: float = 4.25
    dense: float = 8.0
    head: float = 16.0


def step_bytes(rows: int, cached: int, shape: Shape, bits: Bits) -> dict[str, float]:
    """Bytes of one denoise step by operation: every weight once, every cached key and value once, logits never."""
    router = shape.layers * shape.experts * shape.hidden
    return {
        "experts": shape.touched(rows) * shape.layers * shape.expert_weights * bits.experts / 8,
        "dense": (shape.attention_weights + shape.dense_weights) * bits.dense / 8 + router * 2,
        "vocabulary": shape.vocab * shape.hidden * bits.head / 8,
        "attention": sum(
            layers * heads * d * 4 * (cached if window is None else min(cached, window - 1))
            for layers, heads, d, window in shape.kv
        ),
        "soft embedding": rows * 16 * shape.hidden * 2,
    }


def step_operations(rows: int, cached: int, shape: Shape, tile_rows: int) -> float:
    """Multiply-adds times two, expert rows padded to whole tiles of tile_rows."""
    touched = shape.touched(rows)
    per_expert = rows * shape.top_k / touched
    padded = touched * -(-per_expert // tile_rows) * tile_rows
    products = rows * (shape.attention_weights + shape.dense_weights + shape.vocab * shape.hidden)
    attention = sum(
        layers * shape.query_heads * d * 2 * rows * ((cached if window is None else min(cached, window - 1)) + rows)
        for layers, _, d, window in shape.kv
    )
    return 2 * (products + padded * shape.layers * shape.expert_weights + attention)


def tile_rows_for(rows_per_expert: float) -> int:
    """The shipped table's choice (tiles.json), for the padding above."""
    return 8 if rows_per_expert <= 6 else 16 if rows_per_expert <= 12 else 32 if rows_per_expert <= 28 else 64


def step_ms(
    rows: int, cached: int, card: Card, shape: Shape, bits: Bits, instructions: float = 3.2
) -> tuple[float, float, float]:
    """(memory, tensor cores, instruction slots of decoding) in ms: the largest is the floor of a step."""
    tile = tile_rows_for(rows * shape.top_k / shape.touched(rows))
    weights = shape.touched(rows) * shape.layers * shape.expert_weights
    return (
        card.memory_ms(sum(step_bytes(rows, cached, shape, bits).values())),
        card.compute_ms(step_operations(rows, cached, shape, tile)),
        card.issue_ms(weights, instructions),
    )


def step_table() -> list[str]:
    """The released model at 4,096 cached tokens, a line per number of rows: experts touched, gigabytes by operation,
    and the three floors on each card."""
    cached, shape, bits = 4096, Shape(), Bits()
    lines = [
        f"one denoise step, {cached} cached tokens, {bits.experts:g}-bit experts, {bits.dense:g}-bit dense, "
        f"{bits.head:g}-bit table; ms: memory / tensor cores / decoding",
        "rows  experts   GB: experts  dense  vocabulary  attention   "
        + "   ".join(f"{card.name:>18s}" for card in CARDS.values()),
    ]
    for rows in (8, 16, 32, 64, 128, 256):
        parts = step_bytes(rows, cached, shape, bits)
        times = [
            "{:5.1f} /{:5.1f} /{:5.1f}".format(*step_ms(rows, cached, card, shape, bits)) for card in CARDS.values()
        ]
        sizes = [parts[name] / 1e9 for name in ("experts", "dense", "vocabulary", "attention")]
        lines.append(
            f"{rows:4d}  {shape.touched(rows):7.1f}  {sizes[0]:10.2f} {sizes[1]:7.2f} {sizes[2]:9.2f} {sizes[3]:10.2f}"
            f"   {'   '.join(f'{t:>18s}' for t in times)}"
        )
    return lines
