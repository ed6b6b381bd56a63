"""The values of a run, their JSON form, their sums, and the comparison of two runs. Knows no server and no terminal.

A results file holds every record, so that anything shown can be computed again, and two runs can be compared hole by
hole.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import ResultsError
from .metrics import NOTHING, CurvePoint, Judgement, calibration_error, coverage_curve, interval, mean, percentile

SCHEMA = 1
FAILED = "failed"
"""How the note of a subject begins that ended before its holes did."""
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One gap, asked once of one subject.

    gap: which gap of its hole. num_lines: length of the file. before, after: the lines around, for people.
    declined: why there is no proposal, "" where there is one; error: what went wrong, "" where nothing did.
    request_ms: request to answer. keystroke_ms: last key to answer. A baseline has request_ms only.
    replaced: what the proposal takes the place of, from the cursor (usually (0, 0)). is_any_exact: one of the
    alternatives of the answer is exact. The counters are None where nobody told them. steps: of denoising;
    num_forwards: of the model, for all of the answer.
    """

    hole: str
    kind: str
    language: str
    path: str
    gap: int
    num_lines: int
    before: str
    after: str
    reference: str
    proposal: str = ""
    replaced: tuple[int, int] = (0, 0)
    declined: str = ""
    error: str = ""
    request_ms: float = 0.0
    keystroke_ms: float | None = None
    confidence: float | None = None
    num_alternatives: int = 0
    is_any_exact: bool = False
    source: str = ""
    steps: int | None = None
    num_cached: int | None = None
    num_prefilled: int | None = None
    num_forwards: int | None = None
    judgement: Judgement = NOTHING


@dataclass(slots=True)
class SubjectResult:
    """All records of one subject. command: empty for a baseline. about: start-up times, memory, server version.

    note: what is to be said of it; "failed: ..." where it ended before its holes did.
    """

    name: str
    command: list[str] = field(default_factory=list[str])
    about: Json = field(default_factory=dict[str, Any])
    records: list[Record] = field(default_factory=list[Record])
    note: str = ""


