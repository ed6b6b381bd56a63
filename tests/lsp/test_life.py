"""Starting, failing, recovering and ending: what a client sees of the life of a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lsp_client import FAKE_SERVER, Client, ResponseError, initialize_params, lacuna

URI = "file:///workspace/a.py"


def test_importing_the_server_loads_nothing_heavy():
    code = (
        "import sys, lacuna_ls.lsp.server, lacuna_ls.lsp.serve, lacuna_ls.lsp.loading, lacuna_ls.lsp.cli\n"
        "print([m for m in ('torch', 'transformers', 'triton', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_initialize_is_answered_before_anything_is_loaded(client):
    # the console script that editors start; a fresh process each time
    begun = time.monotonic()
    server = Client([lacuna(), "serve"])
    try:
        answer = server.request("initialize", initialize_params(client))
        elapsed_s = time.monotonic() - begun
        assert answer["serverInfo"]["name"] == "lacuna"
        assert answer["capabilities"]["positionEncoding"] == {"nvim": "utf-8", "vscode": "utf-16"}[client]
        assert answer["capabilities"]["textDocumentSync"]["change"] == 2
        # measured 0.1 s from the start of the process on a quiet core; this machine is shared
        assert elapsed_s < 5
        assert not server.statuses()
    finally:
        assert server.close() == 0


def test_exit_without_shutdown_is_1(start):
    server = start()
    server.notify("exit")
    assert server.process.wait(10) == 1


def test_a_client_that_dies_takes_the_server_with_it(start):
    server = start()
    server.open(URI, "SLEEP60000 \n")
    server.start_inline(URI, 0, 11)
    server.process.stdin.close()
    assert server.process.wait(10) == 1


def test_requests_before_initialize_and_after_shutdown_are_answered():
    server = Client(FAKE_SERVER)
    try:
        with pytest.raises(ResponseError, match="-32002"):
            server.inline(URI, 0, 0)
        server.notify("textDocument/didOpen", {"textDocument": {}})
        server.initialize(initialize_params("nvim"))
        with pytest.raises(ResponseError, match="-32600"):
            server.request("initialize", initialize_params("nvim"))
        assert server.request("shutdown") is None
        with pytest.raises(ResponseError, match="-32600"):
            server.inline(URI, 0, 0)
        server.notify("exit")
        assert server.process.wait(10) == 0
    finally:
        server.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"Content-Length: 9\r\n\r\nnot json!", -32700),
        (b"Content-Length: 2\r\n\r\n[]", -32600),
        (b'Content-Length: 17\r\n\r\n{"jsonrpc":"1.0"}', -32600),
        (b"garbage\r\ncontent-length:   4\r\nX-Other: 1\r\n\r\nnull", -32600),
    ],
    ids=["not JSON", "a batch", "another version", "odd headers"],
)
def test_frames_that_make_no_sense(start, data, code):
    server = start()
    server.send_bytes(data)
    with pytest.raises(ResponseError, match=str(code)):
        server.wait(None)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"


@pytest.mark.parametrize(
    "message",
    [
        {"method": "textDocument/didChange", "params": {"nonsense": 1}},
        {"method": "lacuna/didShow", "params": None},
        {"method": "lacuna/didPartiallyAccept", "params": {"acceptedLength": "x"}},
        {"method": "$/unknown", "params": {}},
        {"method": "no/such/notification"},
        {"method": "textDocument/didClose", "params": {"textDocument": {"uri": "file:///never/opened.py"}}},
        {"method": "$/cancelRequest", "params": {"id": 4711}},
        {"method": "$/cancelRequest", "params": None},
        {"id": "unasked", "result": 5},
        {"id": 99999, "error": {"code": 1, "message": "x"}},
    ],
    ids=lambda message: message.get("method", "response"),
)
def test_messages_that_make_no_sense_change_nothing(start, message):
    server = start()
    server.open(URI, "x = \n")
    server.send(message)
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    assert not server.messages()


def test_a_client_that_answers_its_own_request_gets_the_servers_answer(start):
    server = start()
    server.open(URI, "SLEEP300 \n")
    request = server.start_inline(URI, 0, 9)
    server.send({"id": request, "result": 5})
    server.send({"id": request, "error": {"code": 1, "message": "x"}})
    assert server.wait(request)[0]["insertText"] == "filled"


def test_unknown_methods_and_commands_are_answered(start):
    server = start()
    with pytest.raises(ResponseError, match="-32601"):
        server.request("no/such/method", {})
    with pytest.raises(ResponseError, match="-32601"):
        server.request("no/such/method")
    with pytest.raises(ResponseError, match="-32602"):
        server.request("workspace/executeCommand", {"command": "rm -rf"})
    assert server.request("workspace/executeCommand", {"command": "lacuna.accept"}) is None
    assert server.request("workspace/executeCommand", {"command": "lacuna.accept", "arguments": [1, {}, "x"]}) is None


def test_capabilities_that_nobody_knows_do_not_keep_a_client_out():
    params = initialize_params("vscode")
    params["capabilities"]["textDocument"]["completion"] = {"completionItem": "yes"}
    params["capabilities"]["general"]["positionEncodings"] = ["utf-8", "utf-16"]
    params["capabilities"]["workspace"]["configuration"] = "perhaps"
    server = Client(FAKE_SERVER)
    try:
        answer = server.initialize(params)
        assert answer["capabilities"]["positionEncoding"] == "utf-8"
        server.open(URI, "x = \n")
        server.wait_ready()
        assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    finally:
        assert server.close() == 0


def test_loading_shows_progress_and_requests_wait_for_it(start):
    server = start(fake={"load_ms": 600}, is_ready=False)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    progress = [params["value"] for method, params, _ in server.notifications if method == "$/progress"]
    assert progress[0]["title"] == "Lacuna"
    server.wait_for(lambda: any(m == "$/progress" and p["value"]["kind"] == "end" for m, p, _ in server.notifications))
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "normal")
    assert server.statuses()[0]["kind"] == "busy"
    assert ("window/workDoneProgress/create", {"token": "lacuna/load"}) in server.requests


def test_each_load_shows_how_far_it_is(start):
    server = start(fake={"lazy": True}, options={"engine": {"model": "m"}}, is_ready=False)
    server.open(URI, "x = \n")

    def shown():
        return [(p["token"], p["value"]) for method, p, _ in server.notifications if method == "$/progress"]

    server.wait_for(lambda: any(each["kind"] == "inactive" for each in server.statuses()), what="no model yet")
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    server.wait_for(lambda: [value["kind"] for _, value in shown()].count("end") == 2, what="the end of the load")
    values = [value for token, value in shown() if token == "lacuna/load/2"]
    assert [value["kind"] for value in values] == ["begin", "report", "report", "report", "end"]
    assert [value.get("percentage") for value in values] == [0, 33, 66, 100, None]


def test_loading_longer_than_the_deadline_is_nothing_for_now(start):
    server = start(fake={"load_ms": 900}, options={"proposal": {"deadlineMs": 100}}, is_ready=False)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4) == []
    server.wait_ready()
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"


def test_a_model_that_cannot_be_loaded_is_said_once(start):
    server = start(fake={"load_error": "There is no model. Name one."}, is_ready=False)
    server.open(URI, "x = \n")
    server.wait_for(lambda: any(each["kind"] == "error" for each in server.statuses()), what="the error")
    for _ in range(3):
        assert server.inline(URI, 0, 4) == []
    assert server.messages() == ["There is no model. Name one."]
    assert server.request("lacuna/status")["message"] == "There is no model. Name one."


def test_a_crash_is_said_once_and_the_engine_restarts(start, journal):
    server = start()
    server.open(URI, "CRASH\nx\n")
    assert server.inline(URI, 0, 5) == []
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "warning", what="the warning")
    # while it is down: nothing, at once
    assert server.inline(URI, 1, 1) == []
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "normal", what="the restart")
    assert server.inline(URI, 1, 1)[0]["insertText"] == "filled"
    assert server.inline(URI, 0, 5) == []
    server.wait_for(lambda: sum(each["what"] == "load" for each in journal()) == 3, what="the second restart")
    assert len(server.messages()) == 1
    assert "RuntimeError" in server.messages()[0]


def test_an_engine_that_always_crashes_while_loading_backs_off(start, journal):
    server = start(fake={"load_crash": "boom"}, is_ready=False)
    server.wait_for(lambda: any(each["kind"] == "warning" for each in server.statuses()))
    time.sleep(1.5)
    # 1 s, then 2 s: no storm of restarts
    assert sum("The engine crashed" in line for line in server.stderr) <= 2
    assert len(server.messages()) == 1


def test_pause_resume_and_unload(start, journal):
    server = start()
    server.open(URI, "x = \n")
    assert server.request("lacuna/pause")["isPaused"] is True
    assert server.inline(URI, 0, 4, kind=1) == []
    assert server.statuses()[-1]["kind"] == "inactive"
    assert server.request("lacuna/resume", {}).get("isPaused", False) is False
    assert server.inline(URI, 0, 4) != []
    server.request("lacuna/unload", None)
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "inactive", what="the unloading")
    assert journal()[-1]["what"] == "unload"
    # the next request brings it back
    server.change(URI, 2, {"text": "y = \n"})
    assert server.inline(URI, 0, 4) != []
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "normal", what="the loading")
    # so does resume
    server.request("lacuna/unload", None)
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "inactive", what="the unloading")
    server.request("lacuna/resume")
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "normal", what="the loading")
    orders = [each["what"] for each in journal() if "load" in each["what"]]
    assert orders == ["load", "load", "unload", "load", "unload", "load"]


def test_stdin_and_stdout_are_the_wire_alone(tmp_path):
    # a library that prints or reads, also from C or in a child, must not break the protocol
    script = tmp_path / "noisy.py"
    support = Path(FAKE_SERVER[-1]).parent
    script.write_text(
        f"import os, subprocess, sys\nsys.path.insert(0, {str(support)!r})\nimport fake_infiller\n"
        "from lacuna_ls.lsp.serve import serve\n"
        "def load(options, roots, progress):\n"
        "    print('printed'); os.write(1, b'written to descriptor 1\\n'); os.system('echo from a child')\n"
        "    assert not sys.stdin.read() and not os.read(0, 9)\n"
        "    assert not subprocess.run('cat', capture_output=True).stdout\n"
        "    return fake_infiller.load(options)\n"
        "serve(level='info', load_infiller=load)\n"
    )
    server = Client([sys.executable, "-P", str(script)])
    try:
        server.initialize(initialize_params("nvim"))
        server.wait_ready()
        server.open(URI, "x = \n")
        assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
        assert not server.unparsed
        assert any("descriptor 1" in line for line in server.stderr)
    finally:
        assert server.close() == 0


def test_a_workspace_cannot_shadow_the_library(tmp_path):
    # `python -m` would put the user's folder first on sys.path, and run this
    (tmp_path / "json.py").write_text("raise SystemExit('the workspace was imported')\n")
    command = [lacuna(), "options", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["enable"] is True


def test_a_reader_that_stalls_does_not_block_the_server():
    # half a megabyte of answers fits in no pipe; a server that waits for its reader stops reading, and both hang
    process = subprocess.Popen(FAKE_SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    messages = [{"id": 0, "method": "initialize", "params": initialize_params("nvim")}]
    messages += [{"id": number, "method": "lacuna/pause"} for number in range(1, 4000)]
    messages += [{"id": 4000, "method": "shutdown"}, {"method": "exit"}]
    for message in messages:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    process.stdin.flush()
    time.sleep(0.2)
    out = process.stdout.read()
    assert process.wait(10) == 0
    assert out.count(b'"id": 4000') == 1
    assert out.count(b'"result"') == 4001
    process.stdin.close()
    process.stdout.close()


@pytest.mark.skipif(not hasattr(signal, "SIGTSTP"), reason="this system stops no process")
def test_ctrl_z_does_not_stop_the_server(start):
    # other windows may share its model
    server = start()
    server.process.send_signal(signal.SIGTSTP)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4) != []
