"""The server that editors start, with the embedded model: real ghost text over real stdio."""

from __future__ import annotations

import os
import time

import psutil
import pytest
from fake_vllm import Behaviour, FakeVllm
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.load_remote import PROBE
from lsp_client import Client, initialize_params, lacuna

pytestmark = pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")

URI = "file:///workspace/a.py"
TEXT = """import os


def exists(path):
    return os.path.


def add(first, second):
    return first +


def count(items):
    total = 0
    for item in items:
        total +=
    return total
"""


@pytest.fixture
def server(tmp_path):
    # one thread: contended OpenMP threads cost ten times, and machines that test are shared
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    made = Client([lacuna(), "serve", "--log-level", "info"], env=env)
    yield made
    assert made.close() == 0


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_ghost_text(server, client):
    server.initialize(initialize_params(client), {"proposal": {"deadlineMs": 30000}})
    server.open(URI, TEXT)
    server.wait_ready(120)
    lines = TEXT.split("\n")
    answers = {}
    for line in (4, 8, 14):
        answers[line] = server.inline(URI, line, len(lines[line]), kind=1)
    assert all(answer is not None for answer in answers.values())
    filled = [answer[0]["insertText"] for answer in answers.values() if answer]
    # a small model may decline, but not everywhere
    assert filled
    assert all(text.strip() for text in filled)
    # asked again: the same answer, from memory
    for line, answer in answers.items():
        if answer:
            begun = time.monotonic()
            again = server.inline(URI, line, len(lines[line]), kind=1)
            assert again[0]["insertText"] == answer[0]["insertText"]
            assert time.monotonic() - begun < 2
    assert server.request("lacuna/status")["model"]
    assert not server.messages()


def test_code_actions_with_the_model(server):
    server.initialize(initialize_params("vscode"))
    text = "def add(first, second):\n    pass\n\n\nprint(add(1, 2))\n"
    server.open(URI, text)
    server.wait_ready(120)
    at = {"line": 1, "character": 4}
    context = {"diagnostics": [], "only": ["refactor"]}
    params = {"textDocument": {"uri": URI}, "range": {"start": at, "end": at}, "context": context}
    (action,) = server.request("textDocument/codeAction", params)
    resolved = server.request("codeAction/resolve", action, timeout_s=120)
    # an edit, or a refusal in words: never silence
    assert ("edit" in resolved) != bool(server.messages())


def test_unloading_gives_the_memory_back_until_the_next_request(server):
    server.initialize(initialize_params("nvim"), {"proposal": {"deadlineMs": 30000, "minConfidence": 0.0}})
    server.open(URI, TEXT)
    server.wait_ready(120)
    assert server.inline(URI, 8, len("    return first +"), kind=1) is not None
    process = psutil.Process(server.process.pid)
    loaded_bytes = process.memory_info().rss
    server.request("lacuna/unload")
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "inactive", what="the unloading")
    assert "next request" in server.request("lacuna/status")["message"]
    # the weights are 16 MiB; what torch itself takes stays
    assert loaded_bytes - process.memory_info().rss > 16 << 20
    server.change(URI, 2, {"text": TEXT.replace("first +", "second +")})
    assert server.inline(URI, 8, len("    return second +"), kind=1) is not None
    assert server.request("lacuna/status")["kind"] == "normal"


BODY = """def area(width, height):
    result = width * height
    print(result)
    return result


def load(path):
    with open(path) as file:
        data = file.read()
    names = data.split()
    names.append(path)
    return names
"""


def test_every_line_that_is_rewritten_gets_an_edit_or_words(server):
    server.initialize(initialize_params("vscode"))
    server.open(URI, BODY)
    server.wait_ready(120)
    num_edits = 0
    lines = BODY.split("\n")
    for row in (1, 2, 3, 8, 10, 11) * 2:
        span = {"start": {"line": row, "character": 0}, "end": {"line": row, "character": len(lines[row])}}
        context = {"diagnostics": [], "only": ["refactor.rewrite.lacuna.rewrite"]}
        params = {"textDocument": {"uri": URI}, "range": span, "context": context}
        (action,) = server.request("textDocument/codeAction", params)
        num_told = len(server.messages())
        asked = {"action": action, "instruction": "shorter"}
        preview = server.request("lacuna/previewEdit", asked, timeout_s=120)
        assert (preview is None) == (len(server.messages()) == num_told + 1)
        if preview is None:
            continue
        num_edits += 1
        (edit,) = preview["edit"]["documentChanges"][0]["edits"]
        # one line stays one, and what stands around the selection stays
        assert edit["range"]["start"]["line"] == edit["range"]["end"]["line"] == row
        after = [*lines]
        after[row] = lines[row][: edit["range"]["start"]["character"]] + edit["newText"]
        compile("\n".join(after), "a.py", "exec")
        assert after[row] != lines[row]
    # 7 of 10 lines of this file with the model of this tree
    assert num_edits >= 4


