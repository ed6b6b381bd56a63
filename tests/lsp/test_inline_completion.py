"""textDocument/inlineCompletion over real stdio: the answer policy, latest-wins, cancels, deadlines."""

from __future__ import annotations

import time

import pytest
from lsp_client import ResponseError

URI = "file:///workspace/a.py"


@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_it_is_announced_and_answered(start, client):
    # both editors' recorded parameters, no plugin's help
    server = start(client)
    assert "inlineCompletionProvider" in server.server["capabilities"]
    server.open(URI, "x = \n")
    (item,) = server.inline(URI, 0, 4)
    assert item["insertText"] == "filled"
    assert item["range"] == {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 4}}
    assert item["command"]["command"] == "lacuna.accept"
    assert server.request("workspace/executeCommand", item["command"]) is None
    assert server.close() == 0
    assert not server.unparsed


def test_nothing_is_an_empty_list(start):
    server = start()
    server.open(URI, "DECLINE\n")
    assert server.inline(URI, 0, 7) == []
    assert server.inline("file:///not/open.py", 0, 0) == []


@pytest.mark.parametrize(
    ("line", "character"),
    [(5, 0), (0, 99), (1, 1)],
    ids=["line past the end", "column past the end", "past the empty last line"],
)
def test_positions_outside_the_document_are_declined(start, line, character):
    server = start()
    server.open(URI, "x = 1\n")
    assert server.inline(URI, line, character) == []
    assert server.inline(URI, 0, 5) != []


def test_inside_a_surrogate_pair_is_declined(start):
    server = start(encoding="utf-16")
    server.open(URI, "s = '\U0001f600'\n")
    assert server.inline(URI, 0, 6) == []
    assert server.inline(URI, 0, 7) != []


def test_several_alternatives_come_in_one_answer(start, journal):
    server = start(options={"proposal": {"alternatives": 3}})
    server.open(URI, "MANY\n")
    assert [item["insertText"] for item in server.inline(URI, 0, 4)] == ["first", "second", "third"]
    assert journal()[-1]["num_alternatives"] == 3


def test_latest_wins(start, journal):
    server = start()
    server.open(URI, "SLEEP3000 \nx\n")
    begun = time.monotonic()
    old = server.start_inline(URI, 0, 10)
    new = server.start_inline(URI, 1, 1)
    assert server.wait(old) is None
    assert server.wait(new)[0]["insertText"] == "filled"
    assert time.monotonic() - begun < 2.5


def test_a_change_makes_what_is_under_way_stale(start):
    server = start()
    server.open(URI, "SLEEP3000 \n")
    old = server.start_inline(URI, 0, 10)
    begun = time.monotonic()
    server.change(URI, 2, {"text": "x = \n"})
    assert server.wait(old) is None
    assert time.monotonic() - begun < 2
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"


def test_opening_it_again_makes_what_is_under_way_stale(start):
    # a client that reads a file anew may not close it first
    server = start()
    server.open(URI, "DEAF500 \n")
    old = server.start_inline(URI, 0, 8)
    server.open(URI, "x = \n")
    assert server.wait(old) is None
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"


@pytest.mark.parametrize("uri", ["http://[bad", "", "a\nb", "file:///%ED%A0%80%00.py", "vscode-vfs://github/a/b.py"])
def test_a_document_is_served_whatever_its_uri_is(start, uri):
    server = start()
    server.open(uri, "x = \n")
    assert server.inline(uri, 0, 4)[0]["insertText"] == "filled"


def test_documents_do_not_cancel_each_other(start):
    server = start()
    other = "file:///workspace/b.py"
    server.open(URI, "SLEEP300 \n")
    server.open(other, "x = \n")
    first = server.start_inline(URI, 0, 9)
    second = server.start_inline(other, 0, 4)
    assert server.wait(first)[0]["insertText"] == "filled"
    assert server.wait(second)[0]["insertText"] == "filled"


def test_cancel_is_answered_null_and_stops_the_engine(start, journal):
    server = start()
    server.open(URI, "SLEEP5000 \n")
    request = server.start_inline(URI, 0, 10)
    server.wait_for(lambda: any(each["what"] == "fill" for each in journal()), what="the engine at work")
    begun = time.monotonic()
    server.cancel(request)
    assert server.wait(request) is None
    assert time.monotonic() - begun < 2
    server.wait_for(lambda: any(each["what"] == "cancelled" for each in journal()), 3, "the engine to stop")
    # the fake polls every 2 ms
    assert 0 <= server.request("lacuna/metrics", {})["cancelLagP95Ms"] < 1000


def test_cancel_right_after_the_request(start):
    # the request has not reached the engine thread when the cancel comes
    server = start()
    server.open(URI, "SLEEP200 \n")
    requests = [server.start_inline(URI, 0, 9) for _ in range(5)]
    for request in requests:
        server.cancel(request)
    assert [server.wait(request) for request in requests] == [None] * 5


