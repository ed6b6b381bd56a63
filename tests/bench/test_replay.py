"""Replayed typing: what is typed is what was to be written, and every ghost, flicker and cancellation is counted."""

from __future__ import annotations

import asyncio
import math
import shlex
import subprocess
from pathlib import Path

import lacuna_ls.bench.scale as scale_module
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.bench.cli import run
from lacuna_ls.bench.edits import Edit, Writing, edits_between, from_commits, from_diff, keys_of, stretches
from lacuna_ls.bench.errors import ResultsError, ServerError
from lacuna_ls.bench.replay import ReplayStats, human_pauses, replay
from lacuna_ls.bench.results import load
from lacuna_ls.bench.scale import long_file, make_workspace, scale_lines
from lacuna_ls.bench.snapshot import read_snapshot
from lacuna_ls.bench.subject import Conditions, ServerSubject

TEXTS = st.text(alphabet=st.sampled_from("ab  \n"), max_size=60)


def apply(text: str, edits: list[Edit]) -> str:
    for edit in edits:
        text = text[: edit.start] + edit.text + text[edit.start + edit.num_deleted :]
    return text


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_edits_lead_from_old_to_new(old: str, new: str):
    assert apply(old, edits_between(old, new)) == new


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_keys_write_the_text(text: str):
    keys = keys_of(text)
    assert "".join(keys) == text
    # one character each, but for a newline that brings the indentation
    assert all(len(key) == 1 or (key[0] == "\n" and not key.strip()) for key in keys)


def test_only_what_changed_is_typed():
    old = "a = 1\nb = compute(one)\nc = 3\n"
    new = "a = 1\nb = compute(one, two)\nc = 3\nd = 4\n"
    assert edits_between(old, new) == [Edit(21, 0, ", two"), Edit(34, 0, "d = 4\n")]


def test_stretches_are_taken_out_and_put_back(repository_folder: Path):
    snapshot = read_snapshot(repository_folder)
    found = stretches(snapshot, 5, 60, seed=2)
    assert len(found) == 5
    assert found == stretches(snapshot, 5, 60, seed=2)
    for writing in found:
        edits = edits_between(writing.old, writing.new)
        assert apply(writing.old, edits) == writing.new
        assert len(writing.new) > len(writing.old)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


