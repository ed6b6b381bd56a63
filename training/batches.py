"""Training examples: one text with a hole becomes encoder tokens, canvases, their noise, the mask and the loss weights.

The prompt is built by the function that serving uses (infill/chat.py, prompt_of), and what is typed of a word goes from
the prompt into the middle as serving has it (infill/healing.py). Everything is a pure function of
(seed, step), so a run resumes exactly and any number of loader workers gives the same batches. Knows no optimiser and
no device.

One row of a batch is `[encoder: prompt, middle, its ending, pad] [canvas 1] .. [canvas R]`. Encoder rows are causal;
the rows of canvas r see the prompt, the first k_r tokens of the middle, and each other. k_r > 0 is what a long fill
looks like when it goes on block by block.
Source: uniform-noise loss of TRL/NeMo for DiffusionGemma, with weights by row kind instead of a mean.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..infill.chat import ChatTokenizer, prompt_of, tokenizer_of
from ..infill.healing import can_open, opening_for, typed_piece
from ..infill.layout import Limits, file_header, middle_tokens
from ..infill.tokenizer import NUM_RESERVED, Tokenizer
from .drafts import edited, similar_middle
from .holes import Hole

IntArray = npt.NDArray[np.int64]


class Texts(Protocol):
    """A corpus as this module sees it."""

    def __len__(self) -> int: ...

    def text(self, i: int) -> str: ...

    @property
    def sample_weights(self) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True)
class BatchShape:
    """num_encoder: encoder rows per example (longer prompts lose prefix). num_canvases: noise replicas of one hole."""

    num_examples: int = 32
    num_encoder: int = 272
    num_canvases: int = 2
    num_canvas_rows: int = 32
    max_middle: int = 56
    draft_share: float = 0.5
    """Of second canvases: they start from a similar line, or from an edited middle, instead of from noise."""
    holes_per_text: int = 8
    """Cut from a text that was drawn: looking a text over for where it may be cut takes longer than all the rest."""

    @property
    def num_rows(self) -> int:
        return self.num_encoder + self.num_canvases * self.num_canvas_rows


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Per row kind. Padding weighs nothing."""

    corrupted: float = 1.0
    clean: float = 0.2
    end_fill: float = 0.05
    context: float = 1.0
    middle: float = 3.0


@dataclass(slots=True)
class Batch:
    """B examples of T rows. All [B, T] unless said otherwise.

    tokens: inputs. positions: of rows in the sequence. targets: what each row is to predict (encoder rows: the next
    token; canvas rows: their own clean token). weights: fp32. is_pinned: canvas rows whose token is known.
    seen: int64, how many encoder rows a canvas row may look at. canvas: int64 [T], which canvas a row is of; -1: none.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    is_pinned: Tensor
    seen: Tensor
    canvas: Tensor
    num_encoder: int
    """Rows before the first canvas."""

    @property
    def is_canvas(self) -> Tensor:
        """bool [T]."""
        return self.canvas >= 0

    @property
    def mask(self) -> Tensor:
        """bool [B, 1, T, T], True where a row may look. Made where it is used: it is a hundred times the rest."""
        row = torch.arange(len(self.canvas), device=self.canvas.device)
        causal = (row[None, :] <= row[:, None]) & ~self.is_canvas[None, :]
        own = self.canvas[None, :] == self.canvas[:, None]
        ahead = (row[None, None, :] < self.seen[:, :, None]) | own
        return torch.where(self.is_canvas[:, None], ahead, causal)[:, None]

    def to(self, device: torch.device) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            tokens=move(self.tokens),
            positions=move(self.positions),
            targets=move(self.targets),
            weights=move(self.weights),
            is_pinned=move(self.is_pinned),
            seen=move(self.seen),
            canvas=move(self.canvas),
            num_encoder=self.num_encoder,
        )


class Batches(Dataset[Batch]):
    """Batch number `step` of a run, for any step: `Batches(...)[step]`."""

    def __init__(
        self,
        texts: Texts,
        tokenizer_json: str,
        shape: BatchShape,
        sample_hole: Callable[[str, random.Random], Hole | None],
        seed: int = 0,
        weights: LossWeights | None = None,
    ) -> None:
        self._texts, self._tokenizer_json, self._sample_hole = texts, tokenizer_json, sample_hole
        self._shape, self._seed, self._weights = shape, seed, weights or LossWeights()
        self._cumulative = np.cumsum(texts.sample_weights)
        self._tokenizer: Tokenizer | None = None

    def __getitem__(self, step: int) -> Batch:
        # built here, not in the constructor: loader workers are forked before any thread of the tokenizer exists
        self._tokenizer = self._tokenizer or tokenizer_of(self._tokenizer_json)
        rng = random.Random(self._seed * 1_000_003 + step)
        noise = np.random.default_rng((self._seed, step))
        examples: list[Example] = []
        while len(examples) < self._shape.num_examples:
            examples += self._examples(rng, noise, self._shape.num_examples - len(examples))
        return collate(examples, self._shape)

    def _examples(self, rng: random.Random, noise: np.random.Generator, wanted: int) -> Iterator[Example]:
        """At most wanted examples of one text."""
        assert self._tokenizer is not None
        drawn = rng.random() * float(self._cumulative[-1])
        index = int(np.searchsorted(self._cumulative, drawn, side="right"))
        text = self._texts.text(min(index, len(self._texts) - 1))
        for _ in range(min(wanted, self._shape.holes_per_text)):
            hole = self._sample_hole(text, rng)
            posed = pose(self._tokenizer, text, hole, rng, self._shape) if hole else None
            if posed is not None:
                yield corrupt(posed, self._tokenizer, noise, self._shape, self._weights)


@dataclass(frozen=True, slots=True)
class Posed:
    """One hole on tokens. encoder: prompt, middle, its ending. starts: k_r of each canvas.

    draft: what the second canvas starts from: what a similar line has instead of the middle, empty where the text has
    no such line; None: noise.
    """

    encoder: list[int]
    num_prompt: int
    starts: list[int]
    draft: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A posed hole with its noise drawn and its rows weighed. Canvas arrays: [R, C]; encoder_weights: [n]."""

    posed: Posed
    canvas_tokens: IntArray
    canvas_targets: IntArray
    canvas_pinned: npt.NDArray[np.bool_]
    canvas_weights: npt.NDArray[np.float32]
    encoder_weights: npt.NDArray[np.float32]


