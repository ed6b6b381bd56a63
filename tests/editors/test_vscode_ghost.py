"""Ghost text and edits in a real VS Code: what the page shows, and the bytes that are saved."""

import contextlib
import json
import time

import pytest
from nvim_driver import until

pytestmark = [pytest.mark.editor, pytest.mark.slow]

MULTI = "def multi(a, b):\n    x = a\n    return x + b"
HOLES = "def a():\n    ...\n\n\ndef b():\n    pass\n"


def notebook(*sources):
    """The bytes of a notebook with these cells of Python."""
    cells = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": [one]}
        for one in sources
    ]
    metadata = {"language_info": {"name": "python"}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def test_a_proposal_appears_and_tab_takes_it(window):
    w = window()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)
    until(lambda: w.messages("workspace/executeCommand"), "the accept command")
    assert w.messages("workspace/executeCommand")[-1]["params"]["command"] == "lacuna.accept"
    # one undo takes it back
    w.keys("Control+z")
    w.see_file("import os\n\ndef multi")


def test_typing_along_keeps_it(window):
    w = window()
    w.at_end("def")
    w.see(MULTI[3:])
    for count, char in enumerate(" multi(a", start=4):
        w.type(char)
        w.see(MULTI[count:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)


def test_what_a_proposal_opens_stays_open_where_the_editor_closes_nothing(window):
    w = window()
    w.at_end("table = ")
    w.see("make({")
    w.keys("Tab")
    until(lambda: w.messages("workspace/executeCommand"), "the accept command")
    w.type("1")
    w.see_file("import os\n\ntable = make({1")


def test_a_word_and_a_line_at_a_time(window):
    w = window()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Control+ArrowRight")
    w.see(MULTI[10:])
    w.see_file("import os\n\ndef multi(")
    w.keys("Control+Alt+ArrowRight")
    # VS Code's line goes to the beginning of the next one
    w.see_file("import os\n\ndef multi(a, b):\n")
    w.see(MULTI[17:])
    w.keys("Control+Alt+ArrowRight")
    w.see_file("import os\n\ndef multi(a, b):\n    x = a\n")


def test_escape_drops_it(window):
    w = window()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Escape")
    w.see_none()
    w.see_file("import os\n\ndef multi")


def test_alternatives(window):
    w = window()
    w.at_end("pick = ")
    w.see("one")
    w.keys("Alt+]")
    w.see("two(2)")
    w.keys("Alt+[")
    w.see("one")
    w.keys("Alt+[")
    w.see("three")
    w.keys("Alt+Enter")
    w.see_file("import os\n\npick = three")


def test_tab_is_a_tab_when_nothing_is_shown(window):
    w = window()
    w.at_end("zz = 1\n")
    time.sleep(0.3)
    w.keys("Tab")
    w.type("x")
    w.see_file("import os\n\nzz = 1\n    x")


def test_asked_by_hand(window):
    w = window()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Escape")
    w.see_none()
    w.keys("Alt+\\")
    w.see(MULTI[9:])
    assert w.messages("textDocument/inlineCompletion")[-1]["params"]["context"]["triggerKind"] == 1
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)


@pytest.mark.parametrize("word", ["null", "boom"])
def test_no_answer_and_an_error_are_quiet(window, word):
    w = window()
    w.at_end(f"{word} = 1\ndef multi")
    w.see(MULTI[9:])
    assert "boom" not in w.toasts()
    w.keys("Tab")
    w.see_file(f"import os\n\n{word} = 1\n{MULTI}")


def test_astral_characters_keep_their_place(window):
    w = window()
    w.at_end("emoji = '")
    w.see("\U0001f600\U0001f680' + name")
    w.keys("Tab")
    w.see_file("import os\n\nemoji = '\U0001f600\U0001f680' + name")


def test_the_proposal_extends_what_the_menu_has_selected(window):
    w = window("multitude = 1\n")
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Control+Space")
    w.page.wait_for_selector(".suggest-widget.visible")
    until(
        lambda: (
            (w.messages("textDocument/inlineCompletion")[-1]["params"]["context"].get("selectedCompletionInfo") or {})
            .get("text", "")
            .startswith("multi")
        ),
        "the selected entry in the request",
    )
    w.keys("Escape")
    w.see_file("multitude = 1\ndef multi")


def preview(w, title):
    w.page.wait_for_selector(".monaco-diff-editor", state="visible")
    until(lambda: title in (w.page.locator(".tab.active").get_attribute("aria-label") or ""), f"a tab {title!r}")
    # the server's titles say already whose they are
    assert (w.page.locator(".tab.active").get_attribute("aria-label") or "").count("Lacuna") <= 1
    w.page.wait_for_selector(".editor-actions .codicon-check", state="visible")
    # keys go to what has the focus
    w.page.wait_for_selector(".monaco-diff-editor:focus-within")


