"""The headless editor: it speaks as VS Code does, survives any server, and says what went wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.bench.client import LspClient, num_units, offset_at, position_at
from lacuna_ls.bench.errors import ServerError
from lacuna_ls.bench.subject import Conditions, ServerSubject, read_items, split_keys

URI = "file:///w/shapes.py"
TEXTS = st.text(alphabet=st.sampled_from("ab \n\r🟢é"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(0, 40))
def test_positions_come_back(text: str, offset: int):
    offset = min(offset, len(text))
    line, character = position_at(text, offset)
    back = offset_at(text, {"line": line, "character": character})
    # between \r and \n there is no position of its own: it is the end of the line
    is_split = text[offset - 1 : offset + 1] == "\r\n" and offset > 0
    assert back == (offset - 1 if is_split else offset) or is_split


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        pytest.param(0, (0, 0), id="start"),
        pytest.param(2, (0, 3), id="a-surrogate-pair-counts-two"),
        pytest.param(5, (1, 1), id="after-crlf"),
        pytest.param(7, (2, 1), id="after-a-lone-carriage-return"),
    ],
)
def test_positions_are_utf_16(offset: int, expected: tuple[int, int]):
    text = "a🟢\r\nb\rc"
    assert position_at(text, offset) == expected
    assert offset_at(text, {"line": expected[0], "character": expected[1]}) == offset


def test_positions_outside_are_the_nearest():
    assert offset_at("ab\ncd", {"line": 0, "character": 99}) == 2
    assert offset_at("ab\ncd", {"line": 9, "character": 0}) == 5
    with pytest.raises(ValueError, match="outside"):
        position_at("ab", 3)
    assert num_units("a🟢") == 3


@pytest.mark.parametrize(
    ("text", "cursor", "num", "keys"),
    [
        pytest.param("abc", 3, 2, ["b", "c"], id="letters"),
        pytest.param("x\n    y", 6, 2, ["x", "\n    "], id="a-newline-brings-its-indentation"),
        pytest.param("x\r\n\ty", 4, 1, ["\r\n\t"], id="crlf"),
        pytest.param("x\n", 2, 1, ["\n"], id="empty-line"),
        pytest.param("  x", 2, 3, [" ", " "], id="first-line-has-no-newline"),
        pytest.param("abc", 0, 2, [], id="nothing-typed"),
        pytest.param("abc", 3, 0, [], id="no-keys-wanted"),
    ],
)
def test_split_keys(text: str, cursor: int, num: int, keys: list[str]):
    assert split_keys(text, cursor, num) == keys
    assert text[:cursor].endswith("".join(keys))


@pytest.mark.parametrize(
    ("result", "texts"),
    [
        pytest.param(None, [], id="null"),
        pytest.param([], [], id="nothing"),
        pytest.param([{"insertText": "x"}], ["x"], id="array"),
        pytest.param({"items": [{"insertText": "x"}, {"insertText": "y"}]}, ["x", "y"], id="list"),
        pytest.param([{"insertText": {"kind": "snippet", "value": "f(${1:a}, $2)"}}], ["f(a, )"], id="snippet"),
        pytest.param([{"insertText": ""}, {"text": "x"}, 3, None], [], id="rubbish"),
        pytest.param("hello", [], id="a-string"),
    ],
)
def test_read_items(result: object, texts: list[str]):
    assert [item.text for item in read_items(result, "abc", 3)] == texts


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({"confidence": 0.5}, id="in-the-item"),
        pytest.param({"data": {"confidence": 0.5}}, id="in-data"),
        pytest.param({"command": {"arguments": ["id", {"confidence": 0.5}]}}, id="in-the-command"),
    ],
)
def test_a_confidence_is_found_wherever_it_travels(item: dict):
    (found,) = read_items([{"insertText": "x", **item}], "", 0)
    assert found.confidence == 0.5


def run(work):
    return asyncio.run(asyncio.wait_for(work, 30))


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_documents_arrive_as_they_are(oracle, mode: str):
    # the oracle answers only where its copy of the document is exactly ours
    text = "first = '🟢'\nsecond = first + third\n"
    cursor = text.index("third")

    async def work():
        client = await LspClient.start(oracle(mode, texts=[text]))
        try:
            assert client.is_incremental is (mode == "incremental")
            client.open(URI, "python", "first = \nsecond = wrong\n")
            client.change(URI, 8, 8, "'🟢'")
            start = client.text_of(URI).index("wrong")
            client.change(URI, start, start + 5, "first + ")
            assert client.version_of(URI) == 3
            ident, future = client.begin_inline_completion(URI, position_at(client.text_of(URI), cursor))
            reply = await client.wait(ident, future)
            assert 0 < reply.elapsed_ms < 5000
            return read_items(reply.result, client.text_of(URI), cursor)
        finally:
            await client.stop()

    items = run(work())
    assert [item.text for item in items] == ["third", "thirdx"]
    assert (items[0].start, items[0].end) == (cursor, cursor)


def test_the_server_is_told_what_vs_code_tells(oracle, tmp_path: Path):
    async def work():
        client = await LspClient.start(oracle("chatty"), root=tmp_path, settings={"lacuna": {"enable": True}})
        notified: list[str] = []
        client.watch(lambda method, params: notified.append(method))
        reply = await client.request("no/such", {})
        await client.stop()
        return client, reply, notified

    client, reply, notified = run(work())
    assert client.server_info == {"name": "oracle"}
    assert client.initialize_ms > 0
    # the server's own requests were answered, or it would have waited for ever; its notifications were heard
    assert reply.error == "no such method"
    assert "$/lacuna/status" in notified
    assert list(client.messages) == ["hello"]


async def ask_directly(command: list[str], num_times: int = 1, timeout_s: float = 5.0):
    """The last of num_times answers to the same request."""
    client = await LspClient.start(command)
    try:
        client.open(URI, "python", "x = \n")
        for _ in range(num_times):
            ident, future = client.begin_inline_completion(URI, (0, 4))
            reply = await client.wait(ident, future, timeout_s=timeout_s)
        return reply
    finally:
        await client.stop()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["mute"], "did not answer", id="silent"),
        pytest.param(["garbage"], "no LSP message", id="not-a-protocol"),
    ],
)
def test_a_request_that_gets_nowhere_says_why(oracle, words: list[str], message: str):
    with pytest.raises(ServerError, match=message):
        run(ask_directly(oracle(*words), timeout_s=0.5))


def test_a_server_that_bends_the_protocol_is_still_heard(oracle):
    reply = run(ask_directly(oracle("odd")))
    assert reply.error == "boom"
    assert not reply.is_cancelled


def test_a_server_that_dies_leaves_its_last_words(oracle):
    with pytest.raises(ServerError, match=r"(?s)ended.*it all went dark"):
        run(ask_directly(oracle("die"), 5))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param(["/no/such/server"], "does not start", id="no-file"),
        pytest.param([sys.executable, "-c", "print('hello')"], "server", id="not-a-server"),
        pytest.param([sys.executable, "-c", "import sys; sys.exit('no licence')"], "no licence", id="leaves-at-once"),
    ],
)
def test_what_is_no_server_says_so(command: list[str], message: str):
    with pytest.raises(ServerError, match=message):
        run(LspClient.start(command))


def test_a_refused_initialize_says_so(oracle):
    with pytest.raises(ServerError, match="not today"):
        run(LspClient.start(oracle("refuse")))


def test_a_server_that_will_not_leave_is_ended(oracle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lacuna_ls.bench.client.STOP_TIMEOUT_S", 0.3)

    async def work():
        client = await LspClient.start(oracle("hang"))
        await client.stop()
        return client

    assert not run(work()).is_running


def test_the_last_keys_are_typed_and_the_clock_runs(oracle, tmp_path: Path):
    text = "first = 1\nsecond = first\n"
    cursor = text.index("first\n")
    document = text.replace("first\n", "\n", 1)

    async def work():
        subject = ServerSubject(oracle("chatty", texts=[text]), Conditions(num_keys=3, key_ms=20.0), tmp_path)
        async with subject.running():
            subject.open(URI, "python", document)
            assert subject.client is not None
            answer = await subject.type_and_ask(URI, cursor)
            # open, three keys taken back at once, then one by one
            assert subject.client.version_of(URI) == 5
            assert subject.client.text_of(URI) == document
            return subject, answer

    subject, answer = run(work())
    assert answer.items[0].text == "first"
    assert answer.keystroke_ms is not None
    assert 0 < answer.request_ms <= answer.keystroke_ms < 2000
    told = {"source": "model", "confidence": "0.75", "steps": "6", "cached": "100", "prefilled": "3", "forwards": "4"}
    assert answer.told == told
    assert subject.about["first_proposal_ms"] > subject.about["initialize_ms"] > 0


def answer_of(command: list[str], num_keys: int, root: Path):
    """What a server answers at the end of a line without a value."""

    async def work():
        subject = ServerSubject(command, Conditions(num_keys=num_keys), root)
        async with subject.running():
            subject.open(URI, "python", "x = \n")
            return await subject.type_and_ask(URI, 4)

    return run(work())


def test_a_decline_has_the_reason_that_the_log_gives(oracle, tmp_path: Path):
    answer = answer_of(oracle("chatty", "never"), 1, tmp_path)
    assert (answer.items, answer.declined, answer.error) == ((), "low-confidence", "")
    # a decline cost work, too
    assert answer.told == {"cached": "235", "prefilled": "0", "forwards": "3"}


def test_an_error_answer_is_no_end(oracle, tmp_path: Path):
    answer = answer_of(oracle("error", "chatty"), 0, tmp_path)
    assert (answer.declined, answer.error, answer.keystroke_ms) == ("error", "boom", None)


def test_the_subject_has_folders_of_its_own_and_leaves_nothing(oracle, tmp_path: Path):
    # a server that shares a loaded model with the user's editors through a socket would not be measured at all
    log = tmp_path / "environment"
    code = f"import os, pathlib; pathlib.Path({str(log)!r}).write_text(os.environ['XDG_RUNTIME_DIR'])"
    command = oracle()
    launcher = [sys.executable, "-c", f"{code}; os.execv({command[0]!r}, {command!r})"]

    async def work():
        async with ServerSubject(launcher, Conditions(), tmp_path).running():
            folder = Path(log.read_text(encoding="utf-8"))
            return folder, folder.stat().st_mode & 0o777

    folder, mode = run(work())
    assert mode == 0o700
    assert not folder.exists()