def test_a_remote_engine(server, tmp_path):
    # a vLLM server that serves a model with our tokenizer; here a small faithful one on loopback
    tokenizer = load_tokenizer(EMBEDDED)
    behaviour = Behaviour(knows_canvases=False, text_tokens=tokenizer.encode(PROBE))
    behaviour.tokens = [*tokenizer.encode("second"), tokenizer.eos]
    with FakeVllm(behaviour) as vllm:
        server.initialize(initialize_params("nvim"), {"engine": {"kind": vllm.url}, "proposal": {"deadlineMs": 20000}})
        server.open(URI, TEXT.replace("first +", "first + "))
        server.wait_ready(60)
        (item,) = server.inline(URI, 8, len("    return first + "), kind=1)
        assert item["insertText"] == "second"
        assert server.request("lacuna/status")["model"] == "served-model"
        # it breaks: proposals stop, the status says why, and no toast is shown
        behaviour.statuses = [500] * 100
        for number in range(3):
            server.change(URI, 2 + number, {"text": f"value_{number} = "})
            assert server.inline(URI, 0, len(f"value_{number} = "), kind=1) == []
        server.wait_for(lambda: server.statuses()[-1]["kind"] == "warning", what="the warning")
        assert "HTTP 500" in server.statuses()[-1]["message"]
        assert not server.messages()


def test_a_remote_engine_that_is_asked_by_text(server):
    # an instruct model whose tokenizer is not on this machine
    behaviour = Behaviour(text_tokens=[1, 2, 3], text="```python\n    return first + second\n```")
    with FakeVllm(behaviour) as vllm:
        server.initialize(initialize_params("nvim"), {"engine": {"kind": vllm.url}, "proposal": {"deadlineMs": 20000}})
        server.open(URI, TEXT.replace("first +", "first + "))
        server.wait_ready(60)
        (item,) = server.inline(URI, 8, len("    return first + "), kind=1)
        assert item["insertText"] == "second"
        assert "by text" in server.request("lacuna/status")["message"]
        assert not server.messages()


def test_a_remote_engine_with_another_tokenizer_is_refused(server):
    with FakeVllm(Behaviour(text_tokens=[1, 2, 3])) as vllm:
        server.initialize(initialize_params("nvim"), {"engine": {"kind": vllm.url, "model": str(EMBEDDED)}})
        server.wait_for(server.messages, 120, "the refusal")
        assert "another tokenizer" in server.messages()[0]


def test_a_folder_that_is_too_deep_for_a_socket_costs_the_sharing_only(tmp_path):
    deep = tmp_path / ("d" * 100)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(deep), "XDG_STATE_HOME": str(tmp_path)}
    made = Client([lacuna(), "serve", "--log-level", "warning"], env=env)
    try:
        made.initialize(initialize_params("nvim"))
        made.open(URI, TEXT)
        made.wait_ready(120)
        assert made.request("lacuna/status")["kind"] == "normal"
        assert any("The model is not shared" in line for line in made.stderr)
        assert not made.messages()
    finally:
        assert made.close() == 0


def test_two_windows_share_one_model(server, tmp_path):
    params = initialize_params("nvim")
    server.initialize(params)
    server.wait_ready(120)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    second = Client([lacuna(), "serve", "--log-level", "info"], env=env)
    try:
        second.initialize(params)
        second.wait_ready(60)
        assert f"hosted by process {server.process.pid}" in second.request("lacuna/status")["message"]
        second.open(URI, TEXT)
        assert second.inline(URI, 4, 19, kind=1) is not None
        follower_bytes = psutil.Process(second.process.pid).memory_info().rss
        # the host holds torch and the model; a window that attaches needs neither
        assert follower_bytes < 250 << 20
    finally:
        assert second.close() == 0