def no_preview(w):
    until(lambda: w.page.locator(".monaco-diff-editor").count() == 0, "the end of the preview")
    w.page.wait_for_selector(f'.tab.active[data-resource-name="{w.file.name}"]')


def fill_all_holes(w):
    """By the keys alone, in a window of HOLES."""
    w.keys("Control+Alt+Shift+h")
    preview(w, "Fill all holes")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("def a():\n    return 42\n\n\ndef b():\n    return 42\n")


def test_fill_a_hole_and_undo_in_one_step(window):
    w = window(HOLES)
    w.focus()
    w.keys("Control+Home", "ArrowDown", "Control+Alt+h")
    preview(w, "Fill this hole")
    lines = w.page.locator(".monaco-diff-editor .editor.modified .view-lines").last
    until(lambda: "return 42" in lines.inner_text().replace("\u00a0", " "), "the new text")
    assert w.file.read_text() == HOLES
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("def a():\n    return 42\n\n\ndef b():\n    pass\n")
    w.keys("Control+z")
    w.see_file(HOLES)


def test_an_edit_is_settled_by_its_keys_in_zen_mode(window):
    w = window(HOLES)
    w.focus()
    w.command("View: Toggle Zen Mode")
    w.page.locator(".part.sidebar").wait_for(state="hidden")
    w.focus()
    fill_all_holes(w)
    w.command("View: Toggle Zen Mode")
    w.page.locator(".part.sidebar").wait_for(state="visible")


def test_an_edit_is_refused_by_one_key(window):
    w = window(HOLES)
    w.focus()
    w.keys("Control+Home", "ArrowDown", "Control+Alt+h")
    preview(w, "Fill this hole")
    w.keys("Escape")
    no_preview(w)
    w.see_file(HOLES)


def test_an_edit_chosen_from_the_menu_of_the_light_bulb_is_shown_first(window):
    w = window(HOLES)
    w.focus()
    w.keys("Control+Home", "ArrowDown", "Control+.")
    w.page.locator(".action-widget", has_text="Fill this hole").wait_for()
    w.keys("Enter")
    preview(w, "Fill this hole")
    assert w.file.read_text() == HOLES
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("def a():\n    return 42\n\n\ndef b():\n    pass\n")


def test_what_was_selected_stays_selected_when_its_rewriting_is_refused(window):
    w = window("first = 1\nsecond = 2\n")
    w.focus()
    w.keys("Control+Home", "ArrowDown", "Shift+End", "Control+Alt+i")
    w.instruct("be brief")
    w.keys("Enter")
    preview(w, "Rewrite selection")
    w.keys("Escape")
    no_preview(w)
    # the cursor, too, is where the user left it, and is not moved a moment later
    time.sleep(1)
    assert w.page.locator("[id='status.editor.selection']").inner_text() == "Ln 2, Col 11 (10 selected)"
    w.keys("Control+Home")


def test_a_read_only_text_is_not_filled(window):
    w = window(HOLES)
    w.focus()
    w.command("File: Set Active Editor Read-only in Session")
    w.page.locator(".tab.active [aria-label*='Read-only']").wait_for()
    w.focus()
    asked = len(w.messages("textDocument/codeAction"))
    w.keys("Control+Home", "ArrowDown", "Control+Alt+h", "Control+Alt+Shift+h")
    time.sleep(1)
    assert len(w.messages("textDocument/codeAction")) == asked
    assert w.page.locator(".monaco-diff-editor").count() == 0


def test_the_preview_of_a_cell_has_the_language_of_the_cell(code_server, open_window):
    """And not that of the notebook's file, JSON, which finds an error in it."""
    w = open_window(code_server, file="notes.txt", text="", size=(1200, 700)).focus()
    w.open("a.ipynb", notebook("...\n"))
    w.page.locator(".notebookOverlay .monaco-editor .view-lines").click()
    until(lambda: "fake" in w.status_label(), "a ready status", 90)
    w.keys("Control+Home", "Control+Alt+h")
    preview(w, "Fill this hole")
    assert w.page.locator("[id='status.editor.mode']").inner_text() == "Python"


