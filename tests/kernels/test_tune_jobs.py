"""Every operation that `tune` measures runs with the tile it is given, and gives its truth; no other answer passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lacuna_ls.kernels import agreement, tiles, tune, vocab_triton

TINY = tune.TuneShape(
    hidden=64, expert_size=32, num_experts=4, num_routed=6, top_k=2, dense_size=48, vocab=130, heads=2,
    kv=((1, 32), (1, 16)), cached=40,
)  # fmt: skip


def jobs() -> list[tune._Job]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = tiles.table_for("", (0, 0))
    table = {operation: [dict(tile) for tile in entries] for operation, entries in base.items()}
    return list(tune._jobs(table, TINY, device))


def test_every_job_runs_with_its_tile():
    seen: set[str] = set()
    for job in jobs():
        # one size of each operation: the tiles themselves are tested elsewhere
        if job.operation in seen:
            continue
        seen.add(job.operation)
        truth = job.truth()
        for tile in tune.candidates(job.operation, job.tile)[:2]:
            answer = job.run(tile, *job.moved)
            error, is_right = agreement.judge(answer, truth)
            assert is_right, (job.operation, tile, error)
            for i, part in enumerate(answer):
                # any part that is wrong is seen, one row of many too
                spoilt = part.clone()
                spoilt[0] = spoilt[0] + 1 if not part.dtype.is_floating_point else spoilt[0] * 1.5
                assert not agreement.judge((*answer[:i], spoilt, *answer[i + 1 :]), truth)[1], (job.operation, i)
    assert seen == set(tiles.shipped()["default"])


def test_attention_is_measured_for_every_kind_of_layer():
    assert [job.rows for job in jobs() if job.operation == "attention"] == [32, 16]


@pytest.mark.parametrize("name", ["argmax", "sample", "top_ids"])
def test_a_wrong_choice_is_not_the_fastest_answer(name: str, monkeypatch: pytest.MonkeyPatch):
    """The numbers may all be right beside it."""
    right = vocab_triton.vocab_stats

    def wrong(*operands, **options):
        got = right(*operands, **options)
        return replace(got, **{name: (getattr(got, name) + 1) % TINY.vocab})

    job = next(job for job in jobs() if job.operation == "vocab")
    assert agreement.judge(job.run(job.tile, *job.moved), job.truth())[1]
    monkeypatch.setattr(vocab_triton, "vocab_stats", wrong)
    assert not agreement.judge(job.run(job.tile, *job.moved), job.truth())[1]
