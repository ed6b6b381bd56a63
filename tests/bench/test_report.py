"""The report is one whole page without anything from outside, and the demo shows what it did."""

from __future__ import annotations

import json
import math
import shlex
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from lacuna_ls.bench import plots
from lacuna_ls.bench.cli import run
from lacuna_ls.bench.demo import CANDIDATES, held_out_package
from lacuna_ls.bench.demo import run as run_demo
from lacuna_ls.bench.errors import SnapshotError
from lacuna_ls.bench.report import render
from lacuna_ls.bench.results import load
from lacuna_ls.bench.tables import deadline_of, harm_line


class Page(HTMLParser):
    """What a page holds, and whether its elements close."""

    VOID = ("meta", "line", "circle", "rect", "polyline", "br")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.found: dict[str, int] = {}
        self.sources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found[tag] = self.found.get(tag, 0) + 1
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(repository_folder: Path, oracle, tmp_path: Path) -> Page:
    report = tmp_path / "report.html"
    command = shlex.join(oracle("chatty"))
    argv = [str(repository_folder), "--server", f"first={command}", "--key-ms", "1", "--kinds", "all", "--holes", "24"]
    assert run([*argv, "--server", f"oracle={command}", "--html", str(report), "--json", str(tmp_path / "r.json")]) == 0
    found = Page()
    found.feed(report.read_text(encoding="utf-8"))
    return found


def test_the_page_is_whole_and_stands_alone(page: Page):
    assert page.open == []
    assert page.sources == []
    assert page.found["svg"] >= 6
    assert page.found["table"] == 2
    text = "".join(page.text)
    headings = ["Latency: request to answer", "Exact, by kind of hole", "Exact, by language", "Before and after"]
    for heading in (*headings, "Forwards of the model"):
        assert heading in text
    assert "shapes 1.2" in text


def test_everything_that_can_be_measured_stands_in_the_report(page: Page, tmp_path: Path):
    results = load(tmp_path / "r.json")
    joint = {"how": "jointly", "num_documents": 4, "exact": 0.25}
    results.extras |= {"joint": [joint], "windows": [{"windows": 8, "last_ms": 812.0, "num_unanswered": 0}]}
    for subject in results.subjects:
        subject.about["base"] = "first"
    found = Page()
    found.feed(render([results]))
    text = "".join(found.text)
    for heading in ("Ablations", "Several gaps of one document", "Several windows of one user"):
        assert heading in text
    assert "syntax errors 0.00 %, brackets 0.00 %, repeats 0.00 %, indent 0.00 %" in text
    assert "answers above the deadline of 2000 ms" in text
    assert found.found["table"] == 5
    slow = results.subjects[0]
    slow.records = [replace(record, request_ms=2500.0) for record in slow.records]
    late = f"{len(slow.records)} of {len(slow.records)} answers above the deadline of 2000 ms"
    assert late in harm_line(slow, deadline_of(results.about))
    results.about["conditions"]["initialization_options"] = {"proposal": {"deadlineMs": 30000}}
    assert "; 0 of" in harm_line(slow, deadline_of(results.about))


def test_several_runs_make_one_page(page: Page, tmp_path: Path):
    file = tmp_path / "r.json"
    report = tmp_path / "two.html"
    assert run(["--from", str(file), str(file), "--html", str(report)]) == 0
    text = report.read_text(encoding="utf-8")
    assert "All 2 snapshots" in text
    assert text.count("oracle: of ") == 1
    assert len(json.loads(file.read_text(encoding="utf-8"))["subjects"]) == 5


@pytest.mark.parametrize(
    "svg",
    [
        pytest.param(plots.distribution("t", {"a": [1.0, 2.0, 300.0], "b": []}, "ms", 100.0), id="distribution"),
        pytest.param(plots.distribution("t", {"a": [5.0]}, "ms", 5.0), id="one-value"),
        pytest.param(plots.curves("t", {"a": [(0.1, 0.9), (1.0, 0.2)]}, "x", "y", is_rate=True), id="curve"),
        pytest.param(plots.curves("t", {"a": [(100.0, 3.0), (1e5, 4.0)]}, "x", "y", log_x=True), id="log"),
        pytest.param(plots.scatter("t & <u>", {"a": [(1, 1)], "b": [(0, 0)]}, "x", "y", log_x=True), id="zero-on-log"),
        pytest.param(plots.scatter("t", {}, "x", "y"), id="nothing-at-all"),
        pytest.param(plots.bars("t", ["k", "<l>"], {"a": [0.5, math.nan], "b": [0.0, 1.0]}, "y"), id="bars"),
    ],
)
def test_every_plot_is_well_formed(svg: str):
    root = ElementTree.fromstring(f"<div>{svg}</div>")
    plot = root.find("svg")
    assert plot is not None
    for element in plot.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if name in element.attrib:
                value = float(element.attrib[name])
                assert -60 <= value <= max(plots.WIDTH, plots.HEIGHT) + 60, f"{element.tag} {name}={value}"


def test_axes_have_round_ticks():
    assert plots.Axis(0, 10, 0, 100).ticks == [0, 2, 4, 6, 8, 10]
    assert plots.Axis(1, 1000, 0, 100, is_log=True).ticks == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_the_demo_shows_before_after_and_the_table(
    repository_folder: Path, oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = shlex.join(oracle("half"))
    html = tmp_path / "demo.html"
    argv = [str(repository_folder), "--server", f"oracle={command}", "--holes", "9", "--html", str(html)]
    assert run_demo(argv) == 0
    out = capsys.readouterr().out
    assert "before │" in out
    assert "after │" in out
    assert "exactly what stood there" in out
    assert "All holes" in out
    assert html.exists()


def test_brackets_in_a_path_are_no_markup(repository_folder: Path, oracle, capsys: pytest.CaptureFixture[str]):
    (repository_folder / "pkg" / "shapes.py").rename(repository_folder / "pkg" / "[id].py")
    folder = repository_folder.rename(repository_folder.with_name("shapes[new]"))
    assert run_demo([str(folder), "--server", shlex.join(oracle()), "--holes", "9"]) == 0
    out = capsys.readouterr().out
    assert "shapes[new]" in out
    assert "pkg/[id].py" in out


def test_the_demo_needs_no_network_because_a_held_out_package_is_always_installed(repository: Path):
    held_out = json.loads((repository / "training" / "holdout.json").read_text(encoding="utf-8"))["packages"]
    names = {"attr": "attrs"}
    # what the model was trained on would prove nothing
    assert {names.get(name, name) for name in CANDIDATES} <= set(held_out)
    snapshot = held_out_package()
    assert snapshot.name in held_out
    assert snapshot.version
    assert snapshot.num_lines > 1000


def test_a_demo_without_any_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lacuna_ls.bench.demo.CANDIDATES", ("no_such_package_anywhere",))
    with pytest.raises(SnapshotError, match="Name a folder"):
        held_out_package()
