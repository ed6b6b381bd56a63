"""The tokenizer: exact round trip of any text, newlines on their own, specials by id only."""

import random

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lacuna_ls.training import corpus, holes, sources
from lacuna_ls.training.tokenizer import SPECIAL_TOKENS, bytes_per_token, main, train_tokenizer


@pytest.fixture(scope="module")
def texts():
    found = [
        raw.decode()
        for name, raw in sources.standard_library().read()
        if name.startswith(("json/", "asyncio/s", "asyncio/t"))
    ]
    assert len(found) > 10
    return found


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, 1500)


def test_specials_have_the_first_ids_in_the_stated_order(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(16))
    assert SPECIAL_TOKENS[:9] == (
        "<pad>",
        "<eos>",
        "<bos>",
        "<suf>",
        "<pre>",
        "<mid>",
        "<ctx>",
        "<file>",
        "<reserved8>",
    )
    assert SPECIAL_TOKENS[-1] == "<reserved15>"
    assert tokenizer.get_vocab_size() == 1500


@settings(max_examples=400, deadline=None)
@given(st.text())
@example("a\r\nb\tc\x00\x7f\u0301👩‍👩‍👧 \ud7ff\ufffd\U0010ffff")
@example("<eos><pad> <mid>")
@example(" " * 70 + "x" + "\t" * 5 + "\n \n\n")
@example("１２३ Ⅷ ４x_１ __")
def test_any_text_comes_back_exactly(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not ids or min(ids) >= len(SPECIAL_TOKENS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["\n", "    ", "  ", "\t", "x = f(1)", " \n", "\n\n", "):", "\r"]), max_size=20).map(
        "".join
    )
)
def test_a_newline_is_always_a_token_of_its_own(tokenizer, text):
    tokens = tokenizer.encode(text).tokens
    assert all(token == "Ċ" or "Ċ" not in token for token in tokens)
    # so the tokens of a line do not depend on its neighbours
    lines = text.split("\n")
    apart = [
        token for number, line in enumerate(lines) for token in (["Ċ"] * (number > 0) + tokenizer.encode(line).tokens)
    ]
    assert tokens == apart


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        # the common indents are single tokens, and the word after them carries no space
        ("    return", ["ĠĠĠĠ", "return"]),
        ("        return", ["Ġ" * 8, "return"]),
        ("            return", ["Ġ" * 12, "return"]),
        ("                return", ["Ġ" * 16, "return"]),
        # inside a line a word carries its space
        ("if self", ["if", "Ġself"]),
        # digits are split singly
        ("1024", ["1", "0", "2", "4"]),
    ],
)
def test_code_is_split_as_stated(tokenizer, text, tokens):
    assert tokenizer.encode(text).tokens == tokens


def test_holes_at_line_edges_have_one_tokenization(tokenizer, texts):
    rng = random.Random(5)
    for text in texts[:8]:
        for hole in holes.sample_holes(text, rng, ("line", "block"), 5):
            # the stated exception: one space before a word joins it, as inside a line
            if len(text[: hole.start].rpartition("\n")[2]) % 32 == 1:
                continue
            parts = (text[: hole.start], text[hole.start : hole.end], text[hole.end :])
            apart = [i for part in parts for i in tokenizer.encode(part).ids]
            assert apart == tokenizer.encode(text).ids


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"271.*272"):
        train_tokenizer(["x"], 271)


def test_the_command_trains_saves_and_reports(tmp_path, texts, capsys):
    files = {f"a/{number}.py": text for number, text in enumerate(texts)}
    root = tmp_path / "src"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    half = len(files) // 2
    packages = [
        sources.Package("some-library", "1", "MIT", "python", root, tuple(sorted(files))[:half]),
        sources.Package("httpx", "1", "MIT", "python", root, tuple(sorted(files))[half:]),
    ]
    corpus.build_corpus(tmp_path / "corpus", packages=packages, jobs=1)
    capsys.readouterr()
    out = tmp_path / "deep" / "tokenizer.json"
    main(["--corpus", str(tmp_path / "corpus"), "--out", str(out), "--vocab-size", "800"])
    loaded = tokenizers.Tokenizer.from_file(str(out))
    loaded.encode_special_tokens = True
    assert loaded.get_vocab_size() == 800
    assert '"vocab_size": 800' in capsys.readouterr().err
    # merges were learned: better than bytes alone
    assert bytes_per_token(loaded, texts[:3]) > 2
