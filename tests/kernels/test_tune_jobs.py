"""Every operation that `tune` measures runs with the tile it is given, and the first candidate is the truth of the
others.
"""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels import tiles, tune

TINY = tune.TuneShape(
    hidden=64, expert_size=32, num_experts=4, top_k=2, dense_size=48, vocab=130, heads=(2, 1), head_size=32, cached=40
)


# random int4 codes make activations that no real model has: exp overflows to the infinity that the formula wants
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_every_job_runs_with_its_tile(device: str):
    where = torch.device(device)
    base = tiles.table_for("", (0, 0))
    table = {operation: [dict(tile) for tile in entries] for operation, entries in base.items()}
    seen: set[str] = set()
    for job in tune._jobs(table, TINY, where):
        # one size of each operation: the tiles themselves are tested elsewhere
        if job.operation in seen:
            continue
        seen.add(job.operation)
        first = job.run(job.tile)
        assert bool(torch.isfinite(first).all())
        assert tune._agree(job.run(tune.candidates(job.operation, job.tile)[1]), first)
        assert not tune._agree(first + first.abs().mean(), first)
    assert seen == {"gate_up.int4", "down.int4", "vocab", "attention", "linear.wide"}