def test_a_diff_is_typed(repository_folder: Path, tmp_path: Path):
    git(repository_folder, "init", "-q")
    git(repository_folder, "add", ".")
    git(repository_folder, "commit", "-qm", "first")
    users = repository_folder / "pkg" / "users.py"
    users.write_text(users.read_text(encoding="utf-8").replace("mean", "average"), encoding="utf-8")
    patch = tmp_path / "change.diff"
    patch.write_text(git(repository_folder, "diff"), encoding="utf-8")
    git(repository_folder, "commit", "-qam", "second")
    after = from_commits(repository_folder, "HEAD~1..HEAD")
    git(repository_folder, "checkout", "-q", "HEAD~1")
    (writing,) = from_diff(read_snapshot(repository_folder), patch)
    assert [writing] == after
    assert (writing.path, writing.language) == ("pkg/users.py", "python")
    assert [edit.text for edit in edits_between(writing.old, writing.new)] == ["average"] or "average" in writing.new


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        pytest.param(None, "no diff", id="no-file"),
        pytest.param("hello\n", "git apply failed", id="no-diff"),
        pytest.param("--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n", "git apply failed", id="does-not-fit"),
    ],
)
def test_a_wrong_diff_says_so(repository_folder: Path, tmp_path: Path, patch: str | None, message: str):
    path = tmp_path / "p.diff"
    if patch is not None:
        path.write_text(patch, encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        from_diff(read_snapshot(repository_folder), path)


def test_commits_are_read_without_the_programs_of_their_repository(repository_folder: Path, tmp_path: Path):
    git(repository_folder, "init", "-q")
    git(repository_folder, "add", ".")
    git(repository_folder, "commit", "-qm", "first")
    users = repository_folder / "pkg" / "users.py"
    users.write_text(users.read_text(encoding="utf-8").replace("mean", "average"), encoding="utf-8")
    (repository_folder / ".gitattributes").write_text("*.py filter=theirs\n", encoding="utf-8")
    git(repository_folder, "add", ".")
    git(repository_folder, "commit", "-qm", "second")
    mark = tmp_path / "was-run"
    git(repository_folder, "config", "filter.theirs.smudge", f"touch {mark}; cat")
    (writing,) = from_commits(repository_folder, "HEAD~1..HEAD")
    assert writing.path == "pkg/users.py"
    assert not mark.exists()


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_hook_s_own_repository_is_left_alone(
    repository_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    git(repository_folder, "init", "-q", f"--object-format={form}")
    for text in ("a = 1\n", "a = 2\n"):
        (repository_folder / "a.py").write_text(text, encoding="utf-8")
        git(repository_folder, "add", ".")
        git(repository_folder, "commit", "-qm", text)
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    config = (other / ".git" / "config").read_text(encoding="utf-8")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert [writing.path for writing in from_commits(repository_folder, "HEAD~1..HEAD")] == ["a.py"]
    assert "a.py" in {file.path for file in read_snapshot(repository_folder).files}
    assert (other / ".git" / "config").read_text(encoding="utf-8") == config


@pytest.mark.parametrize("revisions", ["HEAD", "..HEAD", "A...B", "--output=x..HEAD"])
def test_a_wrong_range_says_so(repository_folder: Path, revisions: str):
    git(repository_folder, "init", "-q")
    with pytest.raises(ResultsError):
        from_commits(repository_folder, revisions)


def test_pauses_are_human_and_the_same_again():
    keys = list("for x in y:\n    print(x)\n" * 20)
    pauses = list(human_pauses(keys, 1))
    assert pauses == list(human_pauses(keys, 1))
    assert pauses != list(human_pauses(keys, 2))
    assert 100 < sorted(pauses)[len(pauses) // 2] < 300
    assert all(10 < pause < 3000 for pause in pauses)


OLD = "def total(values):\n    result = 0\n\n    return result\n"
NEW = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n"
WRITING = Writing("w.py", "python", OLD, NEW)


def typed(command: list[str], accepts: bool = True, pace: str = "fast", **words: int) -> ReplayStats:
    work = replay(command, [WRITING], Conditions(), pace=pace, accepts=accepts, **words)  # type: ignore[arg-type]
    return asyncio.run(asyncio.wait_for(work, 60))[0]


def test_a_perfect_server_saves_nearly_everything(oracle):
    stats = typed(oracle(texts=[NEW]))
    (edit,) = edits_between(OLD, NEW)
    assert stats.num_keys_wanted == len(keys_of(edit.text))
    # one key until the first answer, one key to accept the rest
    assert (stats.num_accepted, stats.num_keys_pressed) == (1, 2)
    assert stats.keystrokes_saved == pytest.approx(1 - 2 / stats.num_keys_wanted)
    assert stats.num_flickers == stats.num_errors == stats.num_cancelled == 0


def test_neighbours_are_open_as_they_are_when_they_are_not_written_yet(
    oracle, repository_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: list[dict[str, str]] = []

    def show(self: ServerSubject, others: dict[str, tuple[str, str]]) -> None:
        shown.append({uri.rpartition("/")[2]: text for uri, (_, text) in others.items()})

    monkeypatch.setattr(ServerSubject, "show_neighbours", show)
    snapshot = read_snapshot(repository_folder)
    texts = {Path(file.path).name: file.text for file in snapshot.files}
    writings = [
        Writing(f"pkg/{name}", "python", "x = 1\n", f"x = 1\n{name[0]}\n") for name in ("users.py", "shapes.py")
    ]
    asyncio.run(replay(oracle(), [*writings, writings[0]], Conditions(), snapshot=snapshot))
    assert shown == [{"shapes.py": "x = 1\n"}, {"users.py": "x = 1\nu\n"}, {"shapes.py": "x = 1\ns\n"}]
    shown.clear()
    asyncio.run(replay(oracle(), writings[:1], Conditions(num_neighbours=0), snapshot=snapshot))
    asyncio.run(replay(oracle(), writings[1:], Conditions(num_neighbours=9), snapshot=snapshot))
    assert shown == [{}, {"users.py": texts["users.py"]}]


def test_typing_along_is_counted_and_does_not_flicker(oracle):
    stats = typed(oracle(texts=[NEW]), accepts=False)
    assert stats.num_accepted == 0
    assert stats.num_keys_pressed == stats.num_keys_wanted
    assert stats.keystrokes_saved == 0
    # all keys but the first, which nothing stood before, and the last, after which nothing is left
    assert stats.num_typed_along == stats.num_keys_wanted - 2
    assert stats.num_hits == stats.num_typed_along
    assert stats.num_flickers == 0
    assert len(stats.along_ms) == stats.num_typed_along
    assert stats.summary()["hit_rate"] == 1.0


def test_a_server_that_changes_its_mind_flickers(oracle):
    stats = typed(oracle("half", texts=[NEW]), accepts=False)
    # every second answer takes away what stood there
    assert stats.num_flickers > 10
    assert stats.num_hits == 0
    assert stats.summary()["hit_rate"] == 0.0


def test_a_slow_server_is_cancelled_by_a_fast_typist(oracle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lacuna_ls.bench.replay._MEDIAN_KEY_MS", 5.0)
    monkeypatch.setattr("lacuna_ls.bench.replay._PAUSE_MS", {})
    monkeypatch.setattr("lacuna_ls.bench.replay.READ_MS", 0.0)
    stats = typed(oracle("slow", texts=[NEW]), accepts=False, pace="human")
    assert stats.num_cancelled > 10
    assert stats.num_cancelled == stats.num_requests - stats.num_answers
    assert stats.num_late == stats.num_cancelled


def test_errors_are_counted_and_typing_goes_on(oracle):
    stats = typed(oracle("error"))
    assert stats.num_errors == stats.num_requests == stats.num_keys_pressed == stats.num_keys_wanted
    assert math.isnan(stats.summary()["p50_ms"])


def test_it_ends_after_so_many_keys(oracle):
    assert typed(oracle("never"), max_keys=10).num_keys_wanted == 10


def test_a_silent_server_ends_it(oracle):
    with pytest.raises(ServerError, match="did not answer"):
        asyncio.run(replay(oracle("mute"), [WRITING], Conditions(timeout_s=0.3, ready_timeout_s=0.3)))


def test_replay_and_scale_over_the_command_line(
    repository_folder: Path, oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, html = tmp_path / "r.json", tmp_path / "r.html"
    command = shlex.join(oracle("list"))
    words = ["--holes", "0", "--server", f"oracle={command}", "--key-ms", "1", "--json", str(file), "--html", str(html)]
    scale = ["--scale", "lines,documents", "--scale-max", "300", "--scale-requests", "3"]
    assert run([str(repository_folder), *words, "--replay", "fast", "--replay-keys", "60", *scale]) == 0
    extras = load(file).extras
    assert [row["accepts"] for row in extras["replay"]] == [True, False]
    assert extras["replay"][0]["num_keys_wanted"] >= 60
    assert extras["replay"][1]["num_keys_wanted"] == 60
    assert [row["size"] for row in extras["scale"]["lines"]] == [100]
    assert [row["size"] for row in extras["scale"]["documents"]] == [1, 2, 4, 8, 16, 32]
    assert all(row["num_requests"] >= 3 for row in extras["scale"]["documents"])
    printed = capsys.readouterr().out
    assert "Replayed typing" in printed
    assert "Latency by documents" in printed
    page = html.read_text(encoding="utf-8")
    assert "Replayed typing" in page
    assert "Latency against documents" in page


def test_a_server_is_asked_while_it_looks_around_and_after(
    repository_folder: Path, oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lacuna_ls.bench.scale.INDEX_WAIT_S", 0.1)
    monkeypatch.setattr("lacuna_ls.bench.scale.IDLE_POLL_S", 0.1)
    file = tmp_path / "r.json"
    command = shlex.join(oracle("chatty"))
    words = ["--server", f"oracle={command}", "--holes", "0", "--key-ms", "1", "--json", str(file)]
    in_workspace: list[str] = []
    asked: list[str] = []

    def making(root, snapshot, num_files):
        in_workspace.extend(file.text for file in snapshot.files)
        make_workspace(root, snapshot, num_files)

    async def asking(subject, hole, name):
        asked.append(hole.file.text)
        return await ask(subject, hole, name)

    ask = scale_module._ask
    monkeypatch.setattr("lacuna_ls.bench.scale.make_workspace", making)
    monkeypatch.setattr("lacuna_ls.bench.scale._ask", asking)
    scale = ["--scale", "workspace", "--scale-max", "100", "--scale-requests", "3"]
    assert run([str(repository_folder), *words, *scale]) == 0
    rows = load(file).extras["scale"]["workspace"]
    assert [row["size"] for row in rows] == [10, 100]
    for row in rows:
        assert row["early_p95_ms"] > 0
        assert 0.1 < row["looked_s"] < 30
        assert row["num_files_read"] == 12
        # the oracle says that its model knew
        assert row["num_from_drafts"] == 0
    # what stands in the workspace would be looked up, not computed
    assert asked
    assert not set(asked) & set(in_workspace)
    printed = capsys.readouterr().out
    assert "p95 at 100 is" in printed
    assert "at first" in printed
    assert "files read" in printed


def test_a_long_file_is_opened_once_and_asked_about_by_edits(
    repository_folder: Path, oracle, monkeypatch: pytest.MonkeyPatch
):
    snapshot = read_snapshot(repository_folder, ["python"])
    whole = long_file(snapshot, 100).text
    opened: list[str] = []
    start = ServerSubject.open
    monkeypatch.setattr(ServerSubject, "open", lambda self, *given: (opened.append(given[2]), start(self, *given))[1])
    command = oracle("chatty", texts=[whole])
    row = asyncio.run(scale_lines(command, snapshot, Conditions(num_keys=2, key_ms=1.0), 100, 4))
    assert opened == [whole]
    # the oracle knows the file with one hole in it and nothing else
    assert (row["num_requests"], row["num_proposals"]) == (4, 4)
