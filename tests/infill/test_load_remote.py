"""Which layout a server is asked in, over real HTTP on loopback: by its tokens, by its turns, or by text."""

from __future__ import annotations

import socket
import time

import pytest
from chat_tokenizer import chat_backend
from fake_vllm import Behaviour, FakeVllm
from infill_cases import CURSOR, asked
from lacuna_ls.engine import remote
from lacuna_ls.engine.errors import EngineError, VocabularyError
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.chat import CharTokenizer, ChatTokenizer
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.load_remote import PROBE, load_remote
from lacuna_ls.infill.request import GapSpan, GapsRequest

pytestmark = pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")

CHAT = ChatTokenizer(chat_backend())
TEXT = f"def add(first, second):\n    return first + {CURSOR}\n\n\nprint(add(1, 2))\n"


@pytest.fixture
def folder(tmp_path):
    chat_backend().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def serve():
    """serve(behaviour, model) -> (infiller, server)."""
    made = []

    def begin(behaviour, *given):
        server = FakeVllm(behaviour)
        server.__enter__()
        made.append(server)
        infiller = load_remote(server.url, *given, timeout_s=20)
        made.append(infiller)
        return infiller, server

    yield begin
    for each in made:
        each.close() if hasattr(each, "close") else each.__exit__()


def test_a_model_like_ours_is_asked_in_our_layout(serve):
    tokenizer = load_tokenizer(EMBEDDED)
    tokens = [*tokenizer.encode("second"), tokenizer.eos]
    behaviour = Behaviour(knows_canvases=False, text_tokens=tokenizer.encode(PROBE), tokens=tokens)
    infiller, server = serve(behaviour)
    assert infiller.fill(asked(TEXT)).proposals[0].text == "second"
    assert server.requests[-1]["prompt"][0] == tokenizer.suf
    # a server would take a text that is to be scored for a canvas to begin with
    assert not infiller.policy.can_score


@pytest.mark.parametrize("how", ["named", "as served"])
def test_a_published_model_is_asked_in_its_turns(serve, folder, how):
    tokens = [*CHAT.encode("second"), CHAT.eos, CHAT.pad]
    behaviour = Behaviour(knows_canvases=False, text_tokens=CHAT.encode(PROBE), tokens=tokens)
    behaviour.model = str(folder)
    infiller, server = serve(behaviour, *([str(folder)] if how == "named" else []))
    assert isinstance(infiller.tokenizer, ChatTokenizer)
    assert infiller.fill(asked(TEXT)).proposals[0].text == "second"
    question = chat_backend().decode(server.requests[-1]["prompt"], skip_special_tokens=False)
    assert question.startswith("<bos><|turn>user\n")
    assert question.endswith("<channel|>```\n    return first + ")
    assert "print(add(1, 2))" in question
    assert server.requests[-1]["vllm_xargs"]["diffusion_canvas_length"] == 32


def test_the_tokenizer_comes_from_the_cache_where_it_is_there(serve, folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(folder / file))
    behaviour = Behaviour(text_tokens=CHAT.encode(PROBE), model="google/diffusiongemma-26B-A4B-it")
    infiller, _ = serve(behaviour)
    assert isinstance(infiller.tokenizer, ChatTokenizer)


def test_several_lengths_are_pinned_for_alternatives(serve, folder):
    behaviour = Behaviour(text_tokens=CHAT.encode(PROBE))
    infiller, server = serve(behaviour, str(folder))
    infiller.fill(asked(TEXT, num_alternatives=3))
    pinned = [sum(request["vllm_xargs"]["diffusion_pinned"]) for request in server.requests]
    assert sorted(pinned) == [0, 24, 28]


