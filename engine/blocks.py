"""Fills longer than one canvas: denoise a block, commit it to the KV cache, denoise the next, until an end token.

This is how the reference generates, and with its random numbers the tokens are its tokens. A block sees the prompt and
the blocks before it, never those after it. Knows no text and no device.
Source: transformers 5.23.0, generation_diffusion_gemma.py, `generate` and `_finalize_canvas`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .problem import Canvas

DenoiseBlock = Callable[[Canvas], "BlockResult"]
"""Denoises one canvas over whatever is in the KV cache now."""

Commit = Callable[[tuple[int, ...]], None]
"""Encodes tokens behind the KV cache."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """One block, or all of them joined. tokens, entropy, logprob: L values each. num_region: rows up to and including
    the first end token, L when there is none.
    """

    tokens: tuple[int, ...]
    entropy: tuple[float, ...]
    logprob: tuple[float, ...]
    num_region: int
    has_end: bool
    steps: int
    num_forwards: int
    is_finished: bool
    is_cancelled: bool
    is_stopped: bool = False
    """A cancel or a deadline ended it: no block follows."""


def split(canvas: Canvas, block_rows: int) -> list[Canvas]:
    """A canvas in pieces of block_rows; the last may be shorter."""
    return [
        Canvas(canvas.tokens[first : first + block_rows], canvas.pinned[first : first + block_rows])
        for first in range(0, len(canvas.tokens), block_rows)
    ]


def denoise_blocks(
    canvas: Canvas, block_rows: int, denoise_block: DenoiseBlock, commit: Commit, pad_id: int
) -> BlockResult:
    """Fill a long canvas. Rows after the end token become pad_id, as in the reference; blocks behind it are not
    denoised.

    A block that was cut short by a deadline or a cancel is the last. What was committed stays in the KV cache.
    """
    tokens: list[int] = []
    entropy: list[float] = []
    logprob: list[float] = []
    steps = num_forwards = num_region = 0
    is_finished, is_cancelled, is_stopped, has_end = True, False, False, False
    blocks = split(canvas, block_rows)
    for i, block in enumerate(blocks):
        found = denoise_block(block)
        tokens += found.tokens
        entropy += found.entropy
        logprob += found.logprob
        num_region += found.num_region
        steps += found.steps
        num_forwards += found.num_forwards
        is_finished &= found.is_finished
        is_cancelled, is_stopped, has_end = found.is_cancelled, found.is_stopped, found.has_end
        if has_end or is_cancelled or is_stopped or i + 1 == len(blocks):
            break
        commit(found.tokens)
    total = len(canvas.tokens)
    is_finished &= has_end or len(tokens) == total
    if has_end:
        tokens[num_region:] = [pad_id] * (len(tokens) - num_region)
    filler = total - len(tokens)
    return BlockResult(
        tokens=(*tokens, *[pad_id] * filler),
        entropy=(*entropy, *[0.0] * filler),
        logprob=(*logprob, *[0.0] * filler),
        num_region=num_region,
        has_end=has_end,
        steps=steps,
        num_forwards=num_forwards,
        is_finished=is_finished,
        is_cancelled=is_cancelled,
        is_stopped=is_stopped,
    )
