"""Ablations: every row leaves out what it names, and asks the same holes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lacuna_ls.bench.ablate import DIFFUSION, WHOLE, run_variant, variants
from lacuna_ls.bench.holes import cut_holes
from lacuna_ls.bench.results import SubjectResult, compare, summarise
from lacuna_ls.bench.snapshot import read_snapshot
from lacuna_ls.bench.subject import Conditions
from lacuna_ls.bench.tables import ablation_table
from lacuna_ls.engine.problem import NOISE
from lacuna_ls.infill.infiller import LocalInfiller

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from canned_engine import CannedEngine
from infill_cases import BYTE_POLICY, TOKENIZER


def test_every_row_asks_the_same_holes_and_leaves_out_what_it_names(repository_folder: Path):
    snapshot = read_snapshot(repository_folder, ["python"])
    holes = cut_holes(snapshot, ["line", "mid-word", "gaps"], 9, seed=1)
    engine = CannedEngine(TOKENIZER, "(nothing")
    policy = replace(BYTE_POLICY, use_drafts=True)
    infiller = LocalInfiller(engine, TOKENIZER, policy=policy)
    asked: dict[str, list] = {}
    done: list[int] = []
    rows = variants(policy)
    assert rows[0].name == WHOLE
    subjects = [SubjectResult(row.name) for row in rows]
    for row, subject in zip(rows, subjects, strict=True):
        asked[row.name] = engine.problems = []
        run_variant(infiller, row, snapshot, holes, Conditions(num_neighbours=1), subject, done.append)
    assert done == [*range(1, 10)] * len(rows)
    for subject in subjects:
        assert [(r.hole, r.gap) for r in subject.records] == [(r.hole, r.gap) for r in subjects[0].records]
    shown = {subject.name: summarise(subject.records) for subject in subjects}
    # an opening bracket that is never closed
    assert shown["without the syntax gate"].syntax_errors + shown["without the syntax gate"].unbalanced > 0
    assert all(summary.syntax_errors == 0 for name, summary in shown.items() if "syntax" not in name)
    assert {r.source for r in subjects[0].records} >= {"similar"}
    assert {r.source for r in subjects[4].records} <= {"", "model"}
    assert any(problem.opening for problem in asked[WHOLE])
    assert not any(problem.opening for problem in asked["without token healing"])
    assert {problem.decoding for problem in asked[DIFFUSION]} == {"denoise"}
    assert all(canvas.tokens[0] == NOISE for problem in asked[DIFFUSION] for canvas in problem.canvases)
    suffixes = [problem.prompt[1] == TOKENIZER.pre for problem in asked["without suffix"]]
    assert suffixes
    assert all(suffixes)
    assert compare(subjects[0].records, subjects[0].records).num_better == 0
    assert ablation_table(subjects).row_count == len(rows)
