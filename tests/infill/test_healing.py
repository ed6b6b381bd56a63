"""Token healing: the tokens before the piece stay the same, and whatever the answer, it begins with what is typed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infill_cases import BYTE_POLICY, applied, asked, infiller
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.healing import can_open, opening_for, typed_piece
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.tokenizer import NUM_RESERVED, Tokenizer

B = "‸"
TOKENIZER = load_tokenizer(EMBEDDED)
# a token that ends inside of a character is not the beginning of any text
ALL_TEXTS = {token: TOKENIZER.token_text(token) for token in range(NUM_RESERVED, TOKENIZER.vocab_size)}
TEXTS = {token: text for token, text in ALL_TEXTS.items() if "\ufffd" not in text}
CODE = st.text(st.sampled_from('abfgnorst_ECé1.( \n\t"='), max_size=24)


@pytest.mark.parametrize(
    ("prefix", "piece"),
    [
        pytest.param("x = self.conf", "conf", id="behind a dot"),
        pytest.param("    return sel", " sel", id="the space belongs to the token"),
        pytest.param("    ret", "ret", id="indentation does not"),
        pytest.param("my_co", "_co", id="a part of a name"),
        pytest.param("my_", "_", id="an underscore alone"),
        pytest.param("x = ", "", id="a space alone is no word"),
        pytest.param("f(", "", id="punctuation"),
        pytest.param("x1", "", id="a digit is a token of its own"),
        pytest.param("caféx", "", id="a piece does not begin behind a letter"),
        pytest.param("a" * 40, "", id="what is too long for one table"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_the_piece_that_the_cursor_stands_behind(prefix: str, piece: str):
    assert typed_piece(prefix) == piece


@settings(deadline=None)
@given(prefix=CODE, middle=CODE)
def test_the_tokens_before_the_piece_are_those_of_the_whole_text(prefix: str, middle: str):
    before = prefix.removesuffix(typed_piece(prefix)) if typed_piece(prefix) else prefix
    cut = TOKENIZER.encode(before)
    assert TOKENIZER.encode(prefix)[: len(cut)] == cut
    # and the true text can be said: its own tokens are a way through the opening
    state, opening = 0, opening_for(TOKENIZER, typed_piece(prefix))
    for token in TOKENIZER.encode(prefix + middle)[len(cut) :]:
        if state == len(opening):
            break
        state = dict(opening[state])[token]
    assert state == len(opening)


@settings(deadline=None, max_examples=50)
@given(piece=st.from_regex(r" ?_{0,2}[A-Za-z]{1,8}", fullmatch=True), data=st.data())
def test_every_way_through_an_opening_spells_the_piece(piece: str, data: st.DataObject):
    opening = opening_for(TOKENIZER, piece)
    assert opening, "every letter is a token"
    state, tokens = 0, []
    while state < len(opening):
        token, state = data.draw(st.sampled_from(opening[state]))
        tokens.append(token)
    assert TOKENIZER.decode(tokens).startswith(piece)
    assert can_open(opening, "verify")
    assert can_open(opening, "denoise") == any(state == len(opening) for _, state in opening[0])


@settings(deadline=None)
@given(text=st.text(st.sampled_from("abdefrt_ 1(."), min_size=1, max_size=5))
def test_the_vocabulary_by_text_beside_a_walk_over_all_of_it(text: str):
    assert sorted(TOKENIZER.starting_with(text)) == [i for i, each in TEXTS.items() if each.startswith(text)]
    assert TOKENIZER.spelling(text) == [i for i, each in TEXTS.items() if each == text]


def test_a_word_is_healed_and_only_what_is_missing_is_proposed(tokenizer: Tokenizer):
    subject = infiller("ig.get(1)")
    request = asked(f"x = self.conf{B}\ny = 2\n")
    proposal = subject.fill(request).proposals[0]
    assert applied(request.text, proposal) == "x = self.config.get(1)\ny = 2\n"
    problem = subject.engine.problems[0]
    assert "conf" not in tokenizer.decode(problem.prompt)
    assert len(problem.opening) == len("conf")


def test_an_engine_that_knows_no_opening_is_not_believed():
    subject = infiller("ig.get(1)")
    fill = subject.engine.fill
    subject.engine.fill = lambda problem, cancelled=None: fill(replace(problem, opening=()), cancelled)
    assert subject.fill(asked(f"x = self.conf{B}\ny = 2\n")).declined == "unfinished"


def test_without_healing_the_prompt_holds_the_word(tokenizer: Tokenizer):
    subject = infiller("ig.get(1)")
    subject.policy = replace(BYTE_POLICY, use_healing=False)
    assert subject.fill(asked(f"x = self.conf{B}\ny = 2\n")).proposals[0].text == "ig.get(1)"
    problem = subject.engine.problems[0]
    assert re.search(r"conf$", tokenizer.decode(problem.prompt))
    assert problem.opening == ()
