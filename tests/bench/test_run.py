"""Whole runs over the command line: against an oracle the figures are known before."""

from __future__ import annotations

import json
import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from lacuna_ls.bench.baselines import baseline
from lacuna_ls.bench.cli import run, specs
from lacuna_ls.bench.errors import ResultsError, ServerError
from lacuna_ls.bench.results import compare, from_json, load, sign_test, summarise, to_json, write
from lacuna_ls.bench.run import judged
from lacuna_ls.bench.subject import default_command
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.baselines import Context
from lacuna_ls.infill.load import load_tokenizer


@pytest.fixture
def bench(repository_folder: Path, oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `lacuna bench` against the oracle; its results and what it printed."""

    def go(*words: str, server: tuple[str, ...] = ("chatty",), code: int = 0):
        file = tmp_path / "out" / "results.json"
        command = shlex.join(oracle(*server))
        argv = [str(repository_folder), "--server", f"oracle={command}", "--key-ms", "1", "--json", str(file), *words]
        assert run(argv) == code
        return (load(file) if file.exists() else None), capsys.readouterr()

    return go


def test_an_oracle_is_right_about_everything(bench):
    results, printed = bench("--kinds", "line,rest-of-line,block,arguments,function-body", "--holes", "30")
    oracle, *baselines = results.subjects
    assert [subject.name for subject in baselines] == ["empty", "copy", "n-gram"]
    summary = summarise(oracle.records)
    assert (summary.exact, summary.similarity, summary.valid, summary.coverage) == (1.0, 1.0, 1.0, 1.0)
    assert summary.syntax_errors == summary.unbalanced == summary.repeated_suffix == summary.wrong_indent == 0
    assert 0 < summary.p50_ms <= summary.p95_ms <= summary.p99_ms
    assert summary.num_forwards_mean == 4.0
    assert {(record.steps, record.num_forwards) for record in oracle.records} == {(6, 4)}
    assert {record.confidence for record in oracle.records} == {0.75}
    assert oracle.about["server"] == {"name": "oracle"}
    empty, copy = summarise(baselines[0].records), summarise(baselines[1].records)
    assert (empty.exact, empty.num_proposals, empty.num_gaps) == (0.0, 0, summary.num_gaps)
    assert copy.num_proposals > 0
    assert copy.exact < 1
    assert "oracle" in printed.out
    assert "100.0 %" in printed.out
    assert summary.keystroke_p95_ms <= summary.keystroke_p99_ms < 10_000
    assert "p99" in printed.out.split("keystroke to text")[1].split(";")[0]
    assert "4.0 forwards an answer" in " ".join(printed.out.split())
    assert results.snapshot["name"] == "shapes"
    assert len(results.snapshot["sha256"]) == 64


@pytest.mark.parametrize(
    "options",
    [
        pytest.param('{"engine": 3, "proposal": 3}', id="groups-that-are-none"),
        pytest.param('{"engine": {"model": 7}, "proposal": {"deadlineMs": "soon"}}', id="values-of-another-type"),
    ],
)
def test_options_that_make_no_sense_are_the_servers_defaults(bench, options: str, tmp_path: Path):
    """They are the server's to complain of; after the run it is too late."""
    report = str(tmp_path / "report.html")
    results, printed = bench("--holes", "2", "--baselines", "copy", "--options", options, "--html", report)
    assert [len(subject.records) for subject in results.subjects] == [2, 2]
    assert "the deadline of 2000 ms" in " ".join(printed.out.split())


def test_a_run_is_the_same_again_but_for_the_clock(bench):
    first, _ = bench("--kinds", "all", "--holes", "24")
    second, _ = bench("--kinds", "all", "--holes", "24")
    for one, other in zip(first.subjects, second.subjects, strict=True):
        told, again = ([(r.hole, r.gap, r.proposal) for r in subject.records] for subject in (one, other))
        assert told == again


def test_an_answer_over_the_rest_of_the_line_is_judged_whole(bench):
    results, _ = bench("--kinds", "arguments", "--holes", "8", "--baselines", "none", server=("overlay", "list"))
    summary = summarise(results.subjects[0].records)
    assert summary.exact == 1.0
    assert {record.num_alternatives for record in results.subjects[0].records} == {2}


@pytest.mark.parametrize("written", ["open", "closed"])
@pytest.mark.parametrize("words", [(), ("overlay",)], ids=["beside-the-marks", "over-the-marks"])
def test_an_oracle_is_right_about_what_is_being_written(
    repository_folder: Path, oracle, bench, tmp_path: Path, written: str, words: tuple[str, ...]
):
    from lacuna_ls.bench.holes import cut_holes
    from lacuna_ls.bench.snapshot import read_snapshot

    holes = cut_holes(read_snapshot(repository_folder), ["line", "rest-of-line", "mid-word"], 30, written=written)
    texts, answerable = [], set()
    for hole in holes:
        cursor, line = hole.spans[0][0], hole.references[0]
        marks = "".join(mark for mark, at in hole.begun.beside if at < len(line))
        texts.append(hole.text[:cursor] + line.removesuffix(marks) + hole.text[cursor:])
        # what goes on behind a mark takes another range than the oracle knows
        if line.endswith(marks):
            answerable.add(hole.id)
    command = shlex.join(oracle("chatty", *words, texts=texts))
    file = tmp_path / "written.json"
    argv = [str(repository_folder), "--server", f"o={command}", "--key-ms", "1", "--json", str(file), "--holes", "30"]
    assert run([*argv, "--kinds", "line,rest-of-line,mid-word", "--written", written, "--baselines", "copy"]) == 0
    results = load(file)
    summary = summarise([record for record in results.subjects[0].records if record.hole in answerable])
    assert len(results.subjects[0].records) == 30
    assert (summary.num_gaps, summary.exact, summary.valid) == (len(answerable), 1.0, 1.0)
    assert summary.syntax_errors == summary.unbalanced == summary.repeated_suffix == summary.wrong_indent == 0
    assert len(answerable) >= 25
    assert results.written == written


def test_states_are_never_compared(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--holes", "12", "--kinds", "line,rest-of-line", "--baselines", "copy", "--html", str(tmp_path / "r.html"))
    files: list[str] = []
    for written in ("finished", "open", "closed"):
        results, printed = bench(*words, "--written", written)
        files.append(str(tmp_path / f"{written}.json"))
        Path(files[-1]).write_text(json.dumps(to_json(results)), encoding="utf-8")
        told = f"functions written up to the hole, brackets and quotes {written}"
        for place in (" ".join(printed.out.split()), (tmp_path / "r.html").read_text(encoding="utf-8")):
            assert (told in place) is (written != "finished")
    assert run(["--compare", files[0], files[1]]) == 1
    assert "kinds and --written" in capsys.readouterr().err
    assert run(["--compare", files[1], files[1]]) == 0
    assert run(["--from", *files, files[1], "--html", str(tmp_path / "all.html")]) == 0
    report = (tmp_path / "all.html").read_text(encoding="utf-8")
    # the two that are alike are summed, and no others
    assert report.count("<h2>All") == 1
    assert "<h2>All 2 snapshots, functions written up to the hole, brackets and quotes open</h2>" in report


def test_declines_are_counted_by_reason(bench):
    results, printed = bench("--holes", "12", "--baselines", "none", server=("half", "chatty"))
    summary = summarise(results.subjects[0].records)
    assert summary.declines == {"low-confidence": summary.num_gaps - summary.num_proposals}
    assert summary.num_proposals > 0
    assert "low-confidence" in printed.out


def test_several_gaps_are_filled_one_after_the_other(repository_folder: Path, oracle, bench):
    from lacuna_ls.bench.holes import cut_holes
    from lacuna_ls.bench.snapshot import read_snapshot

    # what the document is after each gap but the last is filled, which the oracle must know to be right
    holes = cut_holes(read_snapshot(repository_folder), ["gaps"], 6, seed=0)
    texts: list[str] = []
    for hole in holes:
        for count in range(1, len(hole.spans)):
            text = hole.file.text
            for start, end in reversed(hole.spans[count:]):
                text = text[:start] + text[end:]
            texts.append(text)
    results, _ = bench("--kinds", "gaps", "--holes", "6", "--baselines", "copy")
    before = summarise(results.subjects[0].records)
    assert before.num_gaps == sum(len(hole.spans) for hole in holes)
    command = shlex.join(oracle(texts=texts))
    file = repository_folder.parent / "gaps.json"
    argv = [str(repository_folder), "--kinds", "gaps", "--holes", "6", "--server", f"o={command}", "--key-ms", "1"]
    assert run([*argv, "--json", str(file), "--baselines", "none"]) == 0
    assert summarise(load(file).subjects[0].records).exact == 1.0


def test_a_server_that_dies_is_started_again_and_the_hole_is_an_error(bench):
    results, printed = bench("--holes", "4", "--kinds", "line", "--baselines", "none", server=("die",))
    records = results.subjects[0].records
    assert len(records) == 4
    # the warm-up is the first request of each life, the third request its end
    assert [bool(record.error) for record in records] == [False, True, False, True]
    assert results.subjects[0].about["num_restarts"] == 2
    assert "2 errors" in printed.out


def test_a_server_that_keeps_failing_ends_the_run(bench):
    results, printed = bench("--holes", "20", "--kinds", "line", "--timeout", "0.5", server=("garbage",), code=1)
    assert results is None
    assert "no LSP message" in printed.err


def test_a_server_that_ends_for_good_keeps_what_it_answered(bench):
    results, printed = bench("--holes", "20", "--kinds", "line", "--baselines", "copy", server=("die",), code=1)
    oracle, copy = results.subjects
    # two answers in each life, and one that ends it
    assert len(oracle.records) == 8
    assert sum(bool(record.proposal) for record in oracle.records) == 4
    assert oracle.note.startswith("failed after 8 of 20 holes")
    assert oracle.about["num_restarts"] == 4
    assert len(copy.records) == 20
    assert "oracle (8 of 20 gaps)" in printed.out
    assert "failed after 8 of 20 holes" in printed.out
    assert "failed after 8 of 20 holes" in printed.err


def test_an_interrupted_run_keeps_and_shows_what_it_has(bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    counts: list[int] = []

    def interrupting(*given):
        counts.append(1)
        if len(counts) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return judged(*given)

    monkeypatch.setattr("lacuna_ls.bench.run.judged", interrupting)
    results, printed = bench("--holes", "12", "--html", str(tmp_path / "r.html"), code=130)
    assert [len(subject.records) for subject in results.subjects] == [5]
    assert results.about["ended"] == "interrupted"
    assert results.subjects[0].about["server"] == {"name": "oracle"}
    assert "All holes" in printed.out
    assert "This run ended early: interrupted" in printed.out
    assert "interrupted" in printed.err
    assert "This run ended early" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_every_subject_is_saved_before_the_next_is_asked(bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    saved: list[list[str]] = []

    def failing(name: str, model: str = ""):
        saved.append([subject.name for subject in load(tmp_path / "out" / "results.json").subjects])
        if name == "n-gram":
            raise RuntimeError("a fault of our own")
        return baseline(name, model)

    monkeypatch.setattr("lacuna_ls.bench.modes.baseline", failing)
    with pytest.raises(RuntimeError, match="of our own"):
        bench("--holes", "6")
    assert saved == [["oracle"], ["oracle", "empty"], ["oracle", "empty", "copy"]]
    results = load(tmp_path / "out" / "results.json")
    assert len(results.subjects) == 3
    assert results.about["ended"] == "a fault of our own"


def test_a_report_that_fails_costs_neither_tables_nor_results(bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def failing(runs, path):
        raise ResultsError("the disk is full")

    monkeypatch.setattr("lacuna_ls.bench.cli.write_report", failing)
    results, printed = bench("--holes", "6", "--html", str(tmp_path / "r.html"), code=1)
    assert len(results.subjects) == 4
    assert "All holes" in printed.out
    assert "the disk is full" in printed.err


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    link.symlink_to(file)
    write(link, "first")
    assert link.is_symlink()

    def failing(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(ResultsError, match="No space left"):
        write(file, "second")
    assert file.read_text() == "first"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "link.json"]
    # a device is not replaced by a file
    write(Path(os.devnull), "nothing")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("place", ["a-folder", "a-file/r.json"])
def test_where_the_results_go_is_tried_first(
    repository_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, place: str
):
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-file").touch()
    # this server would be the first complaint otherwise
    assert run([str(repository_folder), "--server", "/no/such/server", option, str(tmp_path / place)]) == 1
    assert "cannot be written" in (message := capsys.readouterr().err)
    assert "Choose another file" in message


def test_a_baseline_that_was_asked_less_is_compared_on_equal_gaps(bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lacuna_ls.bench.modes.baseline", lambda name, model: lambda context: "pass")
    results, printed = bench(
        "--holes", "12", "--kinds", "line", "--baselines", "copy,transformers", "--generate-holes", "4"
    )
    assert [len(subject.records) for subject in results.subjects] == [12, 12, 4]
    out = " ".join(printed.out.split())
    assert "transformers (4 of 12 gaps)" in out
    assert "On the same 4 gaps, oracle: exact 100.0 %" in out
    assert "| transformers: exact 0.0 %" in out
    assert out.count("On the same") == 1


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        pytest.param(["/no/such/place"], "There is no", 1, id="no-snapshot"),
        pytest.param([], "name a SNAPSHOT", 2, id="nothing-asked"),
        pytest.param(["HERE", "--kinds", "chapter"], "no kind of hole chapter", 1, id="unknown-kind"),
        pytest.param(
            ["HERE", "--written", "open", "--kinds", "line,span,gaps"],
            "open has no span, gaps; it has",
            1,
            id="not-written-so",
        ),
        pytest.param(["tasks.jsonl", "--written", "closed"], "leave --written out", 1, id="tasks-are-not-written"),
        pytest.param(["HERE", "--baselines", "oracle"], "no baseline oracle", 1, id="unknown-baseline"),
        pytest.param(["HERE", "--languages", "python,foo"], "no language foo; there are python,", 1, id="no-language"),
        pytest.param(["HERE", "--options", "{"], "no JSON", 1, id="options-are-no-json"),
        pytest.param(["HERE", "--options", "3"], "must be a JSON object", 1, id="options-are-no-object"),
        pytest.param(["HERE", "--server", "x='"], "cannot be read", 1, id="unbalanced-quotes"),
        pytest.param(["HERE", "--server", "/no/such/server"], "does not start", 1, id="no-server"),
        pytest.param(["--compare", "/a", "/b"], "cannot be read", 1, id="no-results"),
        pytest.param(["--from", "/a"], "name its file", 1, id="report-without-a-file"),
    ],
)
def test_a_wrong_command_line_says_so(
    repository_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str, code: int
):
    assert run([str(repository_folder) if word == "HERE" else word for word in words]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out


def test_two_runs_are_compared_gap_by_gap(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, _ = bench("--holes", "12", "--baselines", "none")
    poor, _ = bench("--holes", "12", "--baselines", "none", server=("half",))
    pair = compare(poor.subjects[0].records, good.subjects[0].records)
    assert pair.num_shared == 12
    assert pair.num_better == 12 - summarise(poor.subjects[0].records).num_proposals
    assert pair.num_worse == 0
    for name, results in (("a.json", poor), ("b.json", good)):
        (tmp_path / name).write_text(json.dumps(to_json(results)), encoding="utf-8")
    assert run(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr()
    assert "→ 100.0 %" in printed.out
    assert "sha256" not in printed.err


def test_another_version_of_a_file_has_other_gaps(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, _ = bench("--holes", "12", "--baselines", "none")
    second = from_json(to_json(first))
    second.snapshot["sha256"] = "0" * 64
    records = second.subjects[0].records
    # the same place, another text
    records[0] = replace(records[0], reference=records[0].reference + "x")
    assert compare(first.subjects[0].records, records).num_shared == 11
    for name, results in (("a.json", first), ("b.json", second)):
        (tmp_path / name).write_text(json.dumps(to_json(results)), encoding="utf-8")
    assert run(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "different snapshots" in capsys.readouterr().err


def test_files_of_older_versions_are_read(bench):
    results, _ = bench("--holes", "6", "--baselines", "none")
    plain = json.loads(json.dumps(to_json(results)))
    for record in plain["subjects"][0]["records"]:
        del record["num_forwards"]
    record = from_json(plain).subjects[0].records[0]
    assert (record.steps, record.num_forwards) == (6, None)
    plain["subjects"][0]["about"]["base"] = "as served"
    record = from_json(plain).subjects[0].records[0]
    assert (record.steps, record.num_forwards) == (None, 6)


def test_results_come_back_from_json(bench):
    results, _ = bench("--holes", "6")
    plain = json.loads(json.dumps(to_json(results)))
    again = from_json(plain)
    assert again == results
    assert plain["subjects"][0]["summary"]["exact"] == 1.0
    assert plain["subjects"][1]["summary"]["similarity"] is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"schema": 99}, id="a-later-schema"),
        pytest.param({"schema": 1}, id="nothing-in-it"),
        pytest.param([], id="a-list"),
        pytest.param({"schema": 1, "about": {}, "snapshot": {}, "subjects": [{"name": 1}], "extras": {}}, id="half"),
    ],
)
def test_what_is_no_results_is_refused(data: object):
    with pytest.raises(ResultsError):
        from_json(data)


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        pytest.param(0, 0, 1.0, id="no-difference"),
        pytest.param(5, 0, 2 / 32, id="five-to-none"),
        pytest.param(3, 3, 1.0, id="even"),
    ],
)
def test_sign_test(better: int, worse: int, expected: float):
    assert sign_test(better, worse) == pytest.approx(expected)


def test_servers_are_named():
    assert [(spec.name, spec.command) for spec in specs(["mine=a -b", "/usr/bin/other --stdio"])] == [
        ("mine", ("a", "-b")),
        ("2:other", ("/usr/bin/other", "--stdio")),
    ]
    assert specs(["FOO=1/x y"])[0].command == ("1/x", "y")
    with pytest.raises(ServerError, match="empty"):
        specs([" "])


def test_the_default_is_this_installation():
    command = default_command()
    assert Path(command[0]).name == "lacuna"
    assert command[1] == "serve"


@pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")
def test_the_same_checkpoint_through_transformers_own_generate(bench):
    # the reference's notices must stay its own: a warning is an error here
    words = ("--kinds", "rest-of-line", "--holes", "6", "--baselines", "copy,transformers", "--generate-holes", "2")
    results, _ = bench(*words)
    oracle, copy, generated = results.subjects
    assert generated.name == "transformers"
    assert (len(oracle.records), len(copy.records), len(generated.records)) == (6, 6, 2)
    assert {record.hole for record in generated.records} <= {record.hole for record in oracle.records}
    for record in generated.records:
        assert "\n" not in record.proposal
        assert record.request_ms > 1


def test_generated_text_is_what_its_tokens_say(monkeypatch):
    class Canned:
        canvas_length = 32

        def __init__(self, source):
            self.asked = []

        def generate(self, prompt, num_rows):
            rows.append(num_rows)
            return (*tokenizer.encode("return 1\n    x = 2"), tokenizer.eos, *tokenizer.encode("rubbish"))

    rows, tokenizer = [], load_tokenizer(EMBEDDED)
    monkeypatch.setattr("lacuna_ls.engine.reference.Reference", Canned)
    propose = baseline("transformers")
    assert propose(Context("def f():\n    \n", 13)) == "return 1\n    x = 2"
    assert propose(Context("x = \n", 4)) == "return 1"
    assert rows == [64, 32]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["--windows", "two"], 1, "is no list of numbers", id="windows"),
        pytest.param(["--execute", "1", "--tests", "'pytest"], 1, "The test command", id="tests"),
        pytest.param(["--replay-diff", "/no/such"], 1, "There is no diff", id="diff"),
        pytest.param(["--holes", "0"], 2, "leaves nothing to do", id="nothing to do"),
        pytest.param(["--json", "{loop}"], 1, "cannot be written", id="links that lead to each other"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_hole_is_asked(
    repository_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    arguments = [word.replace("{loop}", str(tmp_path / "one")) for word in arguments]
    # a server that could not even be started
    assert run([str(repository_folder), "--server", "/no/server", "--baselines", "none", *arguments]) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_results_that_are_nested_too_deeply_are_no_results(tmp_path: Path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ResultsError, match="cannot be read as results"):
        load(tmp_path / "deep.json")
