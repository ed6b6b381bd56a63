"""The tokenizer wrapper: every text comes back, a newline stands alone, and a foreign vocabulary is refused."""

from __future__ import annotations

import pytest
import tokenizers
from chat_tokenizer import chat_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.infill.chat import ChatTokenizer
from lacuna_ls.infill.tokenizer import NUM_RESERVED, SPECIAL_TOKENS, Tokenizer


@given(text=st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_every_text_round_trips(small_tokenizer: Tokenizer, text: str) -> None:
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


@given(lines=st.lists(st.text(alphabet="ab =()\t  ", max_size=20), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_tokens_of_a_line_do_not_depend_on_its_neighbours(small_tokenizer: Tokenizer, lines: list[str]) -> None:
    newline = small_tokenizer.encode("\n")
    assert len(newline) == 1
    apart: list[int] = []
    for i, line in enumerate(lines):
        apart += small_tokenizer.encode(line) + (newline if i < len(lines) - 1 else [])
    assert small_tokenizer.encode("\n".join(lines)) == apart
    assert small_tokenizer.newline_ids == frozenset(newline)


def test_specials_stand_at_their_ids_and_are_left_out_of_text(small_tokenizer: Tokenizer) -> None:
    assert len(SPECIAL_TOKENS) <= NUM_RESERVED
    assert min(small_tokenizer.encode("any text at all")) >= NUM_RESERVED
    assert small_tokenizer.decode([small_tokenizer.suf, *small_tokenizer.encode("a"), small_tokenizer.eos]) == "a"
    again = Tokenizer.from_json(small_tokenizer.to_json())
    assert again.vocab_size == small_tokenizer.vocab_size


def test_ids_that_no_token_has_are_in_no_answer(small_tokenizer: Tokenizer) -> None:
    for tokenizer in (Tokenizer.from_json(small_tokenizer.to_json()), ChatTokenizer(chat_backend())):
        specials, num_tokens = tokenizer.banned_ids, tokenizer.vocab_size
        tokenizer.ban_unused(num_tokens)
        assert tokenizer.banned_ids == specials
        tokenizer.ban_unused(num_tokens + 3)
        assert tokenizer.banned_ids == (*specials, num_tokens, num_tokens + 1, num_tokens + 2)


def test_a_foreign_vocabulary_is_refused() -> None:
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE())
    with pytest.raises(ValueError, match="<pad>"):
        Tokenizer(foreign)
