"""HumanEval-Infilling and SAFIM files that the user has: JSONL in, holes and checks out; pass@1 by running the answer.

Every task becomes a hole like any other, with canonical edges (the indentation of what was taken out stands before the
cursor, its last newline behind it), so that the whole benchmark works on it. What the server sees is code, as in an
editor: SAFIM's description of the problem in words is not part of it. Formats: openai/human-eval-infilling and
gonglinyuan/safim (`*.jsonl`, `*.jsonl.gz`).
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .errors import ResultsError
from .holes import Hole, Progress
from .results import Json, Record
from .sandbox import Limits, Outcome, run_limited
from .snapshot import SourceFile

SAFIM_MARK = "{{completion}}"
_ENDINGS = {"python": ".py", "java": ".java", "cpp": ".cpp"}
COMPILE_LIMITS = Limits(seconds=60, memory_mib=0)


@dataclass(frozen=True, slots=True)
class UnitTest:
    """One run of a program: its input, and the outputs of which one is right."""

    given: str
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One task. ending: appended to the filled document to make the program; tests: empty where the program itself
    fails or not; is_exact_only: nothing can be run, equality but for white space decides."""

    name: str
    hole: Hole
    ending: str = ""
    tests: tuple[UnitTest, ...] = ()
    is_exact_only: bool = False


def is_dataset(path: Path) -> bool:
    """Whether a path names a file of tasks."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def read_tasks(path: Path, limit: int = 0) -> tuple[list[Task], dict[str, int]]:
    """The tasks of a file, and how many were left out by reason. limit: take so many, evenly over the file; 0: all.

    Raises: ResultsError where the file is neither of the two formats.
    """
    tasks: list[Task] = []
    skipped: Counter[str] = Counter()
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        lines = data.decode("utf-8").splitlines()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ResultsError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            task = _task(cast(Json, row))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ResultsError(
                f"{path}, line {number}: not a task of HumanEval-Infilling or SAFIM ({error!r})."
            ) from error
        if isinstance(task, str):
            skipped[task] += 1
        else:
            tasks.append(task)
    if not tasks:
        raise ResultsError(f"{path} holds no task that can be used ({dict(skipped) or 'it is empty'}).")
    if limit and len(tasks) > limit:
        tasks = [tasks[number * len(tasks) // limit] for number in range(limit)]
    return tasks, dict(skipped)


def _task(row: Json) -> Task | str:
    """One row as a task, or why it is left out."""
    name = str(row["task_id"])
    if "eval_prompt" in row:
        return _safim(name, row)
    hole = _hole(name, "python", str(row["prompt"]), str(row["canonical_solution"]), str(row["suffix"]))
    if hole is None:
        return "empty solution"
    return Task(name, hole, ending=f"\n{row['test']}\ncheck({row['entry_point']})\n")


def _safim(name: str, row: Json) -> Task | str:
    language = str(row["lang"])
    if language not in _ENDINGS:
        return f"language {language}"
    before, mark, after = str(row["eval_prompt"]).partition(SAFIM_MARK)
    if not mark:
        return "no place to fill"
    hole = _hole(name, language, before, str(row["ground_truth"]), after)
    if hole is None:
        return "empty solution"
    raw: Any = row.get("unit_tests") or []
    found = cast("list[Json]", json.loads(raw) if isinstance(raw, str) else raw)
    tests: list[UnitTest] = []
    for each in found:
        wanted: Any = each.get("output", [])
        is_several = isinstance(wanted, list)
        outputs = cast("list[Any]", wanted) if is_several else [wanted]
        tests.append(UnitTest(str(each.get("input", "")), tuple(map(str, outputs))))
    return Task(name, hole, tests=tuple(tests), is_exact_only=not tests)


def _hole(name: str, language: str, before: str, middle: str, after: str) -> Hole | None:
    text = before + middle + after
    body = middle.strip()
    if not body:
        return None
    start = len(before) + len(middle) - len(middle.lstrip())
    # a folder of its own, so that no task is another's neighbour
    folder = re.sub(r"[^\w.-]", "_", name)
    file = SourceFile(f"{folder}/task{_ENDINGS[language]}", language, text)
    return Hole(file, "span", ((start, start + len(body)),))


def filled(hole: Hole, record: Record) -> str:
    """The document with the proposal of record in it."""
    start, end = (hole.spans[0][0] + shift for shift in record.replaced)
    return hole.text[:start] + record.proposal + hole.text[end:]


def can_run(language: str) -> bool:
    """Whether this machine can run programs in a language."""
    needed = {"python": (), "java": ("javac", "java"), "cpp": ("g++",)}[language]
    return all(shutil.which(tool) for tool in needed)


def check(task: Task, record: Record, limits: Limits) -> str:
    """Run the program that a proposal makes: "passed", or why not."""
    if not record.proposal:
        return "declined"
    program = filled(task.hole, record)
    if record.judgement.is_exact or _squeezed(program) == _squeezed(task.hole.file.text):
        # the solution itself, which its authors have run
        return "passed"
    if task.is_exact_only:
        return "different"
    language = task.hole.file.language
    if not can_run(language):
        return "not-run"
    with tempfile.TemporaryDirectory(prefix="lacuna-run-") as name:
        folder = Path(name)
        command, problem = _prepared(folder, language, program + task.ending)
        if problem:
            return problem
        if not task.tests:
            return run_limited(command, folder, limits).kind
        for test in task.tests:
            outcome = run_limited(command, folder, limits, stdin=test.given)
            if not outcome.is_passed:
                return outcome.kind
            if not any(outcome.output.split() == wanted.split() for wanted in test.wanted):
                return "wrong-answer"
    return "passed"


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _prepared(folder: Path, language: str, program: str) -> tuple[list[str], str]:
    """The command that runs a program, after compiling it where that is needed; or what is wrong with it."""
    if language == "python":
        (folder / "main.py").write_text(program, encoding="utf-8")
        return [sys.executable, "-I", "main.py"], ""
    outcome: Outcome
    if language == "cpp":
        (folder / "main.cpp").write_text(program, encoding="utf-8")
        outcome = run_limited(["g++", "-std=c++17", "-O1", "-o", "main", "main.cpp"], folder, COMPILE_LIMITS)
        command = [str(folder / "main")]
    else:
        match = re.search(r"public\s+(?:final\s+)?class\s+(\w+)", program)
        name = match[1] if match else "Main"
        (folder / f"{name}.java").write_text(program, encoding="utf-8")
        outcome = run_limited(["javac", f"{name}.java"], folder, COMPILE_LIMITS)
        command = ["java", "-cp", ".", name]
    return command, "" if outcome.is_passed else "does-not-compile"


def check_all(
    tasks: Sequence[Task],
    records: Sequence[Record],
    limits: Limits,
    progress: Progress,
) -> Json:
    """pass@1 of one subject, with the outcomes by reason. What cannot be run here is left out of it."""
    by_hole = {task.hole.id: task for task in tasks}
    outcomes: Counter[str] = Counter()
    for done, record in enumerate(records, 1):
        task = by_hole[record.hole]
        own = Limits(limits.seconds, 0 if task.hole.file.language == "java" else limits.memory_mib)
        outcomes[check(task, record, own)] += 1
        progress(done)
    num_run = sum(outcomes.values()) - outcomes["not-run"]
    return {
        "num_tasks": sum(outcomes.values()),
        "num_passed": outcomes["passed"],
        "pass_at_1": outcomes["passed"] / num_run if num_run else None,
        "outcomes": dict(outcomes.most_common()),
    }
