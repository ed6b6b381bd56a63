"""RemoteEngine against a real HTTP server on loopback: canvases, the fallback, and everything a network does."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from lacuna_ls.engine import chat_api, remote
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem
from lacuna_ls.engine.remote import Address, RemoteEngine, UnreachableError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from fake_vllm import Behaviour, FakeVllm

CANVAS = Canvas((NOISE, NOISE, 5, 6), (False, False, True, True))


def problem(*canvases, **more):
    return CanvasProblem((1, 2, 3), canvases or (CANVAS,), **more)


@pytest.fixture
def serve(monkeypatch):
    """serve(behaviour, **options) -> (engine, server)."""
    monkeypatch.setattr(remote, "RETRY_S", 0.01)
    monkeypatch.setattr(remote, "BREAK_S", 0.2)
    servers, engines = [], []

    def make(behaviour=None, **options):
        server = FakeVllm(behaviour)
        server.__enter__()
        servers.append(server)
        engines.append(RemoteEngine(server.url, **options))
        return engines[-1], server

    yield make
    for engine in engines:
        engine.close()
    for server in servers:
        server.__exit__()


def test_canvases_are_seeded_and_pinned_on_the_server(serve):
    engine, server = serve(num_vocab=100)
    (result,) = engine.fill(problem(max_steps=9, seed=4, stop=(8,)))
    assert result.tokens == (7, 7, 5, 6)
    assert result.logprob == (-0.5, -0.5, 0.0, 0.0)
    assert result.is_finished
    (asked,) = server.requests
    extra = asked["vllm_xargs"]
    assert extra["diffusion_canvas_length"] == 16
    assert extra["diffusion_pinned"] == [0, 0, 1, 1] + [0] * 12
    assert extra["diffusion_seed_canvas"][2:4] == [5, 6]
    assert all(0 <= token < 100 for token in extra["diffusion_seed_canvas"])
    assert extra["diffusion_max_steps"] == 9
    assert asked["prompt"] == [1, 2, 3]
    assert asked["model"] == "served-model"
    assert engine.status().state == "ready"


def test_the_same_seed_sends_the_same_noise(serve):
    engine, server = serve()
    for _ in range(2):
        engine.fill(problem(seed=3))
    assert server.requests[0] == server.requests[1]


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(knows_canvases=False), Behaviour(rejects_canvases=True)],
    ids=["has no effect", "is refused"],
)
def test_a_server_without_canvases_continues_text(serve, behaviour):
    engine, server = serve(behaviour)
    canvas = Canvas((9, NOISE, NOISE, 6), (True, False, False, True))
    (result,) = engine.fill(problem(canvas))
    assert result.tokens == (9, 1000, 1001, 6)
    # the rows pinned before the gap belong to the prompt, and nothing is asked for past the gap
    assert server.requests[-1]["prompt"] == [1, 2, 3, 9]
    assert server.requests[-1]["max_tokens"] == 2
    assert "vllm_xargs" not in server.requests[-1]
    num_requests = len(server.requests)
    engine.fill(problem(canvas))
    # it is not tried again each time
    assert len(server.requests) == num_requests + 1
    assert "without canvases" in engine.status().detail


def test_the_end_is_after_the_first_stop_token(serve):
    engine, _ = serve(Behaviour(knows_canvases=False, tokens=[11, 8, 12]))
    (result,) = engine.fill(problem(Canvas.free(4), stop=(8,)))
    assert result.end == 2
    assert result.tokens == (11, 8, 12, 1)


def test_an_end_token_is_no_part_of_the_answer(serve):
    engine, _ = serve(Behaviour(knows_canvases=False, tokens=[11, 106, 12]))
    assert engine.fill(problem(Canvas.free(4)))[0].end == 1


@pytest.mark.parametrize(
    "status", [429, 500, 503, 0, -1, -2], ids=["429", "500", "503", "hangs up", "truncates", "no JSON"]
)
def test_what_may_pass_is_tried_again(serve, status):
    engine, server = serve(Behaviour(statuses=[status, status]))
    (result,) = engine.fill(problem())
    assert result.tokens == (7, 7, 5, 6)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 404], ids=["no access", "not found"])
def test_what_will_not_pass_is_not(serve, status):
    engine, server = serve(Behaviour(statuses=[status]))
    (result,) = engine.fill(problem())
    assert not result.is_finished
    assert result.end == 0
    assert len(server.requests) == 1


def test_failures_in_a_row_become_a_state_and_silence(serve):
    engine, server = serve(Behaviour(statuses=[500] * 9))
    for _ in range(3):
        assert not engine.fill(problem())[0].is_finished
    assert len(server.requests) == 9
    assert engine.status().state == "failed"
    assert "HTTP 500" in engine.status().detail
    begun = time.monotonic()
    for _ in range(20):
        assert not engine.fill(problem())[0].is_finished
    assert time.monotonic() - begun < 0.15
    assert len(server.requests) == 9
    # later it is asked again, and one answer is enough
    time.sleep(0.25)
    assert engine.fill(problem())[0].is_finished
    assert engine.status().state == "ready"


def test_the_deadline_is_kept(serve):
    engine, _ = serve(Behaviour(latency_s=1.0))
    begun = time.monotonic()
    (result,) = engine.fill(problem(deadline_ms=100))
    assert time.monotonic() - begun < 0.6
    assert not result.is_finished
    assert not result.is_cancelled


def test_retry_after_past_the_deadline_is_not_waited_for(serve):
    engine, _ = serve(Behaviour(statuses=[429], retry_after="30"))
    begun = time.monotonic()
    assert not engine.fill(problem(deadline_ms=300))[0].is_finished
    assert time.monotonic() - begun < 1


def test_a_cancel_hangs_up(serve):
    engine, _ = serve(Behaviour(latency_s=0.5))
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    begun = time.monotonic()
    (result,) = engine.fill(problem(), cancelled.is_set)
    assert result.is_cancelled
    assert time.monotonic() - begun < 0.4
    # a cancel is no failure
    assert engine.status().state == "ready"
    assert engine.fill(problem())[0].is_finished


def test_an_answer_that_ends_with_its_connection_is_hung_up_on_too(serve):
    # http.client lets go of the socket of such an answer as soon as it has read the headers
    engine, _ = serve(Behaviour(body_latency_s=1.0))
    assert engine.fill(problem(deadline_ms=200))[0].is_finished is False, "the list of models waits, too"
    engine, _ = serve(Behaviour(body_latency_s=1.0), model="known")
    begun = time.monotonic()
    assert not engine.fill(problem(deadline_ms=200))[0].is_finished
    assert time.monotonic() - begun < 0.7
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    begun = time.monotonic()
    assert engine.fill(problem(), cancelled.is_set)[0].is_cancelled
    assert time.monotonic() - begun < 0.7


def test_a_cancel_while_it_connects_is_not_forgotten(serve, monkeypatch):
    connect = socket.create_connection

    def slow(*arguments, **options):
        time.sleep(0.1)
        return connect(*arguments, **options)

    engine, _ = serve(Behaviour(latency_s=1.0), model="known")
    monkeypatch.setattr(socket, "create_connection", slow)
    cancelled = threading.Event()
    threading.Timer(0.02, cancelled.set).start()
    begun = time.monotonic()
    assert engine.fill(problem(), cancelled.is_set)[0].is_cancelled
    assert time.monotonic() - begun < 0.7


def tokens_answer(tokens: str, logprobs: str) -> bytes:
    return f'{{"choices": [{{"logprobs": {{"tokens": {tokens}, "token_logprobs": {logprobs}}}}}]}}'.encode()


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(body=b"[" * 200_000),
        Behaviour(body=tokens_answer('["7"]', f"[-1{'0' * 400}]")),
        Behaviour(body=tokens_answer('["7", "8"]', "[NaN, -1.0]")),
        Behaviour(body=tokens_answer(f'["{10**12}"]', "[-1.0]")),
        Behaviour(body=tokens_answer('["-5"]', "[-1.0]")),
        Behaviour(statuses=[429] * 9, retry_after="\u00b2"),
    ],
    ids=["deep", "no float", "NaN", "a huge id", "a negative id", "no number of seconds"],
)
def test_nonsense_is_a_failure_and_nothing_is_raised(serve, behaviour):
    engine, _ = serve(behaviour, model="known")
    (result,) = engine.fill(problem(Canvas.free(3)))
    assert not result.is_finished
    assert result.end == 0
    assert engine.status().state == "failed"


@pytest.mark.parametrize(
    ("token", "is_sent"), [(" secret\r\n", True), ("\u043a\u043b\u044e\u0447", False), ("a\nb", False)]
)
def test_a_token_that_cannot_be_sent_is_a_failure(serve, monkeypatch, token, is_sent):
    monkeypatch.setenv("LACUNA_REMOTE_TOKEN", token)
    engine, _ = serve(Behaviour(token="secret"), model="known")
    assert engine.fill(problem())[0].is_finished is is_sent
    detail = engine.status().detail
    assert is_sent or ("LACUNA_REMOTE_TOKEN" in detail and token not in detail)


@pytest.mark.parametrize("url", ["https://a..b", "https://.", "http://127.0.0.1:1/\u00e4"])
def test_an_address_that_cannot_be_asked_is_a_failure(url):
    engine = RemoteEngine(url, model="known", timeout_s=0.5)
    assert not engine.fill(problem())[0].is_finished
    assert engine.status().state == "failed"
    engine.close()


def test_canvases_of_one_problem_are_asked_together(serve):
    engine, _ = serve(Behaviour(latency_s=0.3))
    begun = time.monotonic()
    results = engine.fill(problem(CANVAS, Canvas.free(3), Canvas.free(2)))
    assert [len(result.tokens) for result in results] == [4, 3, 2]
    assert time.monotonic() - begun < 0.8


def test_the_token_comes_from_the_environment_only(serve, monkeypatch):
    engine, server = serve(Behaviour(token="secret"))
    assert not engine.fill(problem())[0].is_finished
    monkeypatch.setenv("LACUNA_REMOTE_TOKEN", "secret")
    engine, server = serve(Behaviour(token="secret"))
    assert engine.fill(problem())[0].is_finished
    assert server.headers[-1]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "ftp://127.0.0.1", "http://", "http://10.0.0.1:8000", "https://a:b@host", "http://[::1"],
)
def test_addresses_that_must_not_be_used(url):
    with pytest.raises(EngineError):
        Address.parse(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000/v1/", "http://[::1]:8000", "https://host/x/v1"]
)
def test_addresses_that_may(url):
    address = Address.parse(url)
    assert address.port in (8000, 443)
    assert not address.path.endswith("v1")


def later(behaviour=None):
    """(address, begin): a server that is not there until begin is called."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    return f"http://127.0.0.1:{port}", lambda: FakeVllm(behaviour, port)


