"""Requests that no editor would send: each is answered, none with an internal error, and the server goes on."""

from __future__ import annotations

import random

import pytest
from lsp_client import ResponseError

URI = "file:///workspace/a.py"
TEXT = "def f(x):\n    pass\n\n\ndef g():\n    \U0001f600 = ...\n\ty = = 2\r\n"

BAD = [None, {}, [], 5, "x", {"textDocument": None}, {"textDocument": {"uri": 5}}, {"action": 3}, {"command": []}]
METHODS = [
    "textDocument/inlineCompletion",
    "textDocument/codeAction",
    "codeAction/resolve",
    "lacuna/previewEdit",
    "lacuna/nextEdit",
    "textDocument/copilotInlineEdit",
    "workspace/executeCommand",
    "lacuna/status",
    "lacuna/metrics",
]


class Strange:
    """Parameters of the right shape, with values that make little sense."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed).choice

    def position(self):
        numbers = [0, 1, 3, 4, 6, 7, 99, 2**31 - 1]
        return {"line": self.pick(numbers), "character": self.pick(numbers)}

    def span(self):
        return {"start": self.position(), "end": self.position()}

    def document(self):
        return {"uri": self.pick([URI, URI, URI, "", "x", "file:///none.py"]), "version": self.pick([1, None, -5])}

    def plan(self):
        places = [0, 5, 20, 10**9, True, None, -1]
        kind = self.pick(["fillHole", "fillAll", "rewrite", "repair", "x", None])
        start, end = self.pick(places), self.pick(places)
        return {"kind": kind, "uri": self.pick([URI, URI, "x"]), "revision": 0, "start": start, "end": end}

    def params(self, method):
        where = {"textDocument": self.document(), "position": self.position()}
        if method == "textDocument/inlineCompletion":
            selected = {"range": self.span(), "text": self.pick(["", "ab", "\n"])}
            return {**where, "context": {"triggerKind": self.pick([1, 2]), "selectedCompletionInfo": selected}}
        if method == "textDocument/codeAction":
            only = self.pick([[], ["refactor"], [""], ["quickfix"]])
            return {**where, "range": self.span(), "context": {"diagnostics": [], "only": only}}
        if method == "codeAction/resolve":
            return {"title": "x", "data": self.plan()}
        if method == "lacuna/previewEdit":
            instruction = self.pick([None, "", "\n", "x" * 5000])
            return {"action": {"title": "x", "data": self.plan()}, "instruction": instruction}
        if method == "workspace/executeCommand":
            command = self.pick(["lacuna.accept", "lacuna.applyEdit"])
            return {"command": command, "arguments": self.pick([None, [], [5], [self.plan()], ["x", {}, 3]])}
        return where


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_everything_is_answered_and_nothing_breaks(start, client):
    seed = random.randrange(1 << 30)
    server, strange = start(client), Strange(seed)
    server.open(URI, TEXT)
    for number in range(300):
        method = strange.pick(METHODS)
        params = strange.pick(BAD) if number % 6 == 0 else strange.params(method)
        code = 0
        try:
            server.request(method, params)
        except ResponseError as error:
            code = error.code
        # invalid params, for what cannot be read at all: an editor has never sent it for a key
        assert code in (0, -32602), (seed, method, params)
    assert not [line for line in server.stderr if "Traceback" in line], seed
    server.open("file:///workspace/b.py", "x = \n")
    assert server.inline("file:///workspace/b.py", 0, 4)[0]["insertText"] == "filled"


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_a_key_is_never_answered_with_an_error(start, client):
    # whatever the place and the state, also for documents that the server does not know
    seed = random.randrange(1 << 30)
    server, strange = start(client), Strange(seed)
    server.open(URI, TEXT)
    for _ in range(100):
        for method in ("textDocument/inlineCompletion", "textDocument/codeAction"):
            assert isinstance(server.request(method, strange.params(method)), list | None), seed
    assert not server.messages()


@pytest.mark.parametrize("context", [{}, {"context": None}, {"context": {}}], ids=["none", "null", "empty"])
def test_a_request_without_a_context_is_answered(start, context):
    server = start()
    server.open(URI, "x = \n")
    where = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 4}}
    assert server.request("textDocument/inlineCompletion", {**where, **context})[0]["insertText"] == "filled"


def test_null_in_a_change_stands_for_what_is_absent(start):
    server = start()
    server.open(URI, "x = \n")
    server.notify(
        "textDocument/didChange",
        {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [{"range": None, "text": "\nlonger = \n"}]},
    )
    assert server.inline(URI, 1, 9)[0]["insertText"] == "filled"


def test_nothing_is_proposed_in_a_text_that_was_lost(start):
    server = start()
    server.open(URI, "x = \n")
    server.notify(
        "textDocument/didChange",
        {"textDocument": {"uri": URI, "version": 2}, "contentChanges": 3},
    )
    assert server.inline(URI, 0, 4) == []
    assert any("is closed until the client opens it again" in line for line in server.stderr)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
