"""From text around a gap to prompt tokens and canvases: the one function that training, evaluation and serving share.

The prompt is `[<ctx> neighbours] <suf> suffix <pre> prefix <mid>`: what changes while the user types stands last, so
that a keystroke only appends to the KV cache. The canvas that follows holds the middle, the end token, and end tokens
to its last row. Holds no tensor and knows no model.
Source: suffix-prefix-middle order of Bavarian et al., "Efficient Training of Language Models to Fill in the Middle"
(arXiv 2207.14255), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.problem import NOISE, Canvas
from .tokenizer import Tokenizer

CHARS_PER_TOKEN_MAX = 8
"""How many characters of a window are looked at per token of its budget. Longer windows cannot fit, nearly always."""

LINE_GRID = 4
"""A cut prefix window starts at a line whose number is a multiple of this, so that it moves only every few lines."""

TOKEN_GRID = 64
"""Where no line start fits (very long lines), the window drops a multiple of this many tokens instead."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Token budgets of one prompt. The embedded model is trained with the defaults."""

    num_prefix: int = 176
    num_suffix: int = 56
    num_neighbour: int = 40

    @property
    def num_prompt(self) -> int:
        """The longest prompt these budgets allow, markers included."""
        return self.num_prefix + self.num_suffix + self.num_neighbour + 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """tokens: what the encoder reads. num_prefix, num_suffix, num_neighbour: tokens of each part, without markers.

    typed: the end of the prefix that is left out of the tokens, because the answer is to begin with it.
    """

    tokens: tuple[int, ...]
    num_prefix: int
    num_suffix: int
    num_neighbour: int = 0
    typed: str = ""


def prefix_tokens(tokenizer: Tokenizer, prefix: str, budget: int) -> list[int]:
    """The last tokens of prefix, at most budget, from a start that stays put while the user types on.

    The start is the beginning of a line on LINE_GRID, or any line start, or a multiple of TOKEN_GRID tokens, the first
    of these that fits and leaves at least a quarter of the budget in use.
    """
    tail_start = max(0, len(prefix) - budget * CHARS_PER_TOKEN_MAX)
    if tail_start:
        # tokens depend on where the text is cut, so cut at a line start, or on a grid of characters in a long line
        newline = prefix.find("\n", tail_start - 1)
        tail_start = newline + 1 if newline >= 0 else -(-tail_start // 512) * 512
    tokens = tokenizer.encode(prefix[tail_start:])
    if tail_start == 0 and len(tokens) <= budget:
        return tokens
    newline_ids = tokenizer.newline_ids
    line_number = prefix.count("\n", 0, tail_start)
    starts = [(0, line_number)] if tail_start == 0 or prefix[tail_start - 1] == "\n" else []
    for i, token in enumerate(tokens):
        if token in newline_ids:
            line_number += 1
            starts.append((i + 1, line_number))
    fitting = [(i, line) for i, line in starts if budget // 4 <= len(tokens) - i <= budget]
    for i, line in fitting:
        if line % LINE_GRID == 0:
            return tokens[i:]
    if fitting:
        return tokens[fitting[0][0] :]
    drop = max(0, len(tokens) - budget)
    return tokens[-(-drop // TOKEN_GRID) * TOKEN_GRID :]


def suffix_tokens(tokenizer: Tokenizer, suffix: str, budget: int) -> list[int]:
    """The first tokens of suffix, at most budget, cut after a newline where one fits past half of the budget."""
    tokens = tokenizer.encode(suffix[: budget * CHARS_PER_TOKEN_MAX])
    if len(tokens) <= budget:
        return tokens
    newline_ids = tokenizer.newline_ids
    for i in range(budget, budget // 2, -1):
        if tokens[i - 1] in newline_ids:
            return tokens[:i]
    return tokens[:budget]


def build_prompt(
    tokenizer: Tokenizer, prefix: str, suffix: str, neighbours: str = "", limits: Limits | None = None
) -> Prompt:
    """prefix, suffix: all text before and after the gap; neighbours: text from elsewhere, the most useful first."""
    limits = limits or Limits()
    pre = prefix_tokens(tokenizer, prefix, limits.num_prefix)
    suf = suffix_tokens(tokenizer, suffix, limits.num_suffix)
    ctx = suffix_tokens(tokenizer, neighbours, limits.num_neighbour) if neighbours else []
    head = [tokenizer.ctx, *ctx] if ctx else []
    tokens = (*head, tokenizer.suf, *suf, tokenizer.pre, *pre, tokenizer.mid)
    return Prompt(tokens, len(pre), len(suf), len(ctx))


def middle_tokens(tokenizer: Tokenizer, middle: str) -> list[int]:
    """The rows that a perfect canvas starts with: the middle and what ends it."""
    return [*tokenizer.encode(middle), *tokenizer.ending]


def canvas_of(num_rows: int, end_at: int | None, tokenizer: Tokenizer) -> Canvas:
    """A canvas of num_rows of noise. end_at: pin the end token at that row and to the last (a candidate length), or
    None: free.
    """
    end_at = num_rows if end_at is None else end_at
    tokens = (NOISE,) * end_at + (tokenizer.eos,) * (num_rows - end_at)
    return Canvas(tokens, tuple(i >= end_at for i in range(num_rows)))


def file_header(text: str, start: int, max_lines: int = 40) -> str:
    """The import lines at the top of text that a prefix window before offset start may not reach.

    Deliberately line based, so that it is the same in training (no grammar at hand) and in serving.
    """
    words = ("import ", "from ", "use ", "#include", "package ", "using ", "require")

    def is_import(line: str) -> bool:
        return line.startswith(words) or (line.startswith("const ") and "require(" in line)

    head = text[:start].split("\n", max_lines)[:max_lines]
    return "".join(line + "\n" for line in head if is_import(line))