def test_a_server_that_is_not_there_yet(monkeypatch):
    monkeypatch.setattr(remote, "BREAK_S", 0.2)
    url, begin = later()
    engine = RemoteEngine(url, timeout_s=1)
    assert not engine.fill(problem())[0].is_finished
    # told at once, not only when it has happened a few times
    status = engine.status()
    assert (status.state, status.device) == ("failed", url)
    assert "the connection failed" in status.detail
    with pytest.raises(UnreachableError, match="cannot be used"):
        engine.agrees_on("x", [1])
    assert not engine.is_left_alone
    assert not engine.fill(problem())[0].is_finished
    assert engine.is_left_alone
    with begin() as server:
        time.sleep(0.25)
        assert engine.fill(problem())[0].is_finished
        assert engine.model == server.requests[-1]["model"] == "served-model"
        assert engine.status().state == "ready"
    engine.close()


@pytest.mark.parametrize(("status", "is_final"), [(401, True), (404, True), (503, False), (429, False), (0, False)])
def test_what_a_server_says_of_its_models_first(serve, monkeypatch, status, is_final):
    engine, _ = serve(Behaviour(model_statuses=[status]))
    with pytest.raises(EngineError, match="cannot be used") as caught:
        engine.agrees_on("x", [1])
    assert isinstance(caught.value, UnreachableError) is not is_final
    assert engine.status().state == "failed"
    assert engine.agrees_on("x", [1]) is False
    assert engine.status().state == "ready"


