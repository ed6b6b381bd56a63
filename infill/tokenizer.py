"""The tokenizer as this room sees it: text to ids and back, the special ids, and which ids are newlines.

Wraps the `tokenizers` library. Knows no canvas layout and no model.
"""

from __future__ import annotations

import functools
from bisect import bisect_left

import tokenizers

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<suf>", "<pre>", "<mid>", "<ctx>", "<file>")
"""Ids 0..7 of the embedded model's vocabulary; ids up to NUM_RESERVED - 1 are kept free for later."""

NUM_RESERVED = 16


class Tokenizer:
    """Byte-level BPE of the embedded model. Every text round-trips; a newline is always a token of its own.

    Because no token crosses a newline, the tokens of a line do not depend on the lines around it: windows can be cut
    at line boundaries, and typing only appends tokens.
    """

    pad, eos, bos, suf, pre, mid, ctx, file = range(8)
    unused_ids: tuple[int, ...] = ()
    """Ids that the model knows and no token has."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """backend: must hold SPECIAL_TOKENS at ids 0..7. Raises: ValueError if it does not."""
        for i, token in enumerate(SPECIAL_TOKENS):
            if backend.token_to_id(token) != i:
                raise ValueError(f"the tokenizer has {token} at {backend.token_to_id(token)}, not at id {i}")
        # text that spells a special token must stay text: the user's file is data, never markup
        backend.encode_special_tokens = True
        self._backend = backend

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """text: the contents of a tokenizer.json."""
        return cls(tokenizers.Tokenizer.from_str(text))

    def to_json(self) -> str:
        return self._backend.to_str()

    @functools.cached_property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def newline_ids(self) -> frozenset[int]:
        return frozenset(self._backend.encode("\n", add_special_tokens=False).ids)

    def ban_unused(self, num_ids: int) -> None:
        """num_ids: how many the model knows. Rows that only pad its table would decode to nothing."""
        if num_ids > self.vocab_size:
            used = set(self._backend.get_vocab(with_added_tokens=True).values())
            self.unused_ids = tuple(i for i in range(num_ids) if i not in used)

    @property
    def ending(self) -> tuple[int, ...]:
        """What a perfect answer has behind the middle."""
        return (self.eos,)

    @property
    def fill(self) -> int:
        """What a canvas has behind its ending, to the last row."""
        return self.eos

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends an answer and is no part of it."""
        return (self.eos,)

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """What no answer contains."""
        return (*(token for token in range(NUM_RESERVED) if token != self.eos), *self.unused_ids)

    def stop_ids(self, is_multiline: bool) -> tuple[int, ...]:
        """What ends an answer beside `eos`."""
        return () if is_multiline else tuple(sorted(self.newline_ids))

    def answer(self, ids: list[int] | tuple[int, ...]) -> str:
        """The middle that a model wrote, out of what it may be wrapped in."""
        return self.decode(ids)

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """Special ids are left out; bytes that are not UTF-8 (a cut character) become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id])

    def starting_with(self, text: str) -> list[int]:
        """The tokens whose text begins with text. text: not empty."""
        texts, ids = self._by_text
        low = bisect_left(texts, text)
        # no text sorts behind one that goes on with the last code point
        return ids[low : bisect_left(texts, text + chr(0x10FFFF))]

    def spelling(self, text: str) -> list[int]:
        """The tokens whose text is text; none or one."""
        texts, ids = self._by_text
        low = bisect_left(texts, text)
        return ids[low : low + 1] if texts[low : low + 1] == [text] else []

    @functools.cached_property
    def _by_text(self) -> tuple[list[str], list[int]]:
        """Every token's text in order, without the reserved ones and those that are a piece of a character."""
        texts = [(self.token_text(i), i) for i in range(NUM_RESERVED, self.vocab_size)]
        found = sorted((text, i) for text, i in texts if text and "\ufffd" not in text)
        return [text for text, _ in found], [i for _, i in found]
