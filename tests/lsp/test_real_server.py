"""The server that editors start, with the embedded model: real ghost text over real stdio."""

from __future__ import annotations

import os
import time

import pytest
from lacuna_ls.engine.modelfile import EMBEDDED
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
