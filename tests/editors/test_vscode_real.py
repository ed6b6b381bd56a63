"""VS Code with the real server and the embedded model: what a user gets after installing both."""

import contextlib
import json
import re
import signal
import time

import psutil
import pytest
from nvim_driver import until
from real_server import BODY, BODY_ROWS, EASY, ENVIRONMENT, HOLES, LACUNA, SETTINGS, last_key
from test_vscode_ghost import no_preview, notebook, preview

pytestmark = [pytest.mark.editor, pytest.mark.slow]


def flat(settings, prefix="lacuna."):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.fixture(scope="module")
def real_code(tmp_path_factory):
    """VS Code whose server is the real one."""
    from conftest import can_run_vscode

    driver = can_run_vscode()
    variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    settings = {**dict(flat(SETTINGS)), "editor.autoIndent": "none"}
    command = ["/usr/bin/env", *variables, str(LACUNA)]
    code = driver.CodeServer(tmp_path_factory.mktemp("real") / "base", command=command, settings=settings)
    yield code
    code.close()


@pytest.fixture(scope="module")
def shared_real(real_code, browser, tmp_path_factory):
    from conftest import can_run_vscode

    driver = can_run_vscode()
    w = driver.Window(real_code, browser, tmp_path_factory.mktemp("shared") / "ws", text="")
    try:
        wait_for_model(w)
    except AssertionError:
        w.keep_evidence("shared_real")
        raise
    yield w
    w.close()


def wait_for_model(w):
    until(lambda: "embedded" in w.status_label(), f"the model (status: {w.status_label()!r})", 120)
    return w


@pytest.fixture
def real(shared_real, request, keep_if_failed):
    """The shared window, with a new and empty file."""
    count = [0]

    def fresh(text=""):
        count[0] += 1
        name = re.sub(r"\W+", "_", request.node.name) + f"{count[0]}.py"
        return shared_real.open(name, text, is_logged=False)

    yield fresh
    keep_if_failed([shared_real])
    shared_real.keys("Escape", "Escape", "Escape")


def proposed(w, texts=EASY):
    """Type easy code until something is proposed. The text before it, and the proposal."""
    for text in texts:
        w.keys("Control+a", "Delete")
        w.page.keyboard.insert_text(text[:-1])
        w.type(last_key(text))
        end = time.monotonic() + 12
        seen = []
        while time.monotonic() < end:
            # a later and longer answer may still replace it
            seen = [*seen[-2:], w.ghost()]
            if seen[0].strip() and seen == [seen[0]] * 3:
                return text[:-1] + last_key(text), seen[0]
            time.sleep(0.15)
    raise AssertionError(f"nothing was proposed for any of {len(EASY)} easy texts")


@pytest.mark.journey
def test_a_proposal_of_the_model_is_accepted_and_undone(real):
    w = real().focus()
    before, ghost = proposed(w)
    w.keys("Tab")
    w.see_file(before + ghost)
    w.keys("Control+z")
    w.see_file(before)
    assert "embedded" in w.status_label()
    # the server tells its latency at most once a second
    until(lambda: re.search(r"\d+ ms", w.status_label()), "the latency", 10)


@pytest.mark.journey
def test_a_word_and_escape(real):
    w = real().focus()
    before, ghost = proposed(w)
    w.keys("Control+ArrowRight")
    taken = saved_edit(w, before)
    assert (before + ghost).startswith(taken)
    w.keys("Escape")
    w.see_none()
    w.see_file(taken)


@pytest.mark.journey
def test_a_line_of_it(real):
    w = real().focus()
    before, ghost = proposed(w)
    w.keys("Control+Alt+ArrowRight")
    taken = saved_edit(w, before)
    # the editor's line may go on to the beginning of the next one
    assert taken.startswith(before + ghost.split("\n")[0])
    assert (before + ghost).startswith(taken.rstrip())
    w.keys("Control+z")
    w.see_file(before)


@pytest.mark.journey
def test_alternatives_of_the_model(real, real_code):
    real_code.write_settings(**{"lacuna.proposal.alternatives": 3})
    w = real().focus()
    try:
        before, ghost, other = with_alternative(w)
    finally:
        real_code.write_settings(**{"lacuna.proposal.alternatives": None})
    w.keys("Alt+[")
    w.see(ghost)
    w.keys("Alt+]")
    w.see(other)
    w.keys("Tab")
    w.see_file(before + other)


def with_alternative(w):
    """A text that the model continues in more than one way; the second is shown."""
    for first in range(len(EASY)):
        before, ghost = proposed(w, EASY[first:])
        w.keys("Alt+]")
        with contextlib.suppress(AssertionError):
            until(lambda ghost=ghost: w.ghost().strip() and w.ghost() != ghost, "another proposal", 5)
            return before, ghost, settled_ghost(w)
    raise AssertionError("there was no second proposal for any of the easy texts")


def settled_ghost(w):
    seen = []
    # a later and longer answer may still replace it
    while len(seen) < 3 or seen != [seen[0]] * 3:
        seen = [*seen[-2:], w.ghost()]
        time.sleep(0.15)
    return seen[0]


def clear_toasts(w):
    """No message of a former try may be taken for the next answer."""
    if w.page.locator(".notification-toast").count():
        w.command("Notifications: Clear All Notifications")
        until(lambda: w.page.locator(".notification-toast").count() == 0, "the end of the messages")
        w.focus()


