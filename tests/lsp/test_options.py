"""The configuration tree: read value by value, a bad one costs a message and its default; and how clients send it."""

from __future__ import annotations

import json
import time
from pathlib import PurePosixPath, PureWindowsPath

import hypothesis.strategies as st
import pytest
from hypothesis import given
from lacuna_ls.lsp.options import (
    ROWS,
    Options,
    default_tree,
    for_language,
    markdown_table,
    read_options,
    vscode_configuration,
)
from lacuna_ls.lsp.server import CONFIGURATION_WAIT_S, is_inside
from lacuna_ls.lsp.settings import check

URI = "file:///workspace/a.py"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([row.name for row in ROWS] + ["nonsense", "engine", "trigger"])


def test_defaults_are_their_own_reading():
    assert read_options(default_tree()) == (Options(), [])
    assert read_options(None) == (Options(), [])
    assert read_options({}) == (Options(), [])
    assert read_options({"lacuna": default_tree()}) == (Options(), [])


@given(raw=JSON | st.dictionaries(NAMES, JSON, max_size=5))
def test_nothing_that_a_client_sends_raises(raw):
    options, messages = read_options(raw)
    assert isinstance(options, Options)
    for message in messages:
        assert message.startswith("lacuna")
    for language in ("python", "go"):
        for_language(options, language)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_bad_value_costs_one_message_and_its_default(row):
    options, messages = read_options({row.name: object()})
    assert options == Options()
    assert len(messages) == 1
    assert f"lacuna.{row.name}" in messages[0]


@pytest.mark.parametrize("row", [row for row in ROWS if row.setting.minimum is not None], ids=lambda row: row.name)
def test_limits_are_inclusive(row):
    low, high = row.setting.minimum, row.setting.maximum
    assert not check(row, low)[1]
    assert not check(row, high)[1]
    assert check(row, low - 1)[0] == row.default
    assert check(row, high + 1)[0] == row.default
    assert check(row, float("nan"))[1]
    assert check(row, 10**400)[1]
    assert check(row, True)[1]


def test_good_values_stay_when_others_are_bad():
    options, messages = read_options(
        {"trigger": {"debounceMs": 20, "prefetch": "yes", "debounse": 1}, "proposal.alternatives": 3, "engine": 7}
    )
    assert options.trigger.debounce_ms == 20
    assert options.trigger.prefetch is True
    assert options.proposal.alternatives == 3
    assert len(messages) == 3
    assert any("did you mean trigger.debounceMs?" in message for message in messages)


def test_both_spellings_and_both_nestings():
    wanted = read_options({"trigger": {"debounceMs": 20}})[0]
    for raw in ({"trigger.debounceMs": 20}, {"trigger": {"debounce_ms": 20}}, {"lacuna": {"trigger.debounceMs": 20}}):
        assert read_options(raw) == (wanted, []), raw


def test_empty_lua_tables_are_lists_and_objects():
    assert read_options({"languages": [], "privacy": {"deny": {}}, "trigger": []}) == (Options(), [])


def test_languages_override_what_may_differ_by_language():
    options, messages = read_options(
        {"languages": {"go": {"proposal": {"extent": "line"}, "engine": {"model": "x"}}, "lua": 5}}
    )
    assert for_language(options, "go").proposal.extent == "line"
    assert for_language(options, "python").proposal.extent == "auto"
    assert for_language(options, "go").engine == Options().engine
    assert len(messages) == 2


def test_a_workspace_cannot_turn_privacy_off_nor_choose_an_engine():
    raw = {
        "privacy": {"ignoreFiles": False, "redactSecrets": False, "deny": []},
        "engine": {"kind": "https://evil.example", "model": "/tmp/evil"},
        "trigger": {"debounceMs": 30},
    }
    options, messages = read_options(raw, is_workspace=True)
    assert options.privacy == Options().privacy
    assert options.engine == Options().engine
    assert options.trigger.debounce_ms == 30
    assert len(messages) == 4
    assert all("only be set in your own settings" in message for message in messages)


def test_a_workspace_cannot_take_back_what_the_user_has_switched_off():
    base = read_options(
        {
            "enable": False,
            "context": {"openDocuments": False, "workspace": False},
            "disable": {"languages": ["sql"], "paths": ["secret/"]},
        }
    )[0]
    raw = {
        "enable": True,
        "context": {"openDocuments": True, "workspace": True},
        "disable": {"languages": [], "paths": ["build/"]},
        "languages": {"python": {"enable": True, "proposal": {"extent": "line"}}},
        "trigger": {"debounceMs": 30},
    }
    options, messages = read_options(raw, base=base, is_workspace=True)
    assert options.enable is False
    assert for_language(options, "python").enable is False
    assert for_language(options, "python").proposal.extent == "line"
    assert options.context == base.context
    assert options.disable.languages == ("sql",)
    assert options.disable.paths == ("secret/", "build/")
    assert options.trigger.debounce_ms == 30
    assert len(messages) == 3
    assert all("your own settings" in message for message in messages)
    # the user himself may
    assert read_options(raw, base=base)[0].enable is True


def test_a_workspace_may_switch_off_and_not_on_again_by_language():
    base = read_options({"languages": {"sql": {"enable": False}, "go": {"enable": True}}})[0]
    assert read_options({}, base=base, is_workspace=True) == (base, [])
    options = read_options({"enable": False, "languages": {"sql": {"enable": True}}}, base=base, is_workspace=True)[0]
    assert options.enable is False
    assert for_language(options, "sql").enable is False