def pose(tokenizer: Tokenizer, text: str, hole: Hole, rng: random.Random, shape: BatchShape) -> Posed | None:
    """None when middle or prompt are too long. One in ten examples has no suffix, as when a file is being written.

    The middle begins with what is typed of a word, which the prompt then leaves out.
    """
    prefix = text[: hole.start]
    typed = healed_piece(tokenizer, prefix)
    middle = middle_tokens(tokenizer, typed + text[hole.start : hole.end])
    if len(middle) > shape.max_middle:
        return None
    suffix = "" if rng.random() < 0.1 else text[hole.end :]
    neighbours = file_header(text, hole.start) if rng.random() < 0.5 else ""
    own = tokenizer.limits if isinstance(tokenizer, ChatTokenizer) else Limits()
    limits = replace(own, num_suffix=rng.choice((own.num_suffix * 4 // 7, own.num_suffix, own.num_suffix)))
    # where the whole head of the file is in the window, the header would only say it twice
    if len(prefix) <= 6 * limits.num_prefix or not neighbours:
        neighbours, limits = "", replace(limits, num_neighbour=0)
    prefix = prefix.removesuffix(typed)
    room = shape.num_encoder - len(middle)
    limits = replace(limits, num_prefix=min(limits.num_prefix, room - (limits.num_prompt - limits.num_prefix)))
    prompt = prompt_of(tokenizer, prefix, suffix, neighbours, limits)
    # what a chat says around the text is in no budget
    while (excess := len(prompt.tokens) - room) > 0:
        if prompt.num_prefix <= excess:
            return None
        limits = replace(limits, num_prefix=prompt.num_prefix - excess)
        prompt = prompt_of(tokenizer, prefix, suffix, neighbours, limits)
    length = len(middle)
    starts = [0, *(0 if rng.random() < 0.5 else rng.randrange(length) for _ in range(shape.num_canvases - 1))]
    draft: list[int] | None = None
    if shape.num_canvases > 1 and rng.random() < shape.draft_share:
        starts[1] = 0
        similar = similar_middle(text, hole)
        draft = tokenizer.encode(typed + similar) if similar else []
    return Posed([*prompt.tokens, *middle], len(prompt.tokens), starts, draft)


def healed_piece(tokenizer: Tokenizer, prefix: str) -> str:
    """What of prefix serving leaves out of the prompt and has the answer begin with; "" where it does not."""
    if isinstance(tokenizer, ChatTokenizer):
        return ""
    piece = typed_piece(prefix)
    # diffusion alone wants a way of one token; the encoder, which decides by default, takes any
    return piece if can_open(opening_for(tokenizer, piece), "verify") else ""


def corrupt(
    posed: Posed, tokenizer: Tokenizer, noise: np.random.Generator, shape: BatchShape, weights: LossWeights
) -> Example:
    """Draw the noise level, the pinned rows and the noise of every canvas, and weigh its rows.

    The first canvas of an example is pure noise (t = 1), where every infill begins; the others are stratified in t, but
    for a second one that starts from a draft.
    """
    R, C = len(posed.starts), shape.num_canvas_rows
    clean = np.full((R, C), tokenizer.fill, dtype=np.int64)
    is_fill = np.zeros((R, C), dtype=np.bool_)
    middle = np.asarray(posed.encoder[posed.num_prompt :], dtype=np.int64)
    for r, start in enumerate(posed.starts):
        rows = middle[start : start + C]
        clean[r, : len(rows)] = rows
        is_fill[r, len(rows) :] = True
    level = (np.arange(R) + noise.random()) / R
    level[0] = 1.0
    pinned = np.zeros((R, C), dtype=np.bool_)
    for r in range(R):
        kind = noise.random()
        if kind < 0.15:
            # a candidate length: the end token is pinned where it belongs, to the last row
            pinned[r] = is_fill[r]
            end = len(middle) - 1 - posed.starts[r]
            if end < C:
                pinned[r, end] = True
        elif kind < 0.25:
            # several gaps: a clean span between noisy ones
            first = int(noise.integers(C // 2))
            pinned[r, first : first + int(noise.integers(1, C // 2))] = True
            pinned[r] &= ~is_fill[r]
    random_tokens = noise.integers(NUM_RESERVED, tokenizer.vocab_size, size=(R, C))
    is_noisy = (noise.random((R, C)) < level[:, None]) & ~pinned
    tokens = np.where(is_noisy, random_tokens, clean)
    if posed.draft is not None:
        text = middle[: len(middle) - len(tokenizer.ending)].tolist()
        draft = posed.draft or edited(text, noise, NUM_RESERVED, tokenizer.vocab_size)
        pinned[1] = False
        tokens[1] = [*draft, *tokenizer.ending, *[tokenizer.fill] * C][:C]
        is_noisy[1] = tokens[1] != clean[1]
    row_weights = np.where(is_noisy, weights.corrupted, weights.clean)
    row_weights = np.where(is_fill, weights.end_fill, row_weights)
    # encoder row i predicts token i + 1: the last prompt row predicts the first token of the middle
    encoder_weights = np.full(len(posed.encoder), weights.context, dtype=np.float32)
    encoder_weights[posed.num_prompt - 1 :] = weights.middle
    encoder_weights[-1] = 0.0
    targets = np.asarray([*posed.encoder[1:], tokenizer.pad])
    encoder_weights[(targets < NUM_RESERVED) & (targets != tokenizer.eos)] = 0.0
    return Example(
        posed=posed,
        canvas_tokens=tokens,
        canvas_targets=clean,
        canvas_pinned=pinned,
        canvas_weights=np.where(pinned, 0.0, row_weights).astype(np.float32),
        encoder_weights=encoder_weights,
    )


def collate(examples: list[Example], shape: BatchShape) -> Batch:
    """Lay the examples out as one batch."""
    B, T, Te, C = len(examples), shape.num_rows, shape.num_encoder, shape.num_canvas_rows
    tokens, targets = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
    positions = np.zeros((B, T), np.int64)
    positions[:, :Te] = np.arange(Te)
    weights = np.zeros((B, T), np.float32)
    pinned, sees = np.zeros((B, T), np.bool_), np.zeros((B, T), np.int64)
    for b, example in enumerate(examples):
        posed = example.posed
        n = len(posed.encoder)
        tokens[b, :n] = posed.encoder
        targets[b, : n - 1] = posed.encoder[1:]
        weights[b, :n] = example.encoder_weights
        for r, start in enumerate(posed.starts):
            rows = slice(Te + r * C, Te + (r + 1) * C)
            seen = posed.num_prompt + start
            tokens[b, rows], targets[b, rows] = example.canvas_tokens[r], example.canvas_targets[r]
            weights[b, rows], pinned[b, rows] = example.canvas_weights[r], example.canvas_pinned[r]
            positions[b, rows] = np.arange(seen, seen + C)
            sees[b, rows] = seen
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        is_pinned=torch.from_numpy(pinned),
        seen=torch.from_numpy(sees),
        canvas=(torch.arange(T) - Te).div(C, rounding_mode="floor").clamp_min(-1),
        num_encoder=Te,
    )
