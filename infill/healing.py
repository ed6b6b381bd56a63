"""Token healing: the piece of a word that the cursor stands behind is left out of the prompt and tokenised anew.

What is typed of a word ends in other tokens than the whole word does (`conf` is `con`, `f`, but `config` is one token),
so a model that reads the piece has to go on from tokens it has seldom seen. Instead the prompt ends before the piece,
and the answer has to begin with it. Knows tokens as ids and texts, no model.
Source: "token healing" of guidance (github.com/guidance-ai/guidance), over several tokens instead of one.
"""

from __future__ import annotations

import re

from ..engine.problem import Decoding, Opening
from .tokenizer import Tokenizer

MAX_PIECE_CHARS = 32

# where this tokenizer's own pattern begins a piece of a word, so that the tokens before it stay the same
_PIECE = re.compile(r"(?:(?<! ) (?=\w)|(?<!_)(?=_)|(?<![^\W\d]))_*[A-Za-z]*\Z")


def typed_piece(prefix: str) -> str:
    """The end of prefix that is the beginning of a word's piece, the space before it included; "" where none is."""
    found = _PIECE.search(prefix, max(0, len(prefix) - MAX_PIECE_CHARS - 2))
    piece = found.group() if found is not None else ""
    return piece if piece.strip() and len(piece) <= MAX_PIECE_CHARS else ""


def opening_for(tokenizer: Tokenizer, piece: str) -> Opening:
    """The ways to begin with piece: a state per character of it that is said, and the tokens that say more.

    () where the vocabulary has none.
    """
    if not piece:
        return ()
    free = len(piece)
    steps: list[tuple[tuple[int, int], ...]] = []
    for said in range(free):
        rest = piece[said:]
        whole = [(token, free) for token in tokenizer.starting_with(rest)]
        part = [(token, said + size) for size in range(1, len(rest)) for token in tokenizer.spelling(rest[:size])]
        steps.append((*whole, *part))
    return tuple(steps) if all(steps) else ()


def can_open(opening: Opening, decoding: Decoding) -> bool:
    """Whether there is a way to begin; for diffusion, which decides all rows at once, a way of one token."""
    return bool(opening) and (decoding != "denoise" or any(state == len(opening) for _, state in opening[0]))