@pytest.mark.parametrize(
    ("path", "folder", "kind", "expected"),
    [
        ("c:\\work\\a.py", "C:\\Work\\", PureWindowsPath, True),
        ("c:\\work\\sub\\a.py", "c:/work", PureWindowsPath, True),
        ("c:\\workshop\\a.py", "c:\\work", PureWindowsPath, False),
        ("/place/a.py", "/place/", PurePosixPath, True),
        ("/work", "/work", PurePosixPath, True),
        ("/workshop/a.py", "/work", PurePosixPath, False),
        ("/Work/a.py", "/work", PurePosixPath, False),
        ("", "/work", PurePosixPath, False),
    ],
)
def test_which_folder_a_file_is_in(path, folder, kind, expected):
    assert is_inside(path, folder, kind) is expected


def test_no_option_names_a_command():
    # what a workspace's settings can reach must not be able to start anything
    assert not [row.name for row in ROWS if "command" in row.name.lower() or row.name.lower() == "path"]


@pytest.mark.parametrize("kind", ["auto", "local", "http://127.0.0.1:8000", "https://host/v1"])
def test_engine_kinds(kind):
    assert read_options({"engine": {"kind": kind}})[0].engine.kind == kind


@pytest.mark.parametrize("kind", ["", "ftp://x", "http://", "cloud", "http://a b"])
def test_engine_kinds_that_are_none(kind):
    options, messages = read_options({"engine": {"kind": kind}})
    assert options.engine.kind == "auto"
    assert len(messages) == 1


def test_generated_forms_have_every_option():
    table, vscode = markdown_table(), vscode_configuration()["properties"]
    for row in ROWS:
        assert f"`lacuna.{row.name}`" in table
        assert vscode[f"lacuna.{row.name}"]["default"] == row.json_default
        # VS Code keeps "machine" settings out of a workspace's reach
        assert (vscode[f"lacuna.{row.name}"]["scope"] == "machine") == (row.setting.scope == "user")
    json.dumps(vscode)


def test_messages_reach_the_user_once(start):
    server = start(options={"trigger": {"debounceMs": "soon"}, "colour": 1})
    shown = server.messages()
    assert len(shown) == 2
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"colour": 1}}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    assert server.messages() == shown


def test_a_flood_of_unknown_settings_is_no_flood_of_messages(start):
    server = start(options={f"{i}{'x' * 10_000}": 1 for i in range(1000)})
    shown = server.messages()
    assert len(shown) == 6
    assert max(map(len, shown)) <= 500
    assert shown[-1].startswith("995 more")


def test_did_change_configuration_with_the_settings_in_it(start):
    server = start()
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4) != []
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"enable": False}}})
    assert server.inline(URI, 0, 4) == []
    assert server.statuses()[-1]["kind"] == "inactive"
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {}}})
    assert server.inline(URI, 0, 4) != []


def test_workspace_configuration_is_asked_for_and_folders_differ(start):
    # VS Code merges a folder's settings into what it answers for that folder
    own = {"trigger": {"debounceMs": 0}, "privacy": {"redactSecrets": True}}

    def settings(item):
        return {**own, "enable": False, "privacy": {"redactSecrets": False}} if "scopeUri" in item else own

    server = start("vscode", settings=settings)
    server.open(URI, "x = \n")
    server.open("file:///elsewhere/b.py", "x = \n")
    assert server.inline(URI, 0, 4) == []
    assert server.inline("file:///elsewhere/b.py", 0, 4) != []
    assert server.messages() == [
        "lacuna.privacy.redactSecrets can only be set in your own settings; the workspace's was left out."
    ]


def test_a_folder_keeps_its_options_when_others_are_pushed(start):
    server = start("vscode", settings=lambda item: {"enable": "scopeUri" not in item})
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4) == []
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"trigger": {"debounceMs": 1}}}})
    assert server.inline(URI, 0, 4) == []


def test_a_client_that_answers_configuration_with_null(start):
    server = start("vscode", settings=None, options={"proposal": {"alternatives": 3}})
    server.open(URI, "MANY\n")
    assert len(server.inline(URI, 0, 4)) == 3


def test_settings_that_come_late_count_from_then_on(start):
    # an editor that was asleep, or is busy starting up
    waits = [CONFIGURATION_WAIT_S + 0.5]

    def settings(item):
        time.sleep(waits.pop() if waits else 0)
        return {"enable": False}

    server = start("vscode", settings=settings, is_ready=False)
    server.open(URI, "x = \n")
    server.wait_for(lambda: "inactive" in [each["kind"] for each in server.statuses()], what="the settings")
    assert server.inline(URI, 0, 4) == []
    assert any("not answered workspace/configuration" in line for line in server.stderr)


def test_another_model_is_loaded_when_the_options_say_so(start, journal):
    server = start()
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"engine": {"model": "missing"}}}})
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "error", what="the error")
    server.wait_for(server.messages, what="the message")
    assert server.messages() == ["There is no model 'missing'. Name a folder that exists."]
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"engine": {"model": ""}}}})
    server.wait_for(lambda: server.statuses()[-1]["kind"] == "normal", what="the model again")
    assert [each["what"] for each in journal()] == ["load", "close", "load"]