def test_no_time_left_is_not_the_servers_failure(serve):
    engine, server = serve()
    for _ in range(10):
        assert not engine.fill(problem(deadline_ms=1))[0].is_finished
    assert not server.requests
    assert not engine.is_left_alone
    assert engine.status().state == "ready"
    # nor is it an answer that makes good what failed before
    for _ in range(2):
        server.behaviour.statuses = [500] * 3
        engine.fill(problem())
        engine.fill(problem(deadline_ms=1))
    server.behaviour.statuses = [500] * 3
    engine.fill(problem())
    assert engine.is_left_alone


def test_a_cancel_while_the_server_is_looked_for(serve):
    engine, _ = serve(Behaviour(model_latency_s=0.5))
    begun = time.monotonic()
    assert engine.fill(problem(), lambda: time.monotonic() - begun > 0.05)[0].is_cancelled
    assert time.monotonic() - begun < 0.4
    assert engine.status().state == "ready"


def test_tokenizers_are_compared(serve):
    engine, server = serve(Behaviour(text_tokens=[1, 2, 3]))
    assert engine.agrees_on("x", [1, 2, 3]) is True
    assert engine.agrees_on("x", [1, 2]) is False
    server.behaviour.tokenize_status = 404
    assert engine.agrees_on("x", [1, 2]) is None
    assert engine.status().state == "ready"
    server.behaviour.tokenize_status = 502
    with pytest.raises(UnreachableError):
        engine.agrees_on("x", [1, 2])