@dataclass(slots=True)
class Results:
    """One run. about: date, machine, versions, seed, kinds, conditions, written, and "ended" where it did so early.

    extras: rows of what is measured beside holes, by its name: replay, joint, scale, windows, execution.
    """

    about: Json
    snapshot: Json
    subjects: list[SubjectResult] = field(default_factory=list[SubjectResult])
    extras: Json = field(default_factory=dict[str, Any])

    @property
    def written(self) -> str:
        """How far the functions around the holes were written; see written.py."""
        return str(self.about.get("written", "finished"))


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over records. exact .. prefix: rates of all gaps, in [0, 1]; similarity, valid: means over the proposals.

    syntax_errors .. wrong_indent: how many proposals do that harm.
    p50_ms .. p99_ms: request to answer, of answers that hold a proposal; all_p95_ms, max_ms: of every answer.
    """

    num_gaps: int
    num_proposals: int
    num_errors: int
    exact: float
    exact_interval: tuple[float, float]
    any_exact: float
    line_exact: float
    prefix: float
    similarity: float
    valid: float
    syntax_errors: int
    unbalanced: int
    repeated_suffix: int
    wrong_indent: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    all_p95_ms: float
    max_ms: float
    keystroke_p50_ms: float
    keystroke_p95_ms: float
    keystroke_p99_ms: float
    declines: dict[str, int]
    num_forwards_mean: float

    @property
    def coverage(self) -> float:
        """Share of gaps that got a proposal."""
        return self.num_proposals / self.num_gaps if self.num_gaps else math.nan

    @property
    def precision(self) -> float:
        """Share of proposals that are exact."""
        return self.exact * self.num_gaps / self.num_proposals if self.num_proposals else math.nan


def summarise(records: Sequence[Record]) -> Summary:
    """Sum records up."""
    shown = [record for record in records if record.proposal]
    verdicts = [record.judgement for record in shown]
    count = len(records)
    num_exact = sum(verdict.is_exact for verdict in verdicts)
    shown_ms = [record.request_ms for record in shown]
    typed_ms = [record.keystroke_ms for record in shown if record.keystroke_ms is not None]
    return Summary(
        num_gaps=count,
        num_proposals=len(shown),
        num_errors=sum(bool(record.error) for record in records),
        exact=num_exact / count if count else math.nan,
        exact_interval=interval(num_exact, count),
        any_exact=mean(record.is_any_exact for record in records),
        line_exact=sum(verdict.is_line_exact for verdict in verdicts) / count if count else math.nan,
        prefix=sum(verdict.is_prefix for verdict in verdicts) / count if count else math.nan,
        similarity=mean(verdict.similarity for verdict in verdicts),
        valid=mean(verdict.is_valid for verdict in verdicts),
        syntax_errors=sum(verdict.has_syntax_error for verdict in verdicts),
        unbalanced=sum(verdict.has_unbalanced for verdict in verdicts),
        repeated_suffix=sum(verdict.has_repeated_suffix for verdict in verdicts),
        wrong_indent=sum(verdict.has_wrong_indent for verdict in verdicts),
        p50_ms=percentile(shown_ms, 50),
        p95_ms=percentile(shown_ms, 95),
        p99_ms=percentile(shown_ms, 99),
        all_p95_ms=percentile([record.request_ms for record in records], 95),
        max_ms=max((record.request_ms for record in records), default=math.nan),
        keystroke_p50_ms=percentile(typed_ms, 50),
        keystroke_p95_ms=percentile(typed_ms, 95),
        keystroke_p99_ms=percentile(typed_ms, 99),
        declines=dict(Counter(record.declined for record in records if record.declined).most_common()),
        num_forwards_mean=mean(record.num_forwards for record in records if record.num_forwards is not None),
    )


def option_of(options: Json | None, group: str, name: str, default: T) -> T:
    """One of the server's options, GROUP.NAME; its default where it is not there or of another type, as for the server.

    options: as they were given to it, from a command line or a file.
    """
    within: Any = (options or {}).get(group)
    value: Any = cast(Json, within).get(name) if isinstance(within, dict) else None
    return cast(T, value) if isinstance(value, str if isinstance(default, str) else int | float) else default


def by(records: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Records (or runs) grouped by key, in the order in which the keys first occur."""
    groups: dict[str, list[T]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def confidence_pairs(records: Iterable[Record]) -> list[tuple[float, bool]]:
    """Confidence and exactness of the proposals that came with a confidence."""
    return [
        (record.confidence, record.judgement.is_exact)
        for record in records
        if record.proposal and record.confidence is not None
    ]


def curve_of(records: Sequence[Record]) -> tuple[list[CurvePoint], float]:
    """The coverage/precision curve and the expected calibration error; empty and NaN without confidences."""
    pairs = confidence_pairs(records)
    return coverage_curve(pairs, len(records)), calibration_error(pairs)


# the file


def _finite(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in cast(Json, value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast(list[Any], value)]
    return value


def to_json(results: Results) -> Json:
    """Results as plain data, with the sums of each subject beside its records, for readers without this module."""
    plain = asdict(results)
    for data, subject in zip(plain["subjects"], results.subjects, strict=True):
        data["summary"] = asdict(summarise(subject.records))
        kinds = by(subject.records, lambda record: record.kind)
        data["by_kind"] = {kind: asdict(summarise(records)) for kind, records in kinds.items()}
        points, error = curve_of(subject.records)
        data["confidence"] = {"curve": [asdict(point) for point in points], "calibration_error": error}
    return cast(Json, _finite({"schema": SCHEMA, **plain}))


def _record(raw: Json, is_ablation: bool) -> Record:
    first, last = raw["replaced"]
    judgement = Judgement(**raw["judgement"])
    fields: Json = {**raw, "judgement": judgement, "replaced": (first, last)}
    if is_ablation and "num_forwards" not in raw:
        # ablations once told forwards under the name of steps
        fields |= {"num_forwards": raw["steps"], "steps": None}
    return Record(**fields)


def from_json(data: Any) -> Results:
    """The inverse of to_json. Raises: ResultsError where data is something else."""
    try:
        if data["schema"] != SCHEMA:
            raise ResultsError(f"It has schema {data['schema']}; this version reads {SCHEMA}. Run the benchmark again.")
        subjects = [
            SubjectResult(
                name=each["name"],
                command=list(each["command"]),
                about=each["about"],
                records=[_record(raw, "base" in each["about"]) for raw in each["records"]],
                note=each["note"],
            )
            for each in data["subjects"]
        ]
        return Results(data["about"], data["snapshot"], subjects, data["extras"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"It holds no results of `lacuna bench` ({error!r}).") from error


def save(results: Results, path: Path) -> None:
    """Write a results file. Raises: ResultsError where the file cannot be written."""
    write(path, json.dumps(to_json(results), ensure_ascii=False, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: what was there before is there until then.

    Raises: ResultsError where it cannot be written.
    """
    target = _resolved(path)
    beside = _beside(target)
    try:
        if target.exists() and not target.is_file():
            # a device or a pipe is no file to be replaced
            target.write_text(text, encoding="utf-8")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(path: Path) -> None:
    """Find out before a run whether its file can be written after it; makes the folder.

    Raises: ResultsError where it cannot.
    """
    target = _resolved(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if target.is_file() or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _beside(target).touch()
            _beside(target).unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _resolved(path: Path) -> Path:
    """Where a link leads to: that is to be written, not the link. Raises: ResultsError."""
    try:
        # of links that lead to each other resolve says nothing since Python 3.13, and before it no OSError
        with suppress(FileNotFoundError):
            path.stat()
        return path.resolve()
    except OSError as error:
        raise _unwritable(path, error) from error


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def _unwritable(path: Path, error: OSError) -> ResultsError:
    return ResultsError(f"{path} cannot be written: {error.strerror}. Choose another file.")


def load(path: Path) -> Results:
    """Read a results file. Raises: ResultsError, naming the file."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read as results: {error}.") from error
    except ResultsError as error:
        raise ResultsError(f"{path} cannot be read as results. {error}") from error


# comparison


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the gaps that both had. num_better: exact only in the second; p_value: exact sign test, two-sided."""

    num_shared: int
    num_better: int
    num_worse: int
    p_value: float
    first: Summary
    second: Summary


def shared_gaps(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The records of the gaps that both have: of the same place, and with the same text taken out."""
    other = {(record.hole, record.gap): record for record in second}
    pairs = [(a, b) for a in first if (b := other.get((a.hole, a.gap))) is not None]
    # the place alone does not tell: another version of the file has other text there
    return [(a, b) for a, b in pairs if a.reference == b.reference]


def compare(first: Sequence[Record], second: Sequence[Record]) -> Paired:
    """Compare two subjects' records gap by gap."""
    return paired(shared_gaps(first, second))


def paired(shared: Sequence[tuple[Record, Record]]) -> Paired:
    """The comparison of records of the same gaps."""
    num_better = sum(b.judgement.is_exact and not a.judgement.is_exact for a, b in shared)
    num_worse = sum(a.judgement.is_exact and not b.judgement.is_exact for a, b in shared)
    return Paired(
        len(shared),
        num_better,
        num_worse,
        sign_test(num_better, num_worse),
        summarise([a for a, _ in shared]),
        summarise([b for _, b in shared]),
    )


def sign_test(num_better: int, num_worse: int) -> float:
    """Two-sided exact sign test (McNemar's, exactly): the chance of a split this uneven among the changed."""
    count, few = num_better + num_worse, min(num_better, num_worse)
    if not count:
        return 1.0
    tail = sum(math.comb(count, hits) for hits in range(few + 1))
    return min(1.0, 2 * tail / float(1 << count))
