"""How many CPU threads the engine takes: it shares the machine with an editor, a browser and a test run.

Knows nothing of models. Two threads on two busy cores were measured up to ten times slower than one, because every
product waits for the thread that was put aside.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

MAX_THREADS = 4
"""More do not help products of a few dozen rows."""

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may use. Outside of containers there is no limit at this place."""


def leave_a_core() -> int:
    """Use one core less than there are, between 1 and MAX_THREADS; what OMP_NUM_THREADS says counts more.

    Returns the number of threads in use.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, min(MAX_THREADS, num_cores() - 1)))
    return torch.get_num_threads()


def parts_of_a_prompt() -> int:
    """How many threads may encode a long prompt, a part each (wavefront.py): two where torch keeps to one of several
    cores. They hardly wait for each other, so that a core that others want costs little; where torch has more threads
    it shares every product among them, and parts would be too many.
    """
    is_free = not os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() == 1
    return min(2, num_cores()) if is_free else 1


def num_cores() -> int:
    """The cores that this process may use, or as many as its container may use at a time; at least 1."""
    # not every system can tell which cores this process may use
    affinity = getattr(os, "sched_getaffinity", None)
    seen = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(seen, _quota(CGROUPS)))


def _quota(cgroups: Path) -> int:
    """How many cores' time a container is given (`docker run --cpus`); many where there is no limit. It sees all cores
    of the machine, and with a thread for each of them it would stand still for most of the time.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text(encoding="ascii") for name in names).split()
            return sys.maxsize if quota in ("max", "-1") else int(quota) // int(period)
        except (OSError, ValueError, ZeroDivisionError):
            # another version of cgroups, or another system
            continue
    return sys.maxsize
