"""Results as tables for a terminal, by rich. Knows results, and no way to get them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .holes import KINDS, HoleKind
from .results import (
    FAILED,
    Json,
    Paired,
    Results,
    SubjectResult,
    Summary,
    compare,
    curve_of,
    option_of,
    paired,
    shared_gaps,
    summarise,
)

DEADLINE_MS = 2000.0
"""Lacuna's own default of proposal.deadlineMs."""


def is_finite(value: float | None) -> bool:
    """Whether a figure is there to be shown."""
    return value is not None and math.isfinite(value)


def percent(value: float) -> str:
    """A rate for people."""
    return f"{100 * value:.1f} %" if is_finite(value) else "–"


def milliseconds(value: float | None) -> str:
    """A time for people."""
    if value is None or not is_finite(value):
        return "–"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def written_words(written: str) -> str:
    """What is said of Results.written behind the seed: nothing of finished code."""
    return "" if written == "finished" else f", functions written up to the hole, brackets and quotes {written}"


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def quality_cells(summary: Summary) -> list[str]:
    """Shown, exact, line, prefix, sim, valid."""
    similarity = f"{summary.similarity:.3f}" if is_finite(summary.similarity) else "–"
    return [
        percent(summary.coverage),
        percent(summary.exact),
        percent(summary.line_exact),
        percent(summary.prefix),
        similarity,
        percent(summary.valid),
    ]


def harm_cells(summary: Summary) -> list[str]:
    """Errors, brackets, repeats, indent."""
    counts = (summary.syntax_errors, summary.unbalanced, summary.repeated_suffix, summary.wrong_indent)
    return [str(count) for count in counts]


def times_cells(summary: Summary) -> list[str]:
    """p50, p95, p99."""
    return [milliseconds(value) for value in (summary.p50_ms, summary.p95_ms, summary.p99_ms)]


def kinds_of(subjects: Sequence[SubjectResult]) -> list[HoleKind]:
    """The kinds of hole that were asked about, in their usual order."""
    asked = {record.kind for subject in subjects for record in subject.records}
    return [kind for kind in KINDS if kind in asked]


def _titled(title: str, caption: str | None = None) -> Table:
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left")


def row_name(subject: SubjectResult, subjects: Sequence[SubjectResult]) -> str:
    """The name of a subject; with how many gaps it was asked, where another was asked more."""
    most = max(len(each.records) for each in subjects)
    count = len(subject.records)
    return subject.name if count == most else f"{subject.name} ({count} of {most} gaps)"


def subset_lines(runs: Sequence[Sequence[SubjectResult]]) -> list[str]:
    """Each server against each baseline that was asked fewer gaps, on the gaps that both were asked.

    runs: the subjects of each run; what stands in one table is summed.
    """
    lines: list[str] = []
    for few in (subject for subject in runs[0] if not subject.command and "base" not in subject.about):
        for server in (subject for subject in runs[0] if subject.command):
            shared = [
                pair
                for subjects in runs
                for many in subjects
                for one in subjects
                if (many.name, one.name) == (server.name, few.name) and len(one.records) < len(many.records)
                for pair in shared_gaps(many.records, one.records)
            ]
            if not shared:
                continue
            pair = paired(shared)
            told = " | ".join(
                f"{name}: exact {percent(each.exact)}, line {percent(each.line_exact)}, "
                f"shown {percent(each.coverage)}, valid {percent(each.valid)}, p50 {milliseconds(each.p50_ms)} ms"
                for name, each in ((server.name, pair.first), (few.name, pair.second))
            )
            lines.append(f"On the same {pair.num_shared} gaps, {told} (exact sign test: p {pair.p_value:.3f}).")
    return lines


def subjects_table(subjects: Sequence[SubjectResult]) -> Table:
    """One row per subject, over all kinds of holes."""
    table = _titled(
        "All holes",
        "shown: gaps with a proposal; exact, line, prefix: of all gaps; sim, valid: of proposals; "
        "errors, brackets, repeats, indent: proposals that do that harm; times in ms, request to answer",
    )
    table.add_column("subject", no_wrap=True)
    _columns(table, "gaps", "shown", "exact", "line", "prefix", "sim", "valid")
    _columns(table, "errors", "brackets", "repeats", "indent", "p50", "p95", "p99")
    for subject in subjects:
        summary = summarise(subject.records)
        cells = [str(summary.num_gaps), *quality_cells(summary), *harm_cells(summary), *times_cells(summary)]
        table.add_row(row_name(subject, subjects), *cells, style="" if subject.command else "dim")
    return table