def previewed(w, key, title):
    """Whether a preview opened; otherwise the server has said why not."""
    w.keys(key)
    until(lambda: w.page.locator(".monaco-diff-editor").count() or title in w.toasts(), "an answer", 60)
    if w.page.locator(".monaco-diff-editor").count():
        preview(w, title)
        return True
    return False


def saved_edit(w, before):
    """The accepted edit on disk. It is made a moment after the diff closed: a save that comes first saves nothing."""

    reads = [before]

    def is_changed():
        w.save()
        w.page.wait_for_timeout(200)
        reads.append(w.file.read_text())
        # one read may come while the file is written
        return reads[-1] not in (before, "") and reads[-1] == reads[-2]

    until(is_changed, "the edit")
    return reads[-1]


@pytest.mark.journey
@pytest.mark.parametrize(
    ("key", "title"),
    [
        # one, at the cursor
        ("Control+Alt+h", "fill this hole"),
        # all, in one canvas
        ("Control+Alt+Shift+h", "fill all holes"),
    ],
)
def test_holes_are_filled_by_the_model(real, key, title):
    w, text = with_filled_holes(real, key, title)
    assert w.file.read_text() == text
    w.keys("Alt+Enter")
    no_preview(w)
    after = saved_edit(w, text)
    assert after.count("...") < text.count("...")
    compile(after, "a.py", "exec")
    w.keys("Control+z")
    w.see_file(text)


def with_filled_holes(real, key, title):
    """The first file with holes for which the model has an answer, which is in preview: the window and the text."""
    for text in HOLES:
        w = real(text).focus()
        clear_toasts(w)
        row = text.split("\n").index(next(line for line in text.split("\n") if line.strip() == "..."))
        w.keys("Control+Home", *["ArrowDown"] * row, "End")
        if previewed(w, key, title):
            return w, text
    raise AssertionError(f"no hole was filled in any of {len(HOLES)} texts")


@pytest.mark.journey
def test_what_the_model_would_fill_in_is_refused(real):
    w, text = with_filled_holes(real, "Control+Alt+Shift+h", "fill all holes")
    w.keys("Escape")
    no_preview(w)
    w.see_file(text)


@pytest.mark.journey
def test_a_selection_is_rewritten_by_the_model(real):
    w = real(BODY).focus()
    for row in BODY_ROWS:
        clear_toasts(w)
        w.keys("Control+Home", *["ArrowDown"] * row, "Home", "Shift+End", "Control+Alt+i")
        w.instruct("shorter")
        # a small model may write nothing that parses: that is told, and another line is tried
        if previewed(w, "Enter", "rewrite selection"):
            break
        w.focus()
    else:
        raise AssertionError("the model rewrote nothing")
    assert w.file.read_text() == BODY
    w.keys("Alt+Enter")
    no_preview(w)
    after = saved_edit(w, BODY)
    # the other lines are as they were
    lines = BODY.split("\n")
    assert after.startswith("\n".join([*lines[:row], ""]))
    assert after.endswith("\n".join(["", *lines[row + 1 :]]))
    w.keys("Control+z")
    w.see_file(BODY)


@pytest.mark.journey
def test_a_setting_that_the_server_refuses_is_said(real, real_code):
    w = real().focus()
    clear_toasts(w)
    real_code.write_settings(**{"lacuna.proposal.extent": "galaxy"})
    try:
        until(lambda: "lacuna.proposal.extent" in w.toasts(), "the message")
        before, ghost = proposed(w)
        w.keys("Tab")
        w.see_file(before + ghost)
    finally:
        real_code.write_settings(**{"lacuna.proposal.extent": None})
        clear_toasts(w)


def test_a_rename_is_carried_on(real):
    w = real("size = 3\nprint(size)\n").focus()
    w.keys("Control+Home", "Control+Shift+ArrowRight")
    w.type("total")
    w.keys("Escape", "Control+Alt+n")
    preview(w, "next edit")
    w.keys("Alt+Enter")
    no_preview(w)
    w.see_file("total = 3\nprint(total)\n")


@pytest.mark.journey
def test_a_killed_server_comes_back_with_its_model(real_code, open_window):
    w = wait_for_model(open_window(real_code, text=""))
    (first,) = servers(w)
    first.send_signal(signal.SIGKILL)
    until(lambda: {one.pid for one in servers(w)} - {first.pid}, "a new server", 90)
    wait_for_model(w)
    w.focus()
    before, ghost = proposed(w)
    w.keys("Tab")
    w.see_file(before + ghost)
    second = next(one for one in servers(w) if one.pid != first.pid)
    w.close()
    until(lambda: not psutil.pid_exists(second.pid), "the end of the server", 90)


def servers(w):
    """The servers that were started in the folder of this window."""
    found = []
    for process in psutil.process_iter():
        try:
            if "serve" in process.cmdline() and process.cwd() == str(w.folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_notebook_cell_and_the_model(real_code, open_window):
    w = open_window(real_code, file="notes.txt", text="", size=(1200, 700)).focus()
    w.open("a.ipynb", notebook("import os\n", ""), is_logged=False)
    wait_for_model(w)
    w.page.locator(".notebookOverlay .monaco-editor .view-lines").nth(1).click()
    before, ghost = proposed(w)
    w.keys("Tab")

    def saved():
        w.save()
        time.sleep(0.2)
        return "".join(json.loads(w.file.read_text())["cells"][1]["source"]) == before + ghost

    until(saved, "the saved cell")