def test_an_edit_asked_for_twice_in_one_breath(window):
    w = window(HOLES)
    asked = len(w.messages("lacuna/previewEdit"))
    w.focus()
    w.keys("Control+Alt+Shift+h", "Control+Alt+Shift+h")
    until(lambda: len(w.messages("lacuna/previewEdit")) == asked + 2, "both requests")
    # the one takes the place of the other, and nothing on the page tells which one it is
    time.sleep(1)
    preview(w, "Fill all holes")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("def a():\n    return 42\n\n\ndef b():\n    return 42\n")


def test_keys_in_another_diff_settle_no_preview(window):
    w = window("x = 1\n")
    name = w.file.name
    w.focus()
    w.command("File: Compare Active File with Saved")
    w.page.wait_for_selector(".monaco-diff-editor", state="visible")
    # else the next diff takes its place
    w.command("View: Keep Editor")
    w.open(f"holes_{name}", HOLES).focus()
    w.keys("Control+Alt+Shift+h")
    preview(w, "Fill all holes")
    w.page.locator(".tab", has_text="↔").first.click()
    until(lambda: "↔" in w.page.locator(".tab.active").inner_text(), "the other diff")
    w.page.locator(".monaco-diff-editor .editor.modified .view-lines:visible").click()
    w.keys("Alt+Enter", "Escape")
    w.page.locator(".tab", has_text="Fill all holes").click()
    preview(w, "Fill all holes")
    w.keys("Escape")
    no_preview(w)
    w.see_file(HOLES)
    w.command("View: Close All Editors")


def test_who_asked_in_a_diff_goes_back_to_it(window):
    w = window(HOLES)
    w.focus()
    w.command("File: Compare Active File with Saved")
    w.command("View: Keep Editor")
    w.page.locator(".monaco-diff-editor .editor.modified .view-lines:visible").click()
    w.keys("Control+Alt+Shift+h")
    preview(w, "Fill all holes")
    w.keys("Alt+Enter")
    until(lambda: w.page.locator(".tab", has_text="Fill all holes").count() == 0, "the end of the preview")
    w.see_file("def a():\n    return 42\n\n\ndef b():\n    return 42\n")
    assert "↔" in w.page.locator(".tab.active").inner_text()
    w.command("View: Close All Editors")


def test_fill_all_holes(window):
    w = window(HOLES)
    w.focus()
    fill_all_holes(w)
    w.keys("Control+z")
    w.see_file(HOLES)


def test_rewrite_the_selection_as_told(window):
    w = window("first = 1\nsecond = 2\n")
    w.focus()
    w.keys("Control+Home", "ArrowDown", "Shift+End", "Control+Alt+i")
    w.instruct("be brief")
    w.keys("Enter")
    preview(w, "Rewrite selection")
    w.keys("Alt+Enter")
    no_preview(w)
    assert w.messages("lacuna/previewEdit")[-1]["params"]["instruction"] == "be brief"
    w.see_file("first = 1\nsecond = 2  # be brief\n")


def test_rewrite_and_repair_from_the_palette(window):
    w = window("name = 1\ndef (x):\n    return x\n")
    w.focus()
    w.keys("Control+Home", "Shift+End")
    w.command("Lacuna: Rewrite Selection")
    preview(w, "Rewrite selection")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("NAME = 1\ndef (x):\n    return x\n")
    w.command("Lacuna: Repair Syntax Error Here")
    preview(w, "Repair")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("NAME = 1\ndef repaired(x):\n    return x\n")


def test_without_a_selection_nobody_is_asked_how_to_rewrite_it(window):
    w = window("first = 1\n")
    w.focus()
    w.command("Lacuna: Rewrite Selection…")
    until(lambda: "select what to rewrite" in w.toasts(), "the message")
    assert not w.page.locator(".quick-input-widget", has_text="What should change?").is_visible()
    w.command("Notifications: Clear All Notifications")


def test_next_edit(window):
    w = window("new_name = 1\nprint(old_name)\n")
    w.focus()
    w.keys("Control+Home", "Control+Alt+n")
    preview(w, "next edit")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("new_name = 1\nprint(new_name)\n")


@pytest.mark.parametrize("key", ["Alt+Enter", "Escape"])
def test_an_edit_over_several_files(code_server, open_window, key):
    first, second = "new_name = 1\nprint(old_name)\n", "x = old_name\n"
    w = open_window(code_server, file="b.py", text=second).wait_ready().open("a.py", first).focus()
    w.keys("Control+Alt+n")
    w.page.wait_for_selector(".monaco-component.multiDiffEditor", state="visible")
    for text in ("print(new_name)", "x = new_name"):
        until(lambda text=text: text in shown_changes(w), f"{text!r} in the preview")
    w.page.wait_for_selector(".editor-actions .codicon-check", state="visible")
    w.keys(key)
    until(lambda: w.page.locator(".monaco-component.multiDiffEditor").count() == 0, "the end of the preview")
    w.page.wait_for_selector('.tab.active[data-resource-name="a.py"]')
    is_taken = key == "Alt+Enter"
    want = {
        name: text.replace("old_name", "new_name") if is_taken else text
        for name, text in (("a.py", first), ("b.py", second))
    }
    w.see_file(want["a.py"])
    w.open("b.py", None)
    w.see_file(want["b.py"])


