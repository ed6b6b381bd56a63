"""Clients of other kinds: without inline completion, with notebooks, with several folders."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from lacuna_ls.lsp.completion import TYPED_S
from lacuna_ls.lsp.options import Options
from lacuna_ls.lsp.server import create_server
from lsp_client import ResponseError, initialize_params
from lsprotocol import types

URI = "file:///workspace/a.py"
BOOK = "file:///workspace/book.ipynb"


def without_ghost_text():
    params = initialize_params("nvim")
    del params["capabilities"]["textDocument"]["inlineCompletion"]
    return params


def test_completion_is_offered_to_those_who_ask_and_need_it(start):
    server = start(without_ghost_text(), options={"features": {"completionFallback": True}})
    assert "completionProvider" in server.server["capabilities"]
    server.open(URI, "x = val\n")
    position = {"line": 0, "character": 7}
    answer = server.request("textDocument/completion", {"textDocument": {"uri": URI}, "position": position})
    (item,) = answer["items"]
    assert answer["isIncomplete"] is True
    assert item["labelDetails"]["description"] == "Lacuna"
    start_of_word = {"line": 0, "character": 4}
    assert item["textEdit"] == {"range": {"start": start_of_word, "end": position}, "newText": "valfilled"}
    assert item["filterText"].startswith("val")
    assert server.request("workspace/executeCommand", item["command"]) is None


@pytest.mark.parametrize(
    ("client", "options"),
    [(without_ghost_text(), None), (initialize_params("nvim"), {"features": {"completionFallback": True}})],
    ids=["not asked for", "the client has ghost text"],
)
def test_completion_is_not_offered_otherwise(start, client, options):
    server = start(client, options=options)
    assert "completionProvider" not in server.server["capabilities"]
    with pytest.raises(ResponseError, match="-32601"):
        server.request("textDocument/completion", {})


FALLBACK = {"features": {"completionFallback": True}}


def with_dynamic_completion(is_dynamic):
    params = without_ghost_text()
    params["capabilities"]["textDocument"]["completion"]["dynamicRegistration"] = is_dynamic
    params["capabilities"]["workspace"]["configuration"] = True
    return params


def test_completion_that_is_asked_for_later_is_registered(start):
    server = start(with_dynamic_completion(True), settings=FALLBACK)

    def registered():
        given = [each for method, params in server.requests for each in registrations(method, params)]
        return [each for each in given if each["method"] == "textDocument/completion"]

    def registrations(method, params):
        return params["registrations"] if method == "client/registerCapability" else []

    (found,) = server.wait_for(registered, what="the registration")
    assert "(" in found["registerOptions"]["triggerCharacters"]
    server.open(URI, "x = val\n")
    params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 7}}
    assert len(server.request("textDocument/completion", params)["items"]) == 1
    # once; and switched off again it is quiet
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": FALLBACK}})
    assert len(server.request("textDocument/completion", params)["items"]) == 1
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"enable": True}}})
    assert server.request("textDocument/completion", params)["items"] == []
    assert len(registered()) == 1
    assert not server.messages()


def test_completion_that_cannot_be_offered_later_is_told_once(start):
    server = start(with_dynamic_completion(False), settings=FALLBACK)
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": FALLBACK}})
    server.request("lacuna/status")
    (message,) = server.messages()
    assert "initialization options" in message


def empty_range(line, character):
    position = {"line": line, "character": character}
    return {"start": position, "end": position}


EDITORS = ["eglot", "lsp-mode", "helix", "ale"]


@pytest.mark.parametrize("editor", EDITORS)
def test_editors_with_ordinary_completion_get_the_lines_as_they_are(start, editor):
    server = start(editor, options=FALLBACK)
    server.open(URI, "def f():\n    # BLOCK\n")
    context = {} if editor == "ale" else {"context": {"triggerKind": 1}}
    request = {"textDocument": {"uri": URI}, "position": {"line": 1, "character": 11}, **context}
    (item,) = server.request("textDocument/completion", request)["items"]
    lines = "BLOCKif x:\n        y\n\n    z"
    assert item["textEdit"]["newText"] == item["filterText"] == lines
    assert item["textEdit"]["range"]["start"]["character"] == 6
    # lsp-mode would indent each line by guess; Helix takes what is of the kind of a snippet for one, dollars and all
    assert item["insertTextMode"] == types.InsertTextMode.AsIs
    assert item["insertTextFormat"] == types.InsertTextFormat.PlainText
    assert item["kind"] == types.CompletionItemKind.Text
    assert item["label"] == "BLOCKif x:"
    assert "4 lines" in item["detail"]


def test_a_client_that_can_only_indent_gets_relative_lines(start):
    params = initialize_params("lsp-mode")
    params["capabilities"]["textDocument"]["completion"]["completionItem"]["insertTextModeSupport"] = {"valueSet": [2]}
    server = start(params, options=FALLBACK)
    server.open(URI, "    # BLOCK\n    # BLOCK DEDENT\n")
    request = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 11}}
    (item,) = server.request("textDocument/completion", request)["items"]
    assert item["textEdit"]["newText"] == "BLOCKif x:\n    y\n\nz"
    assert item["insertTextMode"] == types.InsertTextMode.AdjustIndentation
    # to the left of the line's own indentation it can put nothing
    request["position"] = {"line": 1, "character": 18}
    assert server.request("textDocument/completion", request)["items"] == []


@pytest.mark.parametrize(
    ("editor", "context"),
    [
        ("helix", {"context": {"triggerKind": 1}}),
        ("eglot", {"context": {"triggerKind": 1}}),
        ("ale", {}),
        ("lsp-mode", {"context": {"triggerKind": 3}}),
    ],
)
def test_a_list_that_comes_while_typing_keeps_the_floor(start, journal, editor, context):
    # what these editors say of the list that comes by itself, and of a key
    server = start(editor, options=FALLBACK)
    server.open(URI, "GUESS\n")
    server.change(URI, 2, {"range": empty_range(0, 5), "text": " "})
    params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 6}, **context}
    assert server.request("textDocument/completion", params)["items"] == []
    time.sleep(TYPED_S)
    assert len(server.request("textDocument/completion", params)["items"]) == 1
    assert [each["explicit"] for each in journal() if each["what"] == "fill"] == [False, True]


def test_a_list_that_is_not_about_what_is_typed_is_asked_for_by_a_key(start, journal):
    server = start("eglot", options={**FALLBACK, "trigger": {"automatic": False}})
    server.open(URI, "x = 1\nval\n")
    server.change(URI, 2, {"range": empty_range(0, 5), "text": "0"})
    at = {"line": 1, "character": 3}
    params = {"textDocument": {"uri": URI}, "position": at, "context": {"triggerKind": 1}}
    assert len(server.request("textDocument/completion", params)["items"]) == 1
    assert server.request("textDocument/completion", {**params, "position": {"line": 0, "character": 6}})["items"] == []


def test_alternatives_are_items_of_the_list(start):
    server = start("helix", options={**FALLBACK, "proposal": {"alternatives": 3}})
    server.open(URI, "MANY\n")
    params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 4}, "context": {"triggerKind": 1}}
    items = server.request("textDocument/completion", params)["items"]
    assert [each["label"] for each in items] == ["MANYfirst", "MANYsecond", "MANYthird"]
    assert sorted(items, key=lambda each: each["sortText"]) == items


def test_nothing_to_complete_is_an_empty_list(start):
    server = start(without_ghost_text(), options={"features": {"completionFallback": True}})
    server.open(URI, "DECLINE\n")
    params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 7}, "context": {"triggerKind": 1}}
    assert server.request("textDocument/completion", params)["items"] == []


def cell(name):
    return f"vscode-notebook-cell:/workspace/book.ipynb#{name}"


def open_book(server, cells):
    document = {
        "uri": BOOK,
        "notebookType": "jupyter-notebook",
        "version": 1,
        "cells": [{"kind": 1 if language == "markdown" else 2, "document": cell(name)} for name, language, _ in cells],
    }
    texts = [{"uri": cell(name), "languageId": language, "version": 1, "text": text} for name, language, text in cells]
    server.notify("notebookDocument/didOpen", {"notebookDocument": document, "cellTextDocuments": texts})


def test_cells_before_are_prefix_and_cells_after_are_suffix(start, journal):
    server = start("vscode")
    assert server.server["capabilities"]["notebookDocumentSync"]
    open_book(
        server,
        [
            ("1", "python", "import os"),
            ("2", "markdown", "# text"),
            ("3", "python", "x = \n"),
            ("4", "python", "y = 2\n"),
        ],
    )
    (item,) = server.inline(cell("3"), 0, 4)
    assert item["range"]["start"] == {"line": 0, "character": 4}
    asked = journal()[-1]
    assert asked["before"] == "import os\nx = "
    assert asked["after"] == "\n\ny = 2\n"


def test_cells_come_move_and_go(start, journal):
    server = start("vscode")
    open_book(server, [("1", "python", "a = 1\n"), ("2", "python", "b = \n")])
    at = {"line": 0, "character": 5}
    change = {
        "cells": {
            "structure": {
                "array": {"start": 0, "deleteCount": 1, "cells": [{"kind": 2, "document": cell("9")}]},
                "didOpen": [{"uri": cell("9"), "languageId": "python", "version": 1, "text": "nine = 9\n"}],
                "didClose": [{"uri": cell("1")}],
            },
            "textContent": [
                {
                    "document": {"uri": cell("2"), "version": 2},
                    "changes": [{"range": {"start": {"line": 0, "character": 4}, "end": at}, "text": "c"}],
                }
            ],
        }
    }
    server.notify("notebookDocument/didChange", {"notebookDocument": {"uri": BOOK, "version": 2}, "change": change})
    server.inline(cell("2"), 0, 5)
    assert [each for each in journal() if each["what"] == "fill"][-1]["before"] == "nine = 9\nb = c"
    assert server.inline(cell("1"), 0, 0) == []
    documents = [{"uri": cell("2")}, {"uri": cell("9")}]
    server.notify("notebookDocument/didClose", {"notebookDocument": {"uri": BOOK}, "cellTextDocuments": documents})
    assert server.inline(cell("2"), 0, 0) == []


def test_a_cell_that_became_text_is_no_code_any_more(start, journal):
    server = start("vscode")
    open_book(server, [("1", "python", "a = 1\n"), ("2", "python", "b = \n")])
    for version, (kind, before) in enumerate(((1, "b = "), (2, "a = 1\nb = ")), 2):
        change = {"cells": {"data": [{"kind": kind, "document": cell("1")}]}}
        book = {"uri": BOOK, "version": version}
        server.notify("notebookDocument/didChange", {"notebookDocument": book, "change": change})
        server.inline(cell("2"), 0, 4)
        assert [each for each in journal() if each["what"] == "fill"][-1]["before"] == before


def test_a_cell_that_goes_takes_its_work_along(start, journal):
    server = start("vscode")
    open_book(server, [("1", "python", "SLEEP20000 \n"), ("2", "python", "b = \n")])
    waiting = server.start_inline(cell("1"), 0, 11)
    server.wait_for(lambda: [each for each in journal() if each["what"] == "fill"], what="the engine at work")
    structure = {"array": {"start": 0, "deleteCount": 1}, "didClose": [{"uri": cell("1")}]}
    change = {"cells": {"structure": structure}}
    server.notify("notebookDocument/didChange", {"notebookDocument": {"uri": BOOK, "version": 2}, "change": change})
    assert server.wait(waiting, 2) is None
    assert server.inline(cell("2"), 0, 4)[0]["insertText"] == "filled"


def test_no_more_documents_are_looked_at_than_are_taken():
    server = create_server(lambda options, roots, progress: NotImplemented)
    for number in range(30):
        server.documents.open(types.TextDocumentItem(f"file:///w/{number}.py", "python", 1, "x = 1\n"))
    asked = []
    server.privacy.may_read = lambda document, options: not asked.append(document.uri)
    last = server.documents.get("file:///w/29.py")
    options = replace(Options(), context=replace(Options().context, max_documents=3))
    assert [each.path for each in server.completions.neighbours(last, options)] == [f"/w/{n}.py" for n in (28, 27, 26)]
    assert len(asked) == 3


def test_folders_come_and_go(start, tmp_path):
    (tmp_path / ".lacunaignore").write_text("*.py\n")
    server = start("nvim")
    uri = (tmp_path / "a.py").as_uri()
    server.open(uri, "x = \n")
    assert server.inline(uri, 0, 4) != []
    folder = {"uri": tmp_path.as_uri(), "name": "w"}
    server.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [folder], "removed": []}})
    server.wait_for(lambda: server.inline(uri, 0, 4) == [], what="the folder's ignore file to count")
    server.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [], "removed": [folder]}})
    server.wait_for(lambda: server.inline(uri, 0, 4) != [], what="the folder to be gone")