def test_closed(serve):
    engine, _ = serve()
    engine.close()
    assert engine.status().state == "closed"
    with pytest.raises(EngineError, match="closed"):
        engine.fill(problem())


def test_text_instead_of_tokens(serve):
    engine, server = serve(Behaviour(text="return 1\n"))
    engine.use_vocabulary(0x110001, (0x110000,), is_text=True)
    question = CanvasProblem(tuple(map(ord, "What?")), (Canvas.free(32),))
    (result,) = engine.fill(question)
    assert "".join(map(chr, result.tokens[: result.end])) == "return 1\n"
    assert set(result.tokens[result.end :]) == {0x110000}
    assert result.is_finished
    # each token's logprob stands on its first character
    assert result.logprob[:9] == (-0.01, 0, 0, 0, 0, 0, -0.01, -0.01, -0.01)
    (asked,) = server.requests
    assert asked["messages"] == [{"role": "user", "content": "What?"}]
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
    assert asked["max_tokens"] == 16
    assert "prompt" not in asked
    assert "by text" in engine.status().detail
    # rows that stand fast cannot be asked for in words
    num_requests = len(server.requests)
    (result,) = engine.fill(problem(CANVAS))
    assert not result.is_finished
    assert len(server.requests) == num_requests


def test_a_text_answer_that_was_cut_off_is_not_finished(serve):
    engine, _ = serve(Behaviour(text="return", is_cut=True))
    engine.use_vocabulary(0x110001, (0x110000,), is_text=True)
    assert not engine.fill(problem(Canvas.free(32)))[0].is_finished
    engine, _ = serve(Behaviour(text="x" * 40))
    engine.use_vocabulary(0x110001, (0x110000,), is_text=True)
    (result,) = engine.fill(problem(Canvas.free(32)))
    assert (result.end, result.is_finished) == (32, False)


@pytest.mark.parametrize("status", [429, 500, 0, -1, -2], ids=["429", "500", "hangs up", "truncates", "no JSON"])
def test_text_is_tried_again_as_well(serve, status):
    engine, server = serve(Behaviour(statuses=[status], text="a"))
    engine.use_vocabulary(0x110001, (0x110000,), is_text=True)
    assert engine.fill(problem(Canvas.free(8)))[0].is_finished
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [{}, {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{"message": {"content": None}}]},
     {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"nothing": 1}]}}]}],
)  # fmt: skip
def test_what_is_no_chat_completion_is_a_failure(serve, monkeypatch, answer):
    engine, _ = serve(Behaviour())
    engine.use_vocabulary(0x110001, (0x110000,), is_text=True)
    monkeypatch.setattr(engine, "_ask", lambda *given: answer)
    for _ in range(3):
        assert not engine.fill(problem(Canvas.free(8)))[0].is_finished
    assert "no chat completion" in engine.status().detail


def test_probabilities_of_half_characters_are_left_out():
    pieces = [{"token": "\ufffd", "logprob": -1.0}, {"token": "\ufffd", "logprob": -1.0}]
    answer = {"choices": [{"message": {"content": "é"}, "logprobs": {"content": pieces}}]}
    assert chat_api.read(answer) == ([ord("é")], [0.0], False)
