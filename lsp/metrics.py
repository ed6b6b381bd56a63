"""Local counts of what was proposed and what became of it. Nothing here leaves the machine; nothing quotes a document.

Several servers of one user add to one small file in the user's state folder, under a lock. Latencies are kept as counts
per bucket, so that files can be added up and quantiles still be read. Knows no document and no protocol message.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, cast

from .protocol import MetricsResult

logger = logging.getLogger(__name__)

BUCKET_RATIO = 1.15
"""Width of a latency bucket: a quantile is right within this factor."""

KEPT_AFTER_S = 30.0
KEPT_WINDOW_CHARS = 1000
KEPT_TEXT_CHARS = 500

COUNTS = (
    "num_requests",
    "num_shown",
    "num_accepted",
    "num_partly_accepted",
    "num_dismissed",
    "num_chars_shown",
    "num_chars_accepted",
    "num_chars_kept",
)
LOCK_PATIENCE_S = 1.0


def default_file() -> Path:
    """Where the counts are kept."""
    from platformdirs import user_state_path

    return user_state_path("lacuna", appauthor=False) / "metrics.json"


def num_kept(text: str, accepted: str, offset: int) -> int:
    """How many characters of accepted, inserted at offset some time ago, are still in text near there."""
    low = max(0, offset - KEPT_WINDOW_CHARS)
    window = text[low : offset + len(accepted) + KEPT_WINDOW_CHARS]
    if accepted in window:
        return len(accepted)
    # the head of a long text stands for all of it: matching costs the product of the lengths
    head = accepted[:KEPT_TEXT_CHARS]
    blocks = SequenceMatcher(None, head, window, autojunk=False).get_matching_blocks()
    found = sum(block.size for block in blocks if block.size >= 3)
    return round(found * len(accepted) / max(1, len(head)))


class Metrics:
    """What this process counted, added to the file by flush(). Thread-safe. file None: counts are forgotten."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.trouble = ""
        """Why the file could not be read or deleted, the last time that `result` tried; "" where it could."""

    def set_file(self, file: Path | None) -> None:
        """Where to keep the counts from now on."""
        self._file = file

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of COUNTS. Raises: ValueError for another name."""
        if name not in COUNTS:
            raise ValueError(f"there is no count {name!r}")
        with self._lock:
            self._counts[name] += number

    def latency(self, latency_ms: float) -> None:
        """One request that ran the model, from its arrival to its answer."""
        bucket = math.floor(math.log(max(latency_ms, 0.01)) / math.log(BUCKET_RATIO))
        with self._lock:
            self._counts[f"ms{bucket}"] += 1

    def flush(self) -> None:
        """Add what was counted to the file. A file that cannot be written costs a warning and the counts."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts or self._file is None:
            return
        try:
            with _locked(self._file):
                kept = _read(self._file)
                total = Counter(_numbers(kept)) + counts
                since = str(kept.get("since") or datetime.now(UTC).isoformat(timespec="seconds"))
                _write(self._file, {"since": since, **total})
        except OSError as error:
            logger.warning("The metrics in %s cannot be written (%s).", self._file, error.strerror or error)
            self._file = None

    def result(self, *, purge: bool = False) -> MetricsResult:
        """Everything counted so far, by all processes; then delete it if purge is set."""
        self.flush()
        kept: Mapping[str, Any] = {}
        self.trouble = ""
        if self._file is not None:
            done = "deleted" if purge else "read"
            try:
                with _locked(self._file):
                    kept = _read(self._file)
                    if purge:
                        self._file.unlink(missing_ok=True)
            except OSError as error:
                self.trouble = error.strerror or str(error)
                logger.warning("The metrics in %s cannot be %s (%s).", self._file, done, self.trouble)
        numbers = _numbers(kept)
        buckets = sorted((int(name[2:]), n) for name, n in numbers.items() if name.startswith("ms"))
        since = kept.get("since")
        return MetricsResult(
            **{name: numbers.get(name, 0) for name in COUNTS},
            latency_p50_ms=_quantile(buckets, 0.5),
            latency_p95_ms=_quantile(buckets, 0.95),
            since=since if isinstance(since, str) else None,
            file=str(self._file) if self._file is not None else None,
        )


def _quantile(buckets: list[tuple[int, int]], share: float) -> float | None:
    wanted = share * sum(number for _, number in buckets)
    seen = 0
    for bucket, number in buckets:
        seen += number
        if seen >= wanted:
            return round(math.pow(BUCKET_RATIO, bucket + 0.5), 1)
    return None


def _numbers(kept: Mapping[str, Any]) -> dict[str, int]:
    wanted = {name: item for name, item in kept.items() if name in COUNTS or _is_bucket(name)}
    return {name: item for name, item in wanted.items() if type(item) is int and item >= 0}


def _is_bucket(name: str) -> bool:
    # the bounds are far beyond every time, and keep a damaged name out of the power that it is put into
    return re.fullmatch(r"ms-?[0-9]{1,3}", name) is not None


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        # damaged counts are worth nothing: begin anew
        return {}
    return cast(dict[str, Any], kept) if isinstance(kept, dict) else {}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        fresh.write_text(json.dumps(content), encoding="utf-8")
        fresh.replace(file)
    finally:
        # of a disk that is full
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(file: Path) -> Generator[None]:
    """Hold a lock file beside file; a lock that a dead process left is broken after a moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = file.with_suffix(".lock")
    until = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > until:
                lock.unlink(missing_ok=True)
            time.sleep(0.005)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
