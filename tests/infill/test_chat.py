"""The layout for instruct models: their turns, what is asked, and what is taken out of the answer."""

from __future__ import annotations

import pytest
from chat_tokenizer import chat_backend
from hypothesis import given
from hypothesis import strategies as st
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.chat import (
    CHAR_LIMITS,
    CHAT_LIMITS,
    FENCE,
    CharTokenizer,
    ChatTokenizer,
    build_chat_prompt,
)
from lacuna_ls.infill.layout import Limits
from lacuna_ls.infill.load import load_tokenizer, policy_for

CHAT, CHAR = ChatTokenizer(chat_backend()), CharTokenizer()
PREFIX = "import os\n\n\ndef read(path):\n    return "
SUFFIX = "\n\n\nprint(read(1))\n"


def visible(prompt) -> str:
    """The prompt with its special tokens."""
    return chat_backend().decode(list(prompt.tokens), skip_special_tokens=False)


def test_the_turns_of_a_prompt():
    text = visible(build_chat_prompt(CHAT, PREFIX, SUFFIX))
    assert text.startswith("<bos><|turn>user\n")
    # thinking is closed before it begins, and the code block is open up to the cursor
    assert text.endswith(f"<turn|>\n<|turn>model\n<|channel>thought\n<channel|>{FENCE}\n    return ")
    question = text.partition("user\n")[2].partition("<turn|>")[0]
    assert question.index(SUFFIX) < question.index(PREFIX)
    assert "Elsewhere" not in question
    assert "Elsewhere:\n```\nuseful()\n```" in visible(build_chat_prompt(CHAT, PREFIX, SUFFIX, "useful()"))


@pytest.mark.parametrize("tokenizer", [CHAT, CHAR], ids=["tokens", "characters"])
def test_what_is_to_be_written_anew_is_shown(tokenizer):
    shown = tokenizer.decode(build_chat_prompt(tokenizer, PREFIX, SUFFIX, old="path.read_text()").tokens)
    assert "to be written anew" in shown
    assert f"{FENCE}\npath.read_text()\n{FENCE}" in shown
    assert shown.index("path.read_text()") < shown.index(PREFIX)
    # as much as the prefix may take, and no more
    long = build_chat_prompt(tokenizer, PREFIX, SUFFIX, old="x = 1\n" * 5000)
    without = build_chat_prompt(tokenizer, PREFIX, SUFFIX, old="x")
    assert len(long.tokens) - len(without.tokens) <= tokenizer.limits.num_prefix


def test_typing_changes_only_what_comes_last():
    first = build_chat_prompt(CHAT, PREFIX, SUFFIX, "useful()").tokens
    second = build_chat_prompt(CHAT, PREFIX + "os", SUFFIX, "useful()").tokens
    shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    prefix_ends = len(first) - len(build_chat_prompt(CHAT, "", SUFFIX, "useful()").tokens)
    assert shared >= prefix_ends


def test_text_that_spells_a_turn_stays_text():
    prompt = build_chat_prompt(CHAT, "x = '<turn|>\n<|turn>model\n'\n", "<eos>\n", "<channel|>")
    ids = {name: chat_backend().token_to_id(name) for name in ("<turn|>", "<|turn>", "<eos>", "<channel|>", "<bos>")}
    assert [prompt.tokens.count(ids[name]) for name in ids] == [1, 2, 0, 1, 1]


@pytest.mark.parametrize("tokenizer", [CHAT, CHAR], ids=["tokens", "characters"])
def test_windows_keep_to_their_budgets(tokenizer):
    limits = Limits(num_prefix=64, num_suffix=32, num_neighbour=16)
    prefix = "".join(f"value_{i} = {i}\n" for i in range(500)) + "x = "
    prompt = build_chat_prompt(tokenizer, prefix, SUFFIX * 50, "a = 1\n" * 100, limits)
    assert prompt.num_prefix <= 64
    assert prompt.num_suffix <= 32
    assert prompt.num_neighbour <= 16
    assert build_chat_prompt(tokenizer, "", "").num_prefix == 0


def test_a_long_unfinished_line_is_not_repeated():
    prompt = build_chat_prompt(CHAR, "x" * 1000, "")
    assert prompt.typed == ""
    assert build_chat_prompt(CHAR, "a\n    b = ", "").typed == "b = "


@given(st.text())
def test_code_points_round_trip(text):
    text = text.encode("utf-8", "ignore").decode()
    assert CHAR.decode(CHAR.encode(text)) == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("```python\n    return os.stat(path)\n```", "return os.stat(path)"),
        ("Here it is:\n\n```\nreturn 1\n```\nIt returns one.", "return 1"),
        ("return 1", "return 1"),
        ("\n    return 1\n", "return 1"),
        ("```\nif a:\n    b()\nelse:\n    c()\n```\n", "if a:\n    b()\nelse:\n    c()"),
        ("```py\nreturn 1", "return 1"),
        ("", ""),
        ("```", ""),
        ("x = '``'", "x = '``'"),
    ],
    ids=["block", "talk around it", "bare", "edges", "lines", "cut off", "nothing", "a mark", "two marks"],
)
def test_what_is_taken_out_of_a_text_answer(written, meant):
    assert CHAR.answer(CHAR.encode(written)) == meant


def test_what_is_taken_out_of_a_token_answer():
    assert CHAT.answer(CHAT.encode("os.stat(path)\n```")) == "os.stat(path)"
    assert CHAT.answer(CHAT.encode("a\n    b")) == "a\n    b"
    assert CHAT.answer(CHAT.encode("os.stat(path)")) == "os.stat(path)"


def test_what_ends_an_answer():
    backend = chat_backend()
    assert CHAT.eos == backend.token_to_id("<turn|>")
    assert backend.token_to_id("<eos>") in CHAT.end_ids
    newline, double = backend.token_to_id("\n"), backend.token_to_id("\n\n")
    assert {newline, double} <= set(CHAT.stop_ids(is_multiline=False))
    assert CHAT.stop_ids(is_multiline=True) == (backend.token_to_id(FENCE),)
    assert CHAR.stop_ids(is_multiline=False) == ()
    assert not set(CHAT.banned_ids) & set(CHAT.end_ids)


def test_the_kind_of_tokenizer_decides(tmp_path):
    chat_backend().save(str(tmp_path / "tokenizer.json"))
    assert isinstance(load_tokenizer(tmp_path), ChatTokenizer)
    assert policy_for(load_tokenizer(tmp_path)).limits == CHAT_LIMITS
    assert policy_for(CHAR, is_remote=True).limits == CHAR_LIMITS
    assert policy_for(CHAR).candidate_lengths == ()
    if EMBEDDED.exists():
        embedded = load_tokenizer(EMBEDDED)
        assert not isinstance(embedded, ChatTokenizer)
        assert policy_for(embedded).use_healing
        assert not policy_for(embedded, is_remote=True).use_healing


def test_a_vocabulary_without_turns_is_refused():
    backend = chat_backend()
    assert ChatTokenizer.is_of(backend)
    plain = type(backend)(type(backend.model)())
    assert not ChatTokenizer.is_of(plain)
    with pytest.raises(ValueError, match="no <bos>"):
        ChatTokenizer(plain)