def shown_changes(w):
    found = w.page.locator(".multiDiffEditor .editor.modified .view-lines").all_inner_texts()
    return "\n".join(found).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("key", "method", "text"),
    [
        ("Control+Alt+Shift+h", "lacuna/previewEdit", "# late\n" + HOLES),
        ("Control+Alt+n", "lacuna/nextEdit", "# late\nnew_name = 1\nprint(old_name)\n"),
    ],
)
def test_an_edit_for_a_text_that_has_moved_on_is_refused(window, key, method, text):
    w = window(text)
    asked = len(w.messages(method))
    w.focus()
    w.keys("Control+Home", key)
    until(lambda: len(w.messages(method)) > asked, "the request")
    # the server answers as soon as it hears of this
    w.type("x")
    until(lambda: "The text has changed since" in w.toasts(), "the message")
    assert w.page.locator(".monaco-diff-editor").count() == 0
    w.see_file("x" + text)
    w.command("Notifications: Clear All Notifications")


def test_nothing_to_fill_is_said(window):
    w = window("x = 1\n")
    w.focus()
    w.keys("Control+Alt+h")
    until(lambda: "no hole here" in w.toasts(), "the message")
    w.see_file("x = 1\n")


def test_without_a_file_there_is_nothing_to_fill(window):
    w = window()
    w.command("View: Close All Editors")
    until(lambda: w.page.locator(".tab").count() == 0, "the end of all editors")
    w.command("Lacuna: Fill This Hole")
    until(lambda: "no file is open" in w.toasts(), "the message")
    w.command("Notifications: Clear All Notifications")


def menu(w, *labels):
    """The entries of the menu, once these are among them: a menu opens for a moment with the rows of the one before."""
    w.focus()
    w.page.click("[id='lacuna.lacuna.lacuna.status']")
    rows = w.page.locator(".quick-input-list .monaco-list-row")
    rows.first.wait_for(state="visible")

    def entries():
        found = rows.evaluate_all("rows => rows.map(row => row.getAttribute('aria-label') ?? '')")
        return found if all(any(label in entry for entry in found) for label in labels) else []

    return until(entries, f"the menu with {labels}")


def choose(w, label):
    chosen = next(entry for entry in menu(w, label) if label in entry)
    w.page.click(f'.quick-input-list .monaco-list-row[aria-label="{chosen}"]')


def test_the_menu_pauses_and_resumes(window):
    w = window()
    entries = " | ".join(menu(w))
    for part in ("fake", "cpu", "Pause", "Snooze for 5 minutes", "Disable for python", "Open log", "Unload the model"):
        assert part in entries
    w.keys("Escape")
    choose(w, "Pause")
    until(lambda: "paused" in w.status_label(), "the pause")
    w.at_end("def multi")
    time.sleep(0.5)
    assert w.ghost() == ""
    choose(w, "Resume")
    until(lambda: "paused" not in w.status_label(), "the end of it")
    w.at_end("(")
    w.see(MULTI[10:])
    w.see_file("import os\n\ndef multi(")


def test_snooze(window):
    w = window()
    choose(w, "Snooze")
    until(lambda: "snoozed" in w.status_label(), "the snooze")
    asked = w.requests()
    w.at_end("def multi")
    time.sleep(0.5)
    assert w.ghost() == ""
    assert w.requests() == asked
    choose(w, "Resume")
    w.at_end("(")
    w.see(MULTI[10:])
    w.see_file("import os\n\ndef multi(")


def test_a_language_is_switched_off_and_on(window, code_server):
    w = window()

    def languages():
        # the editor writes the file in place: half of it is not an answer
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(code_server.settings_files[0].read_text()).get("lacuna.languages", {})
        return None

    choose(w, "Disable for python")
    until(lambda: languages() == {"python": {"enable": False}}, "the setting")
    until(lambda: w.messages("workspace/didChangeConfiguration"), "telling the server")
    choose(w, "Enable for python")
    until(lambda: languages() == {}, "the setting's end")
    w.see_file("import os\n\n")
