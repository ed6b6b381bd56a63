"""lacuna/nextEdit over the wire: the history of edits, the setting, and never the reverse of what was just done."""

from __future__ import annotations

import asyncio
import time

from lacuna_ls.lsp import protocol as names
from lacuna_ls.lsp.server import create_server
from lsprotocol import types

URI = "file:///workspace/a.py"
TEXT = "def old(a):\n    return a\n\n\nx = old(1)\ny = old(2)\n"


def insert(line, character, text, end=None):
    start = {"line": line, "character": character}
    return {"range": {"start": start, "end": {"line": line, "character": end or character}}, "text": text}


def ask(server, method="lacuna/nextEdit", **more):
    return server.request(method, {"textDocument": {"uri": URI, **more}, "position": {"line": 0, "character": 0}})[
        "edits"
    ]


def rename(server, version=2):
    """old -> fresh, key by key, as somebody types it."""
    server.change(URI, version, insert(0, 4, "", 7))
    for number, key in enumerate("fresh"):
        server.change(URI, version + 1 + number, insert(0, 4 + number, key))
    return version + 5


def test_a_rename_typed_key_by_key_is_one_edit(start):
    server = start()
    server.open(URI, TEXT)
    version = rename(server)
    edits = ask(server)
    assert [each["range"]["start"] for each in edits] == [{"line": 4, "character": 4}, {"line": 5, "character": 4}]
    assert {each["text"] for each in edits} == {"fresh"}
    assert all(each["textDocument"] == {"uri": URI, "version": version} for each in edits)
    assert all(0 < each["confidence"] <= 1 for each in edits)


def test_taking_it_back_asks_for_nothing(start):
    server = start()
    server.open(URI, TEXT)
    version = rename(server)
    server.change(URI, version + 1, insert(0, 4, "old", 9))
    assert ask(server) == []


def test_accepting_them_leaves_nothing(start):
    server = start()
    server.open(URI, TEXT)
    version = rename(server)
    changes = [{"range": each["range"], "text": each["text"]} for each in reversed(ask(server))]
    server.change(URI, version + 1, *changes)
    # the last edit is a use now, and no place is left
    assert ask(server) == []


def test_another_version_or_document_or_no_edit(start):
    server = start()
    server.open(URI, TEXT)
    assert ask(server) == []
    version = rename(server)
    assert ask(server, version=version - 1) == []
    assert len(ask(server, version=version)) == 2
    server.change(URI, version + 1, {"text": TEXT})
    assert ask(server) == []
    params = {"textDocument": {"uri": "file:///no/such.py"}}
    assert server.request("lacuna/nextEdit", params)["edits"] == []


def test_automatic_clients_need_the_setting(start):
    server = start()
    server.open(URI, TEXT)
    rename(server)
    assert ask(server, "textDocument/copilotInlineEdit") == []
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"features": {"nextEdit": True}}}})
    assert len(ask(server, "textDocument/copilotInlineEdit")) == 2


def test_a_changed_signature_is_renoised_jointly(start, journal):
    server = start()
    server.open(URI, TEXT)
    server.change(URI, 2, insert(0, 9, ", b"))
    edits = ask(server)
    assert [each["text"] for each in edits] == ["filled_0", "filled_1"]
    (asked,) = [each for each in journal() if each["what"] == "fill_gaps"]
    assert asked["jointly"] is True
    assert edits[0]["range"] == {"start": {"line": 4, "character": 8}, "end": {"line": 4, "character": 9}}


def test_an_answer_to_a_key_is_not_held_up(start, journal):
    server = start()
    other = "file:///workspace/b.py"
    server.open(URI, TEXT + "# SLEEP20000\n")
    server.open(other, "y = \n")
    server.change(URI, 2, insert(0, 9, ", b"))
    waiting = server.start("lacuna/nextEdit", {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 0}})
    server.wait_for(lambda: [each for each in journal() if each["what"] == "fill_gaps"], what="the engine at work")
    begun = time.monotonic()
    assert server.inline(other, 0, 4)[0]["insertText"] == "filled"
    assert server.wait(waiting)["edits"] == []
    assert time.monotonic() - begun < 4


def test_a_failure_is_logged_and_nothing_is_proposed(caplog):
    server = create_server(lambda options, roots, progress: NotImplemented)
    server.documents.open(types.TextDocumentItem(URI, "python", 1, TEXT))
    server.privacy.may_propose = lambda document, options: 1 / 0
    params = names.NextEditParams(names.VersionedDocument(URI))
    assert asyncio.run(server.next_edits.answer(params, is_automatic=False)).edits == []
    assert "A next edit failed." in caplog.text
