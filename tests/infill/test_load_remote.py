"""Which layout a server is asked in, over real HTTP on loopback: by its tokens, by its turns, or by text."""

from __future__ import annotations

import pytest
from chat_tokenizer import chat_backend
from fake_vllm import Behaviour, FakeVllm
from infill_cases import CURSOR, asked
from lacuna_ls.engine.errors import EngineError, VocabularyError
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.chat import CharTokenizer, ChatTokenizer
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.load_remote import PROBE, load_remote

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


def test_a_server_that_is_not_there():
    with pytest.raises(EngineError, match="cannot be used"):
        load_remote("http://127.0.0.1:9", timeout_s=1)