def kinds_table(subjects: Sequence[SubjectResult]) -> Table:
    """One row per subject and kind of hole."""
    table = _titled("By kind of hole")
    table.add_column("kind", no_wrap=True)
    table.add_column("subject", no_wrap=True)
    _columns(table, "gaps", "shown", "exact", "line", "prefix", "sim", "valid", "p50", "p95", "p99")
    kinds = kinds_of(subjects)
    # who never proposes anything has nothing to say kind by kind
    subjects = [subject for subject in subjects if any(record.proposal for record in subject.records)]
    for kind in kinds:
        for number, subject in enumerate(subjects):
            records = [record for record in subject.records if record.kind == kind]
            if not records:
                continue
            summary = summarise(records)
            last = number == len(subjects) - 1
            table.add_row(
                kind if number == 0 else "",
                subject.name,
                str(summary.num_gaps),
                *quality_cells(summary),
                *times_cells(summary),
                style="" if subject.command else "dim",
                end_section=last,
            )
    return table


def deadline_of(about: Json) -> float:
    """The deadline in ms that a run gave the server, or Lacuna's default."""
    options: Json | None = about.get("conditions", {}).get("initialization_options")
    return option_of(options, "proposal", "deadlineMs", DEADLINE_MS)


def harm_line(subject: SubjectResult, deadline_ms: float) -> str:
    """What proposals did harm as rates, and what came too late."""
    summary = summarise(subject.records)
    counts = dict(zip(("syntax errors", "brackets", "repeats", "indent"), map(int, harm_cells(summary)), strict=True))
    rates = ", ".join(f"{name} {100 * count / max(1, summary.num_proposals):.2f} %" for name, count in counts.items())
    num_late = sum(record.request_ms > deadline_ms for record in subject.records)
    return (
        f"of {summary.num_proposals} proposals: {rates}; "
        f"{num_late} of {summary.num_gaps} answers above the deadline of {deadline_ms:.0f} ms"
    )


def server_lines(subject: SubjectResult, deadline_ms: float) -> Text:
    """What is to be said of one server besides its rows: start, memory, harm, declines, confidence, errors."""
    about: Json = subject.about
    summary = summarise(subject.records)
    server: Json = about.get("server") or {}
    title = " ".join(str(server[key]) for key in ("name", "version") if server.get(key))
    parts = [f"initialize {milliseconds(about.get('initialize_ms'))} ms"]
    parts.append(f"first proposal after {milliseconds(about.get('first_proposal_ms'))} ms")
    if about.get("peak_memory_mib"):
        parts.append(f"peak memory {about['peak_memory_mib']:.0f} MiB")
    if is_finite(summary.keystroke_p50_ms):
        parts.append(
            f"keystroke to text p50 {milliseconds(summary.keystroke_p50_ms)}, "
            f"p95 {milliseconds(summary.keystroke_p95_ms)}, p99 {milliseconds(summary.keystroke_p99_ms)} ms"
        )
    parts.append(f"every answer p95 {milliseconds(summary.all_p95_ms)}, longest {milliseconds(summary.max_ms)} ms")
    if is_finite(summary.num_forwards_mean):
        parts.append(f"{summary.num_forwards_mean:.1f} forwards an answer")
    low, high = summary.exact_interval
    parts.append(f"exact {percent(summary.exact)} (95 %: {percent(low)} to {percent(high)})")
    lines = [f"{subject.name}: {title or 'a server without a name'}; " + "; ".join(parts) + "."]
    lines.append(f"  {harm_line(subject, deadline_ms)}")
    if summary.declines:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.declines.items())
        lines.append(f"  declined: {reasons}")
    points, error = curve_of(subject.records)
    if points:
        at_least = [[point for point in points if point.coverage >= share][:1] for share in (0.1, 0.25, 0.5)]
        rows = [
            f"{percent(point.precision)} exact at {percent(point.coverage)} shown (>= {point.min_confidence:.2f})"
            for found in at_least
            for point in found
        ]
        lines.append(f"  by confidence: {'; '.join(rows)}; calibration error {error:.3f}")
    if summary.num_errors:
        first = next(record.error for record in subject.records if record.error)
        lines.append(f"  {summary.num_errors} errors, the first: {first}")
    if subject.note.startswith(FAILED):
        lines.append(f"  {subject.note}")
    return Text("\n".join(lines))


