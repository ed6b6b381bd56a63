"""How many CPU threads the engine takes: it shares the machine with an editor, a browser and a test run.

Knows nothing of models. Two threads on two busy cores were measured up to ten times slower than one, because every
product waits for the thread that was put aside.
"""

from __future__ import annotations

import os

import torch

MAX_THREADS = 4
"""More do not help products of a few dozen rows."""


def leave_a_core() -> int:
    """Use one core less than there are, between 1 and MAX_THREADS; what OMP_NUM_THREADS says counts more.

    Returns the number of threads in use.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, min(MAX_THREADS, _num_cores() - 1)))
    return torch.get_num_threads()


def parts_of_a_prompt() -> int:
    """How many threads may encode a long prompt, a part each (wavefront.py): two where torch keeps to one of several
    cores. They hardly wait for each other, so that a core that others want costs little; where torch has more threads
    it shares every product among them, and parts would be too many.
    """
    is_free = not os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() == 1
    return min(2, _num_cores()) if is_free else 1


def _num_cores() -> int:
    # not every system can tell which cores this process may use
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
