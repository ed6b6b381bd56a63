"""Code actions: cheap to list, computed on resolve, versioned and annotated edits, previews, and refusals in words."""

from __future__ import annotations

import time

import pytest
from lsp_client import Client, ResponseError, initialize_params

URI = "file:///workspace/a.py"

HOLES = """def first(x):
    pass


def second(y):
    raise NotImplementedError


def third():
    return 1
"""


def at(line, character, end_line=None, end_character=None):
    start = {"line": line, "character": character}
    end = start if end_line is None else {"line": end_line, "character": end_character}
    return {"start": start, "end": end}


def listed(server, span, only=None, trigger=1):
    context = {"diagnostics": [], "triggerKind": trigger, **({"only": only} if only else {})}
    params = {"textDocument": {"uri": URI}, "range": span, "context": context}
    return {
        action["title"].removeprefix("Lacuna: "): action for action in server.request("textDocument/codeAction", params)
    }


def applied(text, edit):
    """The text after a WorkspaceEdit in utf-8 or ASCII positions."""
    (change,) = edit["documentChanges"]
    lines = [*text.splitlines(keepends=True), ""]
    offset = lambda p: sum(map(len, lines[: p["line"]])) + p["character"]  # noqa: E731
    for each in sorted(change["edits"], key=lambda each: offset(each["range"]["start"]), reverse=True):
        text = text[: offset(each["range"]["start"])] + each["newText"] + text[offset(each["range"]["end"]) :]
    return text


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_fill_this_hole(start, journal, client):
    server = start(client)
    server.open(URI, HOLES, version=3)
    action = listed(server, at(1, 6))["fill this hole"]
    # cheap to list: no edit yet, and the model was not asked
    assert "edit" not in action
    assert not [each for each in journal() if each["what"] == "fill_gaps"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert edit["documentChanges"][0]["textDocument"] == {"uri": URI, "version": 3}
    assert edit["changeAnnotations"]["lacuna"]["label"] == "Lacuna: fill this hole"
    assert edit["documentChanges"][0]["edits"][0]["annotationId"] == "lacuna"
    assert applied(HOLES, edit) == HOLES.replace("    pass", "    filled_0")


def test_fill_all_holes_asks_once_and_jointly(start, journal):
    server = start()
    server.open(URI, HOLES)
    action = listed(server, at(8, 0))["fill all holes in this file"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert applied(HOLES, edit) == HOLES.replace("pass", "filled_0").replace("raise NotImplementedError", "filled_1")
    (asked,) = [each for each in journal() if each["what"] == "fill_gaps"]
    assert asked["jointly"] is True
    # one edit of one document: undone in one step
    assert len(edit["documentChanges"]) == 1


def test_a_single_hole_is_filled_by_the_command_for_all(start):
    server = start()
    server.open(URI, "def other(a):\n\n\nx = 1\n")
    # the lamp does not light for it everywhere
    assert listed(server, at(3, 0)) == {}
    action = listed(server, at(3, 0), ["refactor.rewrite.lacuna.fillAllHoles"])["fill all holes in this file"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert applied("def other(a):\n\n\nx = 1\n", edit) == "def other(a):\n    filled_0\n\n\nx = 1\n"


def test_a_stub_file_is_not_full_of_holes(start):
    server = start()
    uri = f"{URI}i"
    server.open(uri, "def first() -> int: ...\ndef second() -> int: ...\nthird: int\n")

    def titles(line):
        params = {"textDocument": {"uri": uri}, "range": at(line, 0), "context": {"diagnostics": []}}
        return [action["title"] for action in server.request("textDocument/codeAction", params)]

    assert titles(2) == []
    # who points at one may have it filled
    assert titles(0) == ["Lacuna: fill this hole"]


def test_no_hole_no_action(start):
    server = start()
    server.open(URI, HOLES)
    assert "fill this hole" not in listed(server, at(9, 4))
    server.change(URI, 2, {"text": "x = 1\n"})
    assert listed(server, at(0, 0)) == {}


def test_rewrite_selection_leaves_white_space_alone(start, journal):
    server = start()
    text = "def f():\n    return 1 + 1\n\nx = 2\n"
    server.open(URI, text)
    action = listed(server, at(1, 0, 2, 0))["rewrite selection"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert applied(text, edit) == "def f():\n    filled_0\n\nx = 2\n"


def test_rewrite_tries_again_when_nothing_changes(start, journal):
    server = start()
    server.open(URI, "x = 1  # STUBBORN\n")
    action = listed(server, at(0, 0, 0, 5))["rewrite selection"]
    assert "edit" in server.request("codeAction/resolve", action)
    assert [each["seed"] for each in journal() if each["what"] == "fill_gaps"] == [0, 1, 2]


def test_an_instruction_is_read_by_the_model_and_not_left_in_the_text(start, journal):
    server = start()
    text = "def f():\n    return 1\n"
    server.open(URI, text)
    action = listed(server, at(1, 4, 1, 12))["rewrite selection"]
    preview = server.request("lacuna/previewEdit", {"action": action, "instruction": "return\n the sum"})
    assert "    # return the sum\n    return 1" in journal()[-1]["text"]
    assert applied(text, preview["edit"]) == "def f():\n    filled_0\n"
    assert preview["diff"].splitlines() == [
        "--- a/a.py",
        "+++ b/a.py",
        "@@ -1,2 +1,2 @@",
        " def f():",
        "-    return 1",
        "+    filled_0",
    ]


def test_an_instruction_is_a_comment_of_the_language(start, journal):
    server = start()
    server.open(URI, "a {\n  top: 0;\n}\n", "css")
    action = listed(server, at(1, 2, 1, 9))["rewrite selection"]
    server.request("lacuna/previewEdit", {"action": action, "instruction": "to the left"})
    assert "  /* to the left */\n  top: 0;" in journal()[-1]["text"]


def test_repair_here(start, journal):
    server = start()
    text = "a = 1\nx = = 2\nb = 3\n"
    server.open(URI, text)
    assert "repair here" not in listed(server, at(0, 0))
    action = listed(server, at(1, 3))["repair here"]
    assert action["kind"].startswith("quickfix")
    edit = server.request("codeAction/resolve", action)["edit"]
    assert applied(text, edit) == "a = 1\nx = 2\nb = 3\n"


def test_a_repair_is_what_the_model_chooses_among_small_ones(start, journal):
    server = start()
    text = "def f():\n    a = join('a', 'b'\n    return a\n"
    server.open(URI, text)
    # noticed by a parser in the line below, which is whole
    action = listed(server, at(1, 8))["repair here"]
    edit = server.request("codeAction/resolve", action)["edit"]
    choices = journal()[-1]["choices"]
    assert "a = join('a', 'b')" in choices
    assert applied(text, edit) == f"def f():\n    {choices[-1]}\n    return a\n"


def test_a_small_mend_of_a_short_line_is_no_other_line(start, journal):
    server = start()
    text = "x = f(\n    1,\n]\n"
    server.open(URI, text)
    action = listed(server, at(2, 0))["repair here"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert journal()[-1]["choices"] == [")"]
    assert applied(text, edit) == "x = f(\n    1,\n)\n"


def test_a_repair_that_writes_something_else_is_refused(start, journal):
    server = start()
    text = "def f():\n    first = 1 +* ] -> [ second !\n    return 1\n"
    server.open(URI, text)
    action = listed(server, at(1, 8))["repair here"]
    assert "edit" not in server.request("codeAction/resolve", action)
    assert not journal()[-1]["choices"]
    assert server.messages()[-1] == "Lacuna: repair here (line 2): what the model wrote is something else"


def test_no_lamp_is_lit_where_there_is_no_hole(start):
    server = start()
    server.open(URI, HOLES)
    here, elsewhere = at(1, 4), at(HOLES.count("\n"), 0)
    assert set(listed(server, here, trigger=2)) == {"fill this hole", "fill all holes in this file"}
    assert listed(server, elsewhere, trigger=2) == {}
    assert set(listed(server, elsewhere)) == {"fill all holes in this file"}


def test_kinds_asked_for(start):
    server = start()
    server.open(URI, HOLES)
    assert set(listed(server, at(1, 4), ["refactor"])) == {"fill this hole", "fill all holes in this file"}
    assert set(listed(server, at(1, 4), ["refactor.rewrite.lacuna.fillHole"])) == {"fill this hole"}
    assert listed(server, at(1, 4), ["quickfix"]) == {}
    assert listed(server, at(1, 4), ["source.organizeImports"]) == {}


def test_a_refusal_is_said_in_words(start):
    server = start()
    server.open(URI, "def f():\n    pass  # DECLINE\n")
    action = listed(server, at(1, 4))["fill this hole"]
    assert "edit" not in server.request("codeAction/resolve", action)
    refusal = "Lacuna: fill this hole (line 2): what the model wrote would not parse"
    assert server.messages() == [refusal]
    assert server.request("lacuna/previewEdit", {"action": action}) is None
    assert server.messages() == [refusal] * 2


@pytest.mark.parametrize(
    ("kind", "text", "span", "expected"),
    [
        ("fill this hole", "def f():\n    pass  # DECLINE\n", at(1, 4), "(line 2): what the model wrote"),
        ("fill all holes in this file", HOLES + "# DECLINE\n", at(0, 0), ": what the model wrote would not parse"),
        ("rewrite selection", "x = 1\ny = 2  # DECLINE\n", at(1, 0, 1, 5), "(line 2): what the model wrote"),
        ("rewrite selection", "x = 1\nfilled_0\n", at(1, 0, 1, 8), "(line 2): the model would leave it as it is"),
        ("repair here", "x = = 1  # DECLINE\n", at(0, 3), "(line 1): what the model wrote would not parse"),
    ],
    ids=["fill", "fill all", "rewrite", "rewrite to the same", "repair"],
)
@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_whoever_asks_again_is_answered_again(start, client, kind, text, span, expected):
    server = start(client)
    server.open(URI, text)
    for number in range(1, 4):
        action = listed(server, span)[kind]
        assert server.request("lacuna/previewEdit", {"action": action}) is None
        assert len(server.messages()) == 3 * number - 2
        assert "edit" not in server.request("codeAction/resolve", action)
        assert len(server.messages()) == 3 * number - 1
        server.request("workspace/executeCommand", {"command": "lacuna.applyEdit", "arguments": [action["data"]]})
        assert len(server.messages()) == 3 * number
    assert len(set(server.messages())) == 1
    assert expected in server.messages()[0]


def test_a_model_that_is_not_ready_says_why(start):
    server = start(fake={"load_error": "There is no model. Name one."}, is_ready=False)
    server.open(URI, HOLES)
    server.wait_for(server.messages, what="the failure")
    for _ in range(2):
        server.request("codeAction/resolve", listed(server, at(1, 4))["fill this hole"])
    told = "Lacuna: fill this hole (line 2): the model is not ready (There is no model. Name one.)"
    assert server.messages()[1:] == [told] * 2
    # asked to try again: what still goes wrong is told again
    server.request("lacuna/resume")
    server.wait_for(lambda: server.messages().count("There is no model. Name one.") == 2, what="the failure again")


def test_an_edit_that_the_editor_does_not_apply_is_told(start):
    server = start()
    server.answers["workspace/applyEdit"] = {"applied": False, "failureReason": "the file is locked"}
    server.open(URI, HOLES)
    action = listed(server, at(1, 4))["fill this hole"]
    server.request("workspace/executeCommand", {"command": "lacuna.applyEdit", "arguments": [action["data"]]})
    assert server.messages() == ["Lacuna: fill this hole (line 2): the file is locked"]


def test_a_document_that_changed_gets_no_edit(start):
    server = start()
    server.open(URI, HOLES)
    action = listed(server, at(1, 4))["fill this hole"]
    server.change(URI, 2, {"text": "x\n" + HOLES})
    assert "edit" not in server.request("codeAction/resolve", action)
    # also while the model is at work
    server.change(URI, 3, {"text": HOLES + "# SLEEP\n"})
    action = listed(server, at(1, 4))["fill this hole"]
    waiting = server.start("codeAction/resolve", action)
    time.sleep(0.1)
    server.change(URI, 4, {"text": HOLES})
    assert "edit" not in server.wait(waiting)
    assert all("the document has changed" in message for message in server.messages())


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_document_that_was_opened_again_is_another_one(start, is_closed):
    server = start()
    server.open(URI, HOLES)
    actions = listed(server, at(1, 4))
    assert "fill all holes in this file" in actions
    if is_closed:
        server.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    server.open(URI, "def other():\n    pass\n")
    # what was meant for the old text is not done with what stands there now
    assert "edit" not in server.request("codeAction/resolve", actions["fill this hole"])
    assert "the document has changed" in server.messages()[0]
    assert list(listed(server, at(1, 4))) == ["fill this hole"]


@pytest.mark.parametrize("data", [
    None, 5, {}, {"kind": "rm"}, {"kind": "rewrite", "uri": URI, "revision": -1},
    {"kind": "rewrite", "uri": URI, "revision": 0, "start": 9, "end": 3},
])  # fmt: skip
def test_actions_that_are_not_ours_come_back_as_they_were(start, data):
    server = start()
    server.open(URI, HOLES)
    action = {"title": "x", **({} if data is None else {"data": data})}
    assert "edit" not in server.request("codeAction/resolve", action)
    assert server.request("lacuna/previewEdit", {"action": action}) is None
    server.request("workspace/executeCommand", {"command": "lacuna.applyEdit", "arguments": [data]})
    assert ["not one of Lacuna's" in message for message in server.messages()] == [True, True]


@pytest.mark.parametrize(
    ("client", "span"),
    [
        ("helix", at(1, 7, 1, 8)),
        ("helix", at(1, 8, 2, 0)),
        ("ale", at(1, 4, 1, 8)),
        ("eglot", at(0, 0, 1, 8)),
        ("vscode", at(1, 0, 2, 0)),
    ],
    ids=["the character under the cursor", "the line break under it", "the word", "the statement", "the line"],
)
def test_a_hole_where_a_selection_ends_is_filled(start, client, span):
    server = start(client)
    server.open(URI, HOLES)
    actions = listed(server, span)
    # a single character is a cursor, where editors have no other
    assert ("rewrite selection" in actions) == (client != "helix")
    assert next(iter(actions)) == "fill this hole"
    assert actions["fill this hole"]["data"]["start"] == HOLES.index("pass") + 4


def test_what_is_broken_under_a_character_can_be_repaired(start):
    server = start("helix")
    server.open(URI, "x = (1\ny = 2)(\nz = 3\n")
    assert "repair here" in listed(server, at(1, 2, 1, 3))


def test_a_refused_action_is_not_resolved_again(start):
    # Eglot resolves what has data and neither edit nor command, until it has
    server = start("eglot")
    server.open(URI, f"# DECLINE\n{HOLES}")
    resolved = server.request("codeAction/resolve", listed(server, at(2, 6))["fill this hole"])
    assert "edit" not in resolved
    assert "data" not in resolved


def test_a_client_that_cannot_resolve_gets_a_command(start):
    params = initialize_params("nvim")
    del params["capabilities"]["textDocument"]["codeAction"]["resolveSupport"]
    server = start(params)
    server.open(URI, HOLES)
    action = listed(server, at(1, 4))["fill this hole"]
    assert action["command"]["command"] == "lacuna.applyEdit"
    assert server.request("workspace/executeCommand", action["command"]) is None
    ((_, asked),) = [each for each in server.requests if each[0] == "workspace/applyEdit"]
    assert applied(HOLES, asked["edit"]) == HOLES.replace("    pass", "    filled_0")
    assert asked["label"] == "Lacuna: fill this hole"


def test_a_client_without_versioned_edits_gets_plain_ones(start):
    params = initialize_params("nvim")
    params["capabilities"]["workspace"]["workspaceEdit"] = {}
    server = start(params)
    server.open(URI, HOLES)
    action = listed(server, at(1, 4))["fill this hole"]
    edit = server.request("codeAction/resolve", action)["edit"]
    assert edit == {"changes": {URI: [{"range": at(1, 4, 1, 8), "newText": "filled_0"}]}}


def test_switched_off_or_excluded(start):
    server = start(options={"features": {"codeActions": False}})
    server.open(URI, HOLES)
    assert listed(server, at(1, 4)) == {}


def test_positions_in_utf16(start):
    server = start(encoding="utf-16")
    text = "def f():\n    s = '\U0001f600'; x = ...\n"
    server.open(URI, text)
    action = listed(server, at(1, 18))["fill this hole"]
    (change,) = server.request("codeAction/resolve", action)["edit"]["documentChanges"]
    # the face is two units wide
    assert change["edits"][0]["range"] == at(1, 18, 1, 21)


def test_listing_is_cheap_in_a_long_file(start):
    # editors ask at every stop of the cursor
    server: Client = start()
    function = "def f(x):\n" + "    x = x + 1\n" * 40 + "    return x\n\n\n"
    server.open(URI, (function * 10 + HOLES) * 40)
    begun = time.monotonic()
    for line in range(430, 20 * 450, 450):
        listed(server, at(line, 4))
    # 10 ms on a quiet core; this machine is shared
    assert (time.monotonic() - begun) / 20 < 0.25


def happened(server, journal, what):
    return server.wait_for(lambda: [each for each in journal() if each["what"] == what], what=what)


@pytest.mark.parametrize("how", ["changed", "closed"])
def test_an_action_on_a_text_that_is_gone_holds_nobody_up(start, journal, how):
    server = start()
    other = "file:///workspace/b.py"
    server.open(URI, HOLES + "# SLEEP20000\n")
    server.open(other, "x = \n")
    waiting = server.start("codeAction/resolve", listed(server, at(1, 4))["fill this hole"])
    happened(server, journal, "fill_gaps")
    begun = time.monotonic()
    if how == "changed":
        server.change(URI, 2, {"text": HOLES})
    else:
        server.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert server.inline(other, 0, 4)[0]["insertText"] == "filled"
    assert "edit" not in server.wait(waiting)
    assert time.monotonic() - begun < 10
    happened(server, journal, "cancelled")
    assert server.messages()[-1].endswith("the document has changed; ask again")


@pytest.mark.parametrize("method", ["codeAction/resolve", "lacuna/previewEdit"])
def test_cancelling_the_request_stops_the_engine(start, journal, method):
    server = start()
    server.open(URI, HOLES + "# SLEEP20000\n")
    action = listed(server, at(1, 4))["fill this hole"]
    waiting = server.start(method, action if method.startswith("code") else {"action": action})
    happened(server, journal, "fill_gaps")
    server.cancel(waiting)
    with pytest.raises(ResponseError, match="-32800"):
        server.wait(waiting)
    happened(server, journal, "cancelled")


def test_pausing_ends_an_action(start, journal):
    server = start()
    server.open(URI, HOLES + "# SLEEP20000\n")
    waiting = server.start("codeAction/resolve", listed(server, at(1, 4))["fill this hole"])
    happened(server, journal, "fill_gaps")
    server.request("lacuna/pause")
    assert "edit" not in server.wait(waiting)
    assert server.messages()[-1].endswith("Lacuna is paused")


def test_no_key_waits_for_a_file_full_of_holes_to_be_read(start):
    server = start(options={"trigger": {"speculate": False}})
    pad = "v = 1 + x\n" * 10
    server.open(URI, "x = \n" + "".join(f"def f{number}(x):\n    pass\n\n\n{pad}" for number in range(2000)))
    server.inline(URI, 0, 4)
    worst = 0.0
    for _ in range(3):
        listing = server.start(
            "textDocument/codeAction",
            {"textDocument": {"uri": URI}, "range": at(9999, 4), "context": {"diagnostics": [], "triggerKind": 1}},
        )
        time.sleep(0.02)
        begun = time.monotonic()
        # from memory, so that only the event loop is waited for
        server.inline(URI, 0, 4)
        worst = max(worst, time.monotonic() - begun)
        assert any(each["title"].endswith("all holes in this file") for each in server.wait(listing))
        server.change(URI, 2, {"range": at(20001, 0), "text": "# on\n"})
        server.inline(URI, 0, 4)
    # 10 ms on a quiet core, and more than a second before; this machine is shared
    assert worst < 0.5


def test_all_holes_of_a_long_file_are_offered_wherever_the_cursor_is(start):
    server = start()
    pad = "value = 1  # pass\n" * 2000
    server.open(URI, pad + "def f():\n    pass\n" + pad + "def g():\n    pass\n" + pad)
    assert set(listed(server, at(0, 0))) == {"fill all holes in this file"}
    server.change(URI, 2, {"text": pad + "def f():\n    pass\n" + pad})
    assert listed(server, at(0, 0)) == {}