def test_without_a_tokenizer_it_is_asked_by_text(serve):
    behaviour = Behaviour(text_tokens=[1, 2], text="```python\n    return first + second\n```", model="a/none")
    infiller, server = serve(behaviour)
    assert isinstance(infiller.tokenizer, CharTokenizer)
    assert infiller.fill(asked(TEXT)).proposals[0].text == "second"
    (message,) = server.requests[-1]["messages"]
    assert "return first + " in message["content"]
    assert "print(add(1, 2))" in message["content"]
    assert "<|turn>" not in message["content"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("```\ntotal = first + second\n    print(total)\n    return total\n```", "total = first + second"),
        ("I would rather not.", None),
        ("", None),
        ("```\nreturn other\n```", "return other"),
    ],
    ids=["several lines", "prose", "nothing", "one line"],
)
def test_whole_bodies_and_bad_answers_by_text(serve, answer, expected):
    infiller, _ = serve(Behaviour(text_tokens=[1, 2], text=answer, model="google/none-here"))
    result = infiller.fill(asked(f"def add(first, second):\n    {CURSOR}\n\n\nprint(add(1, 2))\n", kind="block"))
    texts = [proposal.text for proposal in result.proposals]
    assert (texts[0].startswith(expected) if expected else not texts), result


def test_a_tokenizer_that_is_not_the_servers_is_refused(serve, folder):
    with pytest.raises(VocabularyError, match="another tokenizer"):
        serve(Behaviour(text_tokens=[1, 2]), str(folder))
    with pytest.raises(VocabularyError, match=r"no tokenizer\.json"):
        serve(Behaviour(text_tokens=[1, 2]), str(folder / "nothing"))


@pytest.mark.parametrize("how", ["in our layout", "in its turns", "by text"])
def test_a_server_that_is_not_there_yet_is_asked_in_its_layout_later(folder, monkeypatch, how):
    monkeypatch.setattr(remote, "BREAK_S", 0.1)
    tokenizer = {"in our layout": load_tokenizer(EMBEDDED), "in its turns": CHAT, "by text": CharTokenizer()}[how]
    behaviour = Behaviour(knows_canvases=False, text_tokens=[1, 2], text="```\n    return first + second\n```")
    if how != "by text":
        behaviour.text_tokens = tokenizer.encode(PROBE)
        behaviour.tokens = [*tokenizer.encode("second"), tokenizer.eos]
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    infiller = load_remote(f"http://127.0.0.1:{port}", str(folder) if how == "in its turns" else "", timeout_s=20)
    try:
        assert infiller.status().state == "failed"
        for _ in range(4):
            infiller.prefetch(asked(TEXT))
            assert infiller.fill(asked(TEXT)).declined == "unreachable"
        gaps = GapsRequest(text="x = 1\n", gaps=(GapSpan(4, 5),), language="python")
        assert [fill.declined for fill in infiller.fill_gaps(gaps).fills] == ["unreachable"]
        assert "the connection failed" in infiller.status().detail
        with FakeVllm(behaviour, port):
            until = time.monotonic() + 20
            while not (result := infiller.fill(asked(TEXT))).proposals and time.monotonic() < until:
                time.sleep(0.05)
            assert result.proposals[0].text == "second"
            assert type(infiller.tokenizer) is type(tokenizer)
            assert infiller.status().state == "ready"
    finally:
        infiller.close()


def test_a_server_that_begins_with_another_tokenizer_says_so(folder):
    behaviour = Behaviour(model_statuses=[503], text_tokens=[1, 2])
    with FakeVllm(behaviour) as server:
        infiller = load_remote(server.url, str(folder), timeout_s=20)
        assert infiller.fill(asked(TEXT)).declined == "unreachable"
        assert infiller.status().state == "failed"
        assert "another tokenizer" in infiller.status().detail
        infiller.close()


@pytest.mark.parametrize("asked_for", ["", "a-model"], ids=["the first", "by name"])
def test_what_waiting_does_not_help_is_told_at_once(asked_for):
    with pytest.raises(EngineError, match="unencrypted"):
        load_remote("http://example.org")
    behaviour = Behaviour(model_statuses=[401], tokenize_status=401)
    with FakeVllm(behaviour) as server, pytest.raises(EngineError, match="LACUNA_REMOTE_TOKEN"):
        load_remote(server.url, asked_for=asked_for)