def tables(results: Results) -> RenderableType:
    """Everything about one run, for a terminal."""
    snapshot = results.snapshot
    head = Text(
        f"{snapshot['name']} {snapshot['version']} ({snapshot['kind']}, {snapshot['num_files']} files, "
        f"{snapshot['num_lines']} lines, sha256 {snapshot['sha256'][:16]}), seed {results.about.get('seed')}"
        f"{written_words(results.written)}",
        style="bold",
    )
    machine: Json = results.about["machine"]
    where = Text(f"{machine['processor']}, {machine['num_cores']} cores, {machine['system']}", style="dim")
    parts: list[RenderableType] = [head, where]
    if ended := results.about.get("ended"):
        parts.append(Text(f"This run ended early: {ended}", style="bold"))
    if results.subjects:
        parts.append(subjects_table(results.subjects))
        parts += map(Text, subset_lines([results.subjects]))
    if len(kinds_of(results.subjects)) > 1:
        parts.append(kinds_table(results.subjects))
    deadline_ms = deadline_of(results.about)
    parts += [server_lines(subject, deadline_ms) for subject in results.subjects if subject.command]
    return Group(*parts)


_REPLAY = (
    ("num_keys_wanted", "keys wanted"),
    ("num_keys_pressed", "pressed"),
    ("keystrokes_saved", "saved"),
    ("num_shown", "shown"),
    ("num_accepted", "accepted"),
    ("num_typed_along", "typed along"),
    ("hit_rate", "kept"),
    ("num_flickers", "flickers"),
    ("num_requests", "requests"),
    ("cancelled_rate", "cancelled"),
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("along_p50_ms", "typing along, p50 ms"),
    ("along_p95_ms", "typing along, p95 ms"),
    ("cancel_lag_p95_ms", "cancel lag, p95 ms"),
    ("num_errors", "errors"),
)
WINDOWS = (
    ("windows", "windows"),
    ("num_models", "models"),
    ("host_mib", "host MiB"),
    ("largest_other_mib", "largest other"),
    ("total_mib", "all together"),
    ("first_ms", "first ms"),
    ("median_ms", "median ms"),
    ("last_ms", "last ms"),
    ("num_models_after", "models after"),
    ("num_requests", "requests"),
    ("num_unanswered", "unanswered"),
    ("num_errors", "errors"),
)
_RATES = frozenset({"keystrokes_saved", "hit_rate", "cancelled_rate"})


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key in _RATES:
        return percent(value)
    return milliseconds(value) if key.endswith(("_ms", "_mib")) else str(value)


def _scale_table(kind: str, rows: Sequence[Json]) -> Table:
    table = _titled(f"Latency by {kind}")
    if rows and is_finite(ratio := rows[-1]["p95_ms"] / rows[0]["p95_ms"]):
        table.caption = f"p95 at {rows[-1]['size']} is {ratio:.2f} times that at {rows[0]['size']}"
    _columns(table, kind, "requests", "shown", "from drafts", "p50 ms", "p95 ms", "peak MiB")
    is_workspace = any("early_p95_ms" in row for row in rows)
    if is_workspace:
        _columns(table, "p95 ms at first", "idle after s", "files read")
    for row in rows:
        memory = row.get("peak_memory_mib")
        cells = [
            str(row["size"]),
            str(row["num_requests"]),
            str(row["num_proposals"]),
            _cell("num", row.get("num_from_drafts")),
            milliseconds(row["p50_ms"]),
            milliseconds(row["p95_ms"]),
            f"{memory:.0f}" if memory else "–",
        ]
        if is_workspace:
            read = _cell("num", row.get("num_files_read"))
            cells += [milliseconds(row["early_p95_ms"]), f"{row['looked_s']:.0f}", read]
        table.add_row(*cells)
    return table


