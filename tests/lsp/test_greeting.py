"""The greeting: `initialize` answered before the server is there, with exactly what the server would have said."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import subprocess
import sys
import tomllib

import pytest
from greeting_truth import full_result, initialize_frame, server_answers
from lacuna_ls.lsp.greeting import FULL_RESULT, answer_to
from lacuna_ls.lsp.record import read_session
from lsp_client import FAKE_SERVER, Client, ResponseError, initialize_params, with_encoding

URI = "file:///workspace/a.py"
GREETED = "before the server was there"
NOTEBOOKS = {"notebookDocument": {"synchronization": {"dynamicRegistration": True}}}
FALLBACK = {"features": {"completionFallback": True}}


def sync(**flags):
    return {"capabilities": {"textDocument": {"synchronization": flags}}}


def without_ghost_text(**options):
    params = initialize_params("nvim")
    del params["capabilities"]["textDocument"]["inlineCompletion"]
    return {**params, "initializationOptions": options}


def test_the_file_is_current():
    assert FULL_RESULT.read_text(encoding="utf-8") == full_result(), "run `make docs`"


def test_the_version_is_this_project_s(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert json.loads(full_result())["serverInfo"]["version"] == project["version"]


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(initialize_params("nvim"), id="neovim"),
        pytest.param(initialize_params("vscode"), id="code"),
        pytest.param({"capabilities": {}}, id="a client that can nothing"),
        pytest.param({"capabilities": {"general": None, "textDocument": None, "notebookDocument": None}}, id="nulls"),
        *(
            pytest.param(with_encoding(initialize_params("nvim"), each), id=each)
            for each in ("utf-8", "utf-16", "utf-32", "utf-7")
        ),
        # the client's order counts, and what nobody knows is passed over
        pytest.param({"capabilities": {"general": {"positionEncodings": ["x", "utf-32", "utf-8"]}}}, id="several"),
        pytest.param({"capabilities": {"general": {"positionEncodings": []}}}, id="no encoding"),
        pytest.param(sync(willSave=True), id="will save"),
        pytest.param(sync(willSaveWaitUntil=False, willSave=None), id="will not save"),
        pytest.param({"capabilities": NOTEBOOKS}, id="notebooks"),
        pytest.param({"capabilities": {}, "rootPath": "/a b/ü", "initializationOptions": {"enable": 5}}, id="a path"),
        pytest.param({**initialize_params("nvim"), "initializationOptions": FALLBACK}, id="a fallback not needed"),
        pytest.param(without_ghost_text(enable=True), id="a fallback not asked for"),
    ],
)
def test_it_is_the_server_s_answer(params):
    frame = initialize_frame(params)
    assert [answer_to(frame)] == server_answers(frame)


STRANGE = [None, True, 0, -1.5, "x", "//x", "http://[", "\ud800", [], [5], ["x", "utf-8"], {}]
STRANGE += [{"synchronization": {}}, {"synchronization": None}, {"synchronization": {"willSave": {}}}]
STRANGE += [{"name": "x"}, [{"uri": "file:///x", "name": "y"}], FALLBACK, {"features.completion_fallback": True}]


def test_it_is_the_server_s_answer_for_strange_clients_too():
    seed = random.randrange(1 << 30)
    pick = random.Random(seed).choice
    num_greeted = 0
    for _ in range(100):
        params = pick([initialize_params("nvim"), initialize_params("vscode"), {"capabilities": {}}])
        can = params["capabilities"]
        for _ in range(pick([1, 1, 2])):
            places = [
                (can, ["general", "textDocument", "notebookDocument", "workspace", "x"]),
                (can.get("textDocument"), ["synchronization", "inlineCompletion", "completion"]),
                (can.get("general"), ["positionEncodings", "markdown"]),
                (params, ["processId", "clientInfo", "rootUri", "rootPath", "workspaceFolders"]),
                (params, ["initializationOptions", "trace", "locale", "workDoneToken", "x"]),
            ]
            group, names = pick([place for place in places if isinstance(place[0], dict)])
            group[pick(names)] = copy.deepcopy(pick(STRANGE))
        frame = initialize_frame(params)
        if (answer := answer_to(frame)) is not None:
            num_greeted += 1
            assert [answer] == server_answers(frame), (seed, params)
    assert num_greeted


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"not json", id="not JSON"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"[]", id="a batch"),
        pytest.param(initialize_frame({"capabilities": {}}, jsonrpc="1.0"), id="another version"),
        pytest.param(initialize_frame({"capabilities": {}}, method="shutdown"), id="another method"),
        pytest.param(initialize_frame({"capabilities": {}}, id=None), id="a notification"),
        pytest.param(initialize_frame({"capabilities": {}}, id=True), id="an id that is none"),
        pytest.param(initialize_frame({"capabilities": {}}, error={}), id="more than a request"),
        pytest.param(initialize_frame([]), id="a list"),
        pytest.param(initialize_frame({}), id="no capabilities"),
        pytest.param(initialize_frame({"capabilities": {}, "processId": "x"}), id="a process that is none"),
        pytest.param(initialize_frame({"capabilities": {}, "rootUri": "http://["}), id="a root that is none"),
        pytest.param(initialize_frame({"capabilities": {}, "rootPath": "//x"}), id="a path that is none"),
        pytest.param(initialize_frame({"capabilities": {"notebookDocument": {}}}), id="half a capability"),
        pytest.param(initialize_frame(without_ghost_text(**FALLBACK)), id="a capability more"),
        pytest.param(initialize_frame(without_ghost_text(features={"completion_fallback": True})), id="in Lua's words"),
    ],
)
def test_what_is_left_to_the_server(frame):
    assert answer_to(frame) is None


def test_a_difference_is_logged_and_nothing_is_sent_twice(caplog):
    caplog.set_level(logging.INFO)
    frame = initialize_frame({"capabilities": {}})
    answer = answer_to(frame)
    assert server_answers(frame, answer) == []
    assert GREETED in caplog.text
    assert "otherwise" not in caplog.text
    assert server_answers(frame, {**answer, "result": {"capabilities": {}}}) == []
    assert "answered otherwise" in caplog.text


def test_nothing_that_takes_time_is_imported_before_it():
    code = (
        "import sys, lacuna_ls.lsp.cli, lacuna_ls.lsp.serve\n"
        "print({'lsprotocol', 'pygls', 'attrs', 'asyncio', 'importlib.metadata', 'msgpack'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# over real stdio


def framed(*messages):
    bodies = [json.dumps({"jsonrpc": "2.0", **each}).encode() for each in messages]
    return b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies)


def talk(data, command=FAKE_SERVER, **env):
    """Send data, and then the end. The exit code, all messages of the server, its log."""
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60, env={**os.environ, **env})
    messages = []
    rest = done.stdout
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        length = int(head.split(b"\r\n")[0].split(b":")[1])
        messages.append(json.loads(rest[:length]))
        rest = rest[length:]
    return done.returncode, messages, done.stderr.decode()


def hello(client="nvim", msg_id=1):
    return {"id": msg_id, "method": "initialize", "params": initialize_params(client)}


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_documents_that_are_opened_right_after_it(client):
    server = Client(FAKE_SERVER)
    try:
        server.initialize(initialize_params(client))
        server.open(URI, "x = \n")
        assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
        assert any(GREETED in line for line in server.stderr)
        with pytest.raises(ResponseError, match="-32600"):
            server.request("initialize", initialize_params(client))
    finally:
        assert server.close() == 0


@pytest.mark.parametrize("msg_id", [0, 7, "seven"])
def test_one_answer_and_the_end(msg_id):
    code, messages, log = talk(framed(hello(msg_id=msg_id), {"id": 8, "method": "shutdown"}, {"method": "exit"}))
    assert [each["id"] for each in messages] == [msg_id, 8]
    assert messages[0]["result"]["serverInfo"]["name"] == "lacuna"
    assert GREETED in log
    assert code == 0


@pytest.mark.parametrize(
    ("data", "num_answers"),
    [(b"", 0), (framed(hello())[:-1], 0), (framed(hello()), 1), (framed(hello(), {"method": "initialized"})[:-1], 1)],
    ids=["nothing", "half a frame", "the greeting alone", "half a frame after it"],
)
def test_a_client_that_leaves(data, num_answers):
    code, messages, log = talk(data)
    assert len(messages) == num_answers
    assert code == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("first", "error"),
    [
        ({"id": 5, "method": "shutdown"}, -32002),
        ({"id": 5, "method": "initialize", "params": {"capabilities": 3}}, -32602),
        ({"id": 1.5, "method": "initialize", "params": {"capabilities": {}}}, -32600),
        ({"id": 5, "method": "initialize"}, -32602),
    ],
    ids=["not initialize", "not capabilities", "not an id", "nothing in it"],
)
def test_another_first_frame_is_the_server_s(first, error):
    end = [{"id": 2, "method": "shutdown"}, {"method": "exit"}]
    code, messages, log = talk(framed(first, hello(), *end))
    assert [each["id"] for each in messages] == [first["id"], 1, 2]
    assert messages[0]["error"]["code"] == error
    assert "result" in messages[1]
    # one is enough: the second frame is the server's whatever it is
    assert GREETED not in log
    assert code == 0


def test_a_recording_has_it_once(tmp_path):
    end = [{"id": 2, "method": "shutdown"}, {"method": "exit"}]
    _, messages, log = talk(framed(hello(), *end), LACUNA_FAKE_RECORD=str(tmp_path / "session"))
    assert GREETED in log
    session = list(read_session(tmp_path / "session"))
    assert [each.is_incoming for each in session] == [True, False, True, False, True]
    assert session[1].message["result"]["capabilities"] == messages[0]["result"]["capabilities"]


def test_a_server_that_cannot_be_imported_ends():
    # while the client says nothing: the reader must not hold up the end
    script = (
        "import sys; sys.modules['lacuna_ls.lsp.server'] = None\n"
        "from lacuna_ls.lsp.serve import serve; serve()"
    )
    server = Client([sys.executable, "-P", "-c", script])
    try:
        assert server.process.wait(30) == 1
        server.wait_for(lambda: any("ModuleNotFoundError" in line for line in server.stderr), what="the reason")
        assert not any("Fatal" in line for line in server.stderr)
    finally:
        server.close()
