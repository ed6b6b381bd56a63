"""One HTML file that holds a whole report: tables, plots and examples of one or several runs; opens without a network.

Knows results and plots, and no way to get them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import cast

from . import plots
from .results import FAILED, Json, Record, Results, SubjectResult, by, curve_of, summarise, write
from .tables import (
    ABLATION_CAPTION,
    ABLATION_COLUMNS,
    ablation_rows,
    deadline_of,
    harm_cells,
    harm_line,
    kinds_of,
    milliseconds,
    quality_cells,
    row_name,
    subset_lines,
    times_cells,
    written_words,
)

TEMPLATE = Path(__file__).with_name("report.html")
GOAL_MS = 100.0
"""What Lacuna promises for a single line; drawn as a line."""
NUM_EXAMPLES = 4


def write_report(runs: Sequence[Results], path: Path) -> None:
    """Write the report of runs. Raises: ResultsError where the file cannot be written."""
    write(path, render(runs))


def render(runs: Sequence[Results]) -> str:
    """The report as HTML."""
    names = ", ".join(_title(run.snapshot) for run in runs)
    parts = ["<h1>Lacuna benchmark</h1>", f"<p>{escape(names)}</p>"]
    # what was asked in different states is no sum
    for written, alike in by(runs, lambda run: run.written).items():
        if len(alike) > 1:
            parts.append(_overview(alike, written))
    for run in runs:
        parts += _run(run)
    parts.append(
        "<footer>Made by <code>lacuna bench</code>: real language servers over stdio, asked as VS Code asks. "
        "exact: the document is the original again; line: the first line is right; prefix: right as far as it goes; "
        "similarity and valid are of proposals; errors, brackets, repeats, indent count proposals that do that harm; "
        "answers above the deadline are counted by the client's clock (Lacuna answers 50 ms behind it at the latest). "
        "Baselines run in the benchmark's own process, without LSP.</footer>"
    )
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", escape(f"Lacuna benchmark: {names}"))
    return page.replace("{{body}}", "\n".join(parts))


def _title(snapshot: Json) -> str:
    return f"{snapshot['name']} {snapshot['version']}".strip()


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], num_names: int = 1) -> str:
    """A table; the first num_names columns hold names. rows: a class and the cells."""

    def cell(tag: str, number: int, text: str) -> str:
        name = ' class="name"' if number < num_names else ""
        return f"<{tag}{name}>{escape(text)}</{tag}>"

    top = "".join(cell("th", number, text) for number, text in enumerate(head))
    body = "".join(
        f'<tr class="{kind}">' + "".join(cell("td", number, text) for number, text in enumerate(cells)) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


_COLUMNS = (
    "gaps", "shown", "exact", "95 %", "line", "prefix", "sim", "valid", "errors", "brackets", "repeats", "indent",
    "p50 ms", "p95 ms", "p99 ms",
)  # fmt: skip


def _row(names: Sequence[str], subject: SubjectResult, records: Sequence[Record]) -> tuple[str, list[str]]:
    """The class and the cells of a row: names, then the figures of _COLUMNS."""
    summary = summarise(records)
    low, high = summary.exact_interval
    shown, exact, *others = quality_cells(summary)
    interval = f"{100 * low:.1f}–{100 * high:.1f}"
    figures = (str(summary.num_gaps), shown, exact, interval, *others, *harm_cells(summary), *times_cells(summary))
    return "" if subject.command else "baseline", [*names, *figures]


def _whole_rows(subjects: Sequence[SubjectResult]) -> list[tuple[str, list[str]]]:
    return [_row([row_name(each, subjects)], each, each.records) for each in subjects]


def _overview(runs: Sequence[Results], written: str) -> str:
    """All runs of one state summed, for subjects that every run has."""
    names = [subject.name for subject in runs[0].subjects]
    sums: list[SubjectResult] = []
    notes: list[str] = []
    for name in names:
        found = [subject for run in runs for subject in run.subjects if subject.name == name]
        if len(found) == len(runs):
            records = [record for subject in found for record in subject.records]
            whole = SubjectResult(name, found[0].command, records=records)
            sums.append(whole)
            if found[0].command:
                notes.append(f"{name}: {harm_line(whole, max(deadline_of(run.about) for run in runs))}.")
    notes += subset_lines([run.subjects for run in runs])
    table = _table(["subject", *_COLUMNS], _whole_rows(sums))
    title = f"<h2>All {len(runs)} snapshots{escape(written_words(written))}</h2>"
    return title + table + "".join(f'<p class="note">{escape(n)}</p>' for n in notes)


def _run(run: Results) -> list[str]:
    snapshot, about = run.snapshot, run.about
    machine: Json = about["machine"]
    conditions: Json = about.get("conditions", {})
    trigger = "asked by a key" if conditions.get("is_explicit") else "asked while typing"
    parts = [
        f"<h2>{escape(_title(snapshot))}</h2>",
        f'<p class="note">{escape(snapshot["kind"])}, {snapshot["num_files"]} files, {snapshot["num_lines"]} lines, '
        f"sha256 {escape(snapshot['sha256'][:16])}…; seed {about.get('seed')}{escape(written_words(run.written))}, "
        f"{escape(str(about['date']))}; "
        f"{escape(machine['processor'])}, {machine['num_cores']} cores, {escape(machine['system'])}; {trigger}, "
        f"{conditions.get('num_keys')} keys {conditions.get('key_ms'):g} ms apart, request "
        f"{conditions.get('think_ms'):g} ms after the last.</p>",
    ]
    if ended := about.get("ended"):
        parts.append(f'<p class="note">This run ended early: {escape(str(ended))}</p>')
    if not run.subjects:
        return [*parts, *_extras(run.extras)]
    parts.append(_table(["subject", *_COLUMNS], _whole_rows(run.subjects)))
    parts += [f'<p class="note">{escape(line)}</p>' for line in subset_lines([run.subjects])]
    deadline_ms = deadline_of(about)
    parts += [
        f'<p class="note">{escape(_told(subject, deadline_ms))}</p>' for subject in run.subjects if subject.command
    ]
    if all("base" in subject.about for subject in run.subjects):
        ablations = [("", [name, *cells]) for name, cells in ablation_rows(run.subjects)]
        parts += ["<h3>Ablations</h3>", _table(["subject", *ABLATION_COLUMNS], ablations)]
        parts.append(f'<p class="note">{escape(ABLATION_CAPTION)}</p>')
    cards = _plots(run)
    parts.append('<div class="grid2">' + "".join(_card(title, body) for title, body in cards) + "</div>")
    rows = [
        _row([kind, each.name], each, mine)
        for kind in kinds_of(run.subjects)
        for each in run.subjects
        if (mine := [record for record in each.records if record.kind == kind])
    ]
    parts += ["<h3>By kind of hole</h3>", _table(["kind", "subject", *_COLUMNS], rows, 2)]
    parts += _extras(run.extras)
    for subject in run.subjects:
        if subject.command:
            examples = map(_example, _chosen(subject.records))
            parts += ["<h3>Before and after</h3>", '<div class="grid2">', *examples, "</div>"]
    return parts


def _told(subject: SubjectResult, deadline_ms: float) -> str:
    about: Json = subject.about
    summary = summarise(subject.records)
    parts = [
        f"{subject.name}: initialize {milliseconds(about.get('initialize_ms'))} ms",
        f"first proposal after {milliseconds(about.get('first_proposal_ms'))} ms",
        f"every answer p95 {milliseconds(summary.all_p95_ms)}, longest {milliseconds(summary.max_ms)} ms",
        f"keystroke to text p50 {milliseconds(summary.keystroke_p50_ms)}, "
        f"p95 {milliseconds(summary.keystroke_p95_ms)}, p99 {milliseconds(summary.keystroke_p99_ms)} ms",
    ]
    parts.append(harm_line(subject, deadline_ms))
    if about.get("peak_memory_mib"):
        parts.append(f"peak memory {about['peak_memory_mib']:.0f} MiB")
    if summary.declines:
        parts.append("declined: " + ", ".join(f"{reason} {count}" for reason, count in summary.declines.items()))
    if subject.note.startswith(FAILED):
        parts.append(subject.note)
    return "; ".join(parts) + "."


def _card(title: str, body: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{body}</div>'


def _plots(run: Results) -> list[tuple[str, str]]:
    servers = [subject for subject in run.subjects if subject.command]
    cards: list[tuple[str, str]] = []
    shown = {each.name: [record for record in each.records if record.proposal] for each in servers}
    times = {name: [record.request_ms for record in records] for name, records in shown.items()}
    if any(times.values()):
        title = "Latency: request to answer"
        cards.append((title, plots.distribution(title, times, "milliseconds", GOAL_MS)))
    languages = Counter(record.language for subject in run.subjects for record in subject.records)
    cards.append(_rates("Exact, by kind of hole", run, "exact", "kind", kinds_of(run.subjects)))
    cards.append(_rates("First line right, by kind of hole", run, "line_exact", "kind", kinds_of(run.subjects)))
    if len(languages) > 1:
        names = [name for name, _ in languages.most_common()]
        cards.append(_rates("Exact, by language", run, "exact", "language", names))
    if any(shown.values()):
        lengths = {name: [(float(r.num_lines), r.request_ms) for r in records] for name, records in shown.items()}
        title = "Latency against length of the file"
        cards.append((title, plots.scatter(title, lengths, "lines", "milliseconds", log_x=True, log_y=True)))
    forwards = {
        each.name: [
            (float(len(r.reference)), float(r.num_forwards)) for r in each.records if r.num_forwards is not None
        ]
        for each in servers
    }
    if any(forwards.values()):
        title = "Forwards of the model against length of the gap"
        cards.append((title, plots.scatter(title, forwards, "characters of the reference", "forwards", log_x=True)))
    confident = {each.name: curve_of(each.records)[0] for each in servers}
    series = {name: [(p.coverage, p.precision) for p in points] for name, points in confident.items() if points}
    if series:
        title = "Showing only what is confident"
        cards.append(
            (title, plots.curves(title, series, "share of gaps shown", "exact among them", is_rate=True))
        )
    return cards


def _rates(title: str, run: Results, measure: str, key: str, groups: Sequence[str]) -> tuple[str, str]:
    """A card: a field of Summary for each of groups, by a field of Record, of whoever proposes anything."""
    series = {
        subject.name: [
            getattr(summarise([record for record in subject.records if getattr(record, key) == group]), measure)
            for group in groups
        ]
        for subject in run.subjects
        if any(record.proposal for record in subject.records)
    }
    return title, plots.bars(title, groups, series, "share of gaps")


def _extras(extras: Json) -> list[str]:
    parts: list[str] = []
    if rows := extras.get("replay"):
        parts += ["<h3>Replayed typing</h3>", _facts(rows)]
    scale: Json = extras.get("scale") or {}
    cards: list[tuple[str, str]] = []
    for name, points in scale.items():
        title = f"Latency against {name.replace('_', ' ')}"
        series = {
            label: [(float(point["size"]), float(point[key])) for point in points if point.get(key) is not None]
            for label, key in (("p50", "p50_ms"), ("p95", "p95_ms"))
        }
        cards.append((title, plots.curves(title, series, name.replace("_", " "), "milliseconds", log_x=True)))
    if cards:
        parts += ['<div class="grid2">', *(_card(title, body) for title, body in cards), "</div>"]
        parts += [_facts(points) for points in scale.values()]
    for key, title in (("joint", "Several gaps of one document"), ("windows", "Several windows of one user")):
        if rows := extras.get(key):
            parts += [f"<h3>{title}</h3>", _facts(rows)]
    if rows := extras.get("execution"):
        parts += ["<h3>Execution</h3>", _facts(rows)]
    return parts


def _facts(rows: Sequence[Json]) -> str:
    """Rows with the same keys as a table; what is neither text nor number is spelt out."""

    def cell(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {count}" for name, count in cast(Json, value).items())
        return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    keys = list(rows[0])
    return _table([key.replace("_", " ") for key in keys], [("", [cell(row.get(key)) for key in keys]) for row in rows])


def _chosen(records: Sequence[Record]) -> list[Record]:
    """Examples to look at: the longest exact ones, and as many evenly drawn from the rest."""
    exact = sorted((r for r in records if r.judgement.is_exact), key=lambda r: -len(r.reference))[:NUM_EXAMPLES]
    rest = [record for record in records if record.proposal and not record.judgement.is_exact]
    return exact + rest[:: max(1, len(rest) // NUM_EXAMPLES)][:NUM_EXAMPLES]


def _example(record: Record) -> str:
    verdict = '<span class="good">exact</span>' if record.judgement.is_exact else '<span class="bad">differs</span>'
    before, after = escape(record.before), escape(record.after)
    bodies = [f"{before}<em>▁▁▁▁</em>{after}", f"{before}<b>{escape(record.proposal)}</b>{after}"]
    if not record.judgement.is_exact:
        bodies.append(f"{before}<s>{escape(record.reference)}</s>{after}")
    titles = ("before", "after", "what stood there")
    blocks = "".join(f"<p class=note>{title}</p><pre>{body}</pre>" for title, body in zip(titles, bodies, strict=False))
    head = f"{escape(record.path)} · {record.kind} · {milliseconds(record.request_ms)} ms · {verdict}"
    return f'<div class="card"><h3>{head}</h3>{blocks}</div>'