def extras_tables(extras: Json) -> RenderableType:
    """What was measured beside holes (Results.extras), a table each."""
    parts: list[RenderableType] = []
    if rows := extras.get("replay"):
        table = _titled(
            "Replayed typing",
            "saved: keys not pressed; kept: answers while typing along that kept or extended what was shown",
        )
        # a column for each run: there are more figures than a terminal is wide
        table.add_column("", no_wrap=True)
        _columns(table, *(f"{row['subject']}, {row['pace']}" for row in rows))
        table.add_row("accepts", *("yes" if row["accepts"] else "no" for row in rows))
        for key, title in _REPLAY:
            table.add_row(title, *(_cell(key, row.get(key)) for row in rows))
        parts.append(table)
    if rows := extras.get("joint"):
        caption = "filled, exact, different: of gaps; all exact, valid: of documents"
        table = _titled("Several gaps of one document", caption)
        _columns(table, "how", "documents", "gaps", "filled", "exact", "all exact", "valid", "different", "p50 ms")
        for row in rows:
            rates = [_cell("hit_rate", row[key]) for key in ("filled", "exact", "all_exact", "valid", "different")]
            counts = str(row["num_documents"]), str(row["num_gaps"])
            table.add_row(row["how"], *counts, *rates, milliseconds(row["p50_ms"]))
        parts.append(table)
    scale: dict[str, list[Json]] = extras.get("scale") or {}
    parts += [_scale_table(kind, rows) for kind, rows in scale.items()]
    if rows := extras.get("windows"):
        caption = "MiB resident; ms from kill -9 of the first window until the others proposed something again"
        table = _titled("Several windows of one user", caption)
        _columns(table, *(title for _, title in WINDOWS))
        for row in rows:
            table.add_row(*(_cell(key, row.get(key)) for key, _ in WINDOWS))
        parts.append(table)
    if rows := extras.get("execution"):
        table = _titled("Execution")
        _columns(table, "subject", "run", "passed", "rate")
        table.add_column("outcomes")
        for row in rows:
            rate = row.get("pass_rate", row.get("pass_at_1"))
            outcomes = ", ".join(f"{name} {count}" for name, count in row["outcomes"].items())
            total = row.get("num_bodies", row.get("num_tasks"))
            table.add_row(row["subject"], str(total), str(row["num_passed"]), _cell("hit_rate", rate), outcomes)
        parts.append(table)
    return Group(*parts)


def compare_table(pairs: Sequence[tuple[str, str, Paired]], first_name: str, second_name: str) -> Table:
    """Rows of two runs side by side, on the gaps that both had."""
    caption = "on the gaps that both runs had; better, worse: gaps exact in only one of them; p: exact sign test"
    table = _titled(f"{first_name} → {second_name}", caption)
    table.add_column("subject", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    _columns(table, "gaps", "exact", "line", "sim", "valid", "p50 ms", "p95 ms", "better", "worse", "p")
    for name, kind, pair in pairs:
        first, second = pair.first, pair.second

        def rates(one: float, other: float) -> str:
            return f"{percent(one)} → {percent(other)}"

        table.add_row(
            name,
            kind,
            str(pair.num_shared),
            rates(first.exact, second.exact),
            rates(first.line_exact, second.line_exact),
            f"{first.similarity:.3f} → {second.similarity:.3f}",
            rates(first.valid, second.valid),
            f"{milliseconds(first.p50_ms)} → {milliseconds(second.p50_ms)}",
            f"{milliseconds(first.p95_ms)} → {milliseconds(second.p95_ms)}",
            str(pair.num_better),
            str(pair.num_worse),
            f"{pair.p_value:.3f}",
        )
    return table


def ablation_table(subjects: Sequence[SubjectResult]) -> Table:
    """Every row against its base, gap by gap."""
    table = _titled("Ablations", ABLATION_CAPTION)
    table.add_column("subject", no_wrap=True)
    _columns(table, *ABLATION_COLUMNS)
    for name, cells in ablation_rows(subjects):
        table.add_row(name, *cells)
    return table


_ABLATION_RATES = ("gaps", "shown", "exact", "sim", "valid", "errors", "p50 ms", "p95 ms", "forwards")
ABLATION_COLUMNS = (*_ABLATION_RATES, "against", "better", "worse", "p")
ABLATION_CAPTION = "better, worse: gaps exact in only one of this row and the one it is against; p: exact sign test"


def ablation_rows(subjects: Sequence[SubjectResult]) -> list[tuple[str, list[str]]]:
    """Name and cells of every row."""
    by_name = {subject.name: subject for subject in subjects}
    rows: list[tuple[str, list[str]]] = []
    for subject in subjects:
        base = by_name[subject.about["base"]]
        pair = compare(base.records, subject.records)
        second = pair.second
        cells = [
            str(pair.num_shared),
            percent(second.coverage),
            percent(second.exact),
            f"{second.similarity:.3f}",
            percent(second.valid),
            str(second.syntax_errors),
            milliseconds(second.p50_ms),
            milliseconds(second.p95_ms),
            f"{second.num_forwards_mean:.1f}",
            base.name,
            str(pair.num_better),
            str(pair.num_worse),
            f"{pair.p_value:.3f}",
        ]
        rows.append((subject.name, cells))
    return rows


def wide_console() -> Console:
    """The terminal; where there is none, wide enough that no column is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=180)