def test_the_version_of_the_request_counts(start):
    server = start()
    server.open(URI, "x = \n", version=7)
    assert server.inline(URI, 0, 4, document={"version": 6}) is None
    assert server.inline(URI, 0, 4, document={"version": 7})[0]["insertText"] == "filled"


def test_the_deadline_ends_in_nothing(start):
    server = start(options={"proposal": {"deadlineMs": 100}})
    server.open(URI, "DEAF2000 \nx\n")
    begun = time.monotonic()
    assert server.inline(URI, 0, 9) == []
    assert time.monotonic() - begun < 1.5
    # the engine is still deaf: the next answer waits for it, or is declined in time
    assert server.inline(URI, 1, 1) == []
    server.wait_for(lambda: server.inline(URI, 1, 1), what="the engine to hear again")


def test_asked_by_key_waits_longer_than_while_typing(start):
    server = start(options={"proposal": {"deadlineMs": 50}})
    server.open(URI, "SLEEP300 \n")
    assert server.inline(URI, 0, 9, kind=2) == []
    assert server.inline(URI, 0, 9, kind=1)[0]["insertText"] == "filled"


def test_what_the_popup_would_insert_is_extended(start, journal):
    # VS Code, with its suggest widget open: items must extend the selected entry and replace its range
    server = start("vscode")
    server.open(URI, "print(val)\n")
    chosen = {"start": {"line": 0, "character": 6}, "end": {"line": 0, "character": 9}}
    (item,) = server.inline(URI, 0, 9, context={"selectedCompletionInfo": {"range": chosen, "text": "values"}})
    assert item["insertText"].startswith("values")
    assert item["range"] == chosen
    assert journal()[-1]["typed"] == "values"


def test_formatting_options_reach_the_infiller(start, journal):
    server = start()
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4, formattingOptions={"tabSize": 3, "insertSpaces": False})
    assert journal()[-1]["indent"] == [3, False]


def test_open_documents_of_the_language_are_context(start, journal):
    server = start(options={"context": {"maxDocuments": 2}})
    for number in range(4):
        server.open(f"file:///workspace/n{number}.py", f"n = {number}\n")
    server.open("file:///workspace/readme.md", "# text\n", "markdown")
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    assert journal()[-1]["neighbours"] == ["/workspace/n3.py", "/workspace/n2.py"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"enable": False}, "switched off"),
        ({"disable": {"languages": ["python"]}}, "the language is disabled"),
        ({"languages": {"python": {"enable": False}}}, "switched off by language"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_disabled_is_quiet(start, options, why):
    server = start(options=options, is_ready=False)
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4, kind=1) == [], why


def test_manual_only(start):
    server = start(options={"trigger": {"automatic": False}})
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4, kind=2) == []
    assert server.inline(URI, 0, 4, kind=1) != []


def test_debounce_waits_and_latest_still_wins(start, journal):
    server = start(options={"trigger": {"debounceMs": 150}})
    server.open(URI, "x = \n")
    begun = time.monotonic()
    requests = [server.start_inline(URI, 0, 4) for _ in range(4)]
    assert [server.wait(request) for request in requests[:3]] == [None] * 3
    assert server.wait(requests[3])[0]["insertText"] == "filled"
    assert time.monotonic() - begun >= 0.15
    assert sum(each["what"] == "fill" for each in journal()) == 1


def test_backoff_after_dismissals_by_hand(start):
    server = start(options={"trigger": {"backoffDismissals": 2}})
    server.open(URI, "x = \n")
    for _ in range(2):
        (item,) = server.inline(URI, 0, 4)
        server.notify("lacuna/didShow", {"item": item})
        server.notify("lacuna/didDismiss", {"item": item, "reason": "explicit"})
    assert server.inline(URI, 0, 4) == []
    # asked by a key: the silence is over
    assert server.inline(URI, 0, 4, kind=1) != []
    assert server.inline(URI, 0, 4) != []


def test_typing_over_a_proposal_is_no_dismissal(start):
    server = start(options={"trigger": {"backoffDismissals": 1}})
    server.open(URI, "x = \n")
    (item,) = server.inline(URI, 0, 4)
    server.notify("lacuna/didDismiss", {"id": item["command"]["arguments"][0], "reason": "typedOver"})
    assert server.inline(URI, 0, 4) != []


@pytest.mark.parametrize(
    "params",
    [
        {},
        [],
        {"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}, "context": {"triggerKind": 2}},
        {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 0}, "context": {"triggerKind": 77}},
        {"textDocument": {"uri": URI}, "position": 5, "context": {"triggerKind": 1}},
    ],
    ids=["empty", "a list", "negative line", "unknown trigger", "position is a number"],
)
def test_parameters_that_make_no_sense_are_still_answered(start, params):
    # stock pygls does not answer these at all
    server = start()
    server.open(URI, "x = \n")
    with pytest.raises(ResponseError, match="-32602"):
        server.request("textDocument/inlineCompletion", params)
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    assert not server.messages()
