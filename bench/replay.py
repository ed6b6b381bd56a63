"""Replayed typing: somebody writes a file key by key, and a server proposes at every key, as in an editor.

The ghost follows VS Code's rules: typing along a proposal keeps the rest of it, typing something else takes it away,
and a new answer replaces what is shown. A text that changes although the user typed along it is a flicker. The typist
knows what will be written, and accepts a ghost when all of it is right and long enough to be worth a key. Knows no
metric of quality beyond that; every request, answer and cancellation is counted.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Literal, cast

from .baselines import neighbours_of
from .client import LspClient, Reply, position_at
from .edits import Edit, Writing, edits_between, keys_of
from .errors import ServerError
from .holes import Progress
from .metrics import mean, percentile
from .results import Json
from .snapshot import Snapshot, SourceFile
from .subject import Conditions, ServerSubject, read_items

Pace = Literal["fast", "human"]

MIN_ACCEPTED_CHARS = 3
READ_MS = 350.0
"""How long a person looks at a proposal before accepting it (human pace only)."""
_MEDIAN_KEY_MS, _KEY_SPREAD = 150.0, 0.45
_PAUSE_MS = {" ": 60.0, "\n": 500.0}


@dataclass(slots=True)
class ReplayStats:
    """What happened.

    num_keys_wanted: what the text takes without proposals. num_keys_pressed: accepting a proposal is one key.
    num_typed_along: keys typed while a ghost stood there that agreed with the key; num_hits: of those, answers that
    kept or extended the ghost; num_flickers: answers that changed it. num_replaced counts ghosts typed over.
    """

    num_keys_wanted: int = 0
    num_keys_pressed: int = 0
    num_requests: int = 0
    num_answers: int = 0
    num_cancelled: int = 0
    num_late: int = 0
    num_shown: int = 0
    num_accepted: int = 0
    num_accepted_chars: int = 0
    num_typed_along: int = 0
    num_hits: int = 0
    num_flickers: int = 0
    num_replaced: int = 0
    num_errors: int = 0
    answer_ms: list[float] = field(default_factory=list[float])
    along_ms: list[float] = field(default_factory=list[float])
    cancel_lag_p95_ms: float | None = None
    """From a cancel to the end of the work, as the server tells it."""
    seconds: float = 0.0

    @property
    def keystrokes_saved(self) -> float:
        """Share of the keys that need not be pressed."""
        return 1 - self.num_keys_pressed / self.num_keys_wanted if self.num_keys_wanted else math.nan

    def summary(self) -> Json:
        """The counts and rates, as plain data for results and tables."""
        plain = {key: value for key, value in asdict(self).items() if not isinstance(value, list)}
        return {
            **plain,
            "keystrokes_saved": self.keystrokes_saved,
            "hit_rate": self.num_hits / self.num_typed_along if self.num_typed_along else None,
            "accept_rate": self.num_accepted / self.num_shown if self.num_shown else None,
            "cancelled_rate": self.num_cancelled / self.num_requests if self.num_requests else None,
            "p50_ms": percentile(self.answer_ms, 50),
            "p95_ms": percentile(self.answer_ms, 95),
            "along_p50_ms": percentile(self.along_ms, 50),
            "along_p95_ms": percentile(self.along_ms, 95),
            "mean_ms": mean(self.answer_ms),
        }


def human_pauses(keys: Sequence[str], seed: int) -> Iterator[float]:
    """Milliseconds before each key: log-normal around 150 ms, longer after a word and a line. Made up, but fixed."""
    rng = Random(f"pauses/{seed}")
    last = ""
    for key in keys:
        pause = _MEDIAN_KEY_MS * math.exp(rng.gauss(0.0, _KEY_SPREAD))
        yield pause + _PAUSE_MS.get(last[:1], 0.0) * rng.random() * 2
        last = key


class Typist:
    """One person, one document, one server."""

    def __init__(self, client: LspClient, uri: str, conditions: Conditions, *, accepts: bool = True) -> None:
        self.stats = ReplayStats()
        self._client = client
        self._uri = uri
        self._conditions = conditions
        self._accepts = accepts
        self._ghost = ""
        self._pending: tuple[int, asyncio.Future[Reply]] | None = None
        self._is_along = False

    async def write(self, edit: Edit, pace: Pace, seed: int = 0, max_keys: int = 1 << 30) -> bool:
        """Type one edit; whether all of it was typed when num_keys_wanted came to max_keys.

        fast: the next key comes with the answer; human: when a person would press it.
        """
        client, stats = self._client, self.stats
        cursor = edit.start
        self._ghost = ""
        if edit.num_deleted:
            client.change(self._uri, cursor, cursor + edit.num_deleted, "")
        keys = keys_of(edit.text)
        pauses = human_pauses(keys, seed)
        end = edit.start + len(edit.text)
        while cursor < end and stats.num_keys_wanted < max_keys:
            await self._wait(next(pauses, _MEDIAN_KEY_MS) if pace == "human" else None, edit, cursor)
            left = edit.text[cursor - edit.start :]
            if self._worth_accepting(left):
                if pace == "human":
                    await asyncio.sleep(READ_MS / 1000)
                cursor = self._accept(cursor)
                rest = keys_of(edit.text[cursor - edit.start :])
                stats.num_keys_wanted += len(keys) - len(rest)
                keys = rest
            else:
                key = keys.pop(0)
                self._press(cursor, key)
                stats.num_keys_wanted += 1
                cursor += len(key)
            self._ask(cursor)
        await self._wait(None, edit, cursor)
        self._ghost = ""
        return cursor == end

    def _worth_accepting(self, left: str) -> bool:
        ghost = self._ghost
        return self._accepts and len(ghost.strip()) >= MIN_ACCEPTED_CHARS and left.startswith(ghost)

    def _accept(self, cursor: int) -> int:
        stats, ghost = self.stats, self._ghost
        self._client.change(self._uri, cursor, cursor, ghost)
        stats.num_keys_pressed += 1
        stats.num_accepted += 1
        stats.num_accepted_chars += len(ghost)
        self._ghost, self._is_along = "", False
        return cursor + len(ghost)

    def _press(self, cursor: int, key: str) -> None:
        self._client.change(self._uri, cursor, cursor, key)
        self.stats.num_keys_pressed += 1
        if self._ghost.startswith(key) and len(self._ghost) > len(key):
            self._ghost, self._is_along = self._ghost[len(key) :], True
            self.stats.num_typed_along += 1
        else:
            self.stats.num_replaced += bool(self._ghost) and not self._ghost.startswith(key)
            self._ghost, self._is_along = "", False

    def _ask(self, cursor: int) -> None:
        """VS Code takes the old request back before it asks again."""
        if self._pending is not None:
            self._client.cancel(self._pending[0])
            self.stats.num_cancelled += 1
        position = position_at(self._client.text_of(self._uri), cursor)
        self.stats.num_requests += 1
        self._pending = self._client.begin_inline_completion(
            self._uri, position, is_explicit=self._conditions.is_explicit
        )

    async def _wait(self, pause_ms: float | None, edit: Edit, cursor: int) -> None:
        """Until the next key: as long as a person pauses, or (None) until the answer is there."""
        begun = perf_counter()
        if self._pending is not None:
            ident, future = self._pending
            timeout_s = self._conditions.timeout_s if pause_ms is None else pause_ms / 1000
            await asyncio.wait([future], timeout=timeout_s)
            if future.done():
                self._pending = None
                self._show(future.result(), cursor)
            elif pause_ms is None:
                message = f"The server did not answer within {timeout_s:g} s (request {ident})."
                raise ServerError(message + self._client.last_words())
            else:
                self.stats.num_late += 1
        if pause_ms is not None:
            await asyncio.sleep(max(0.0, pause_ms / 1000 - (perf_counter() - begun)))

    def _show(self, reply: Reply, cursor: int) -> None:
        stats = self.stats
        stats.num_answers += 1
        if reply.error:
            stats.num_errors += 1
            return
        stats.answer_ms.append(reply.elapsed_ms)
        if self._is_along:
            stats.along_ms.append(reply.elapsed_ms)
        if reply.is_cancelled or reply.result is None:
            # superseded: an editor keeps what it shows
            return
        items = [
            item for item in read_items(reply.result, self._client.text_of(self._uri), cursor) if item.start <= cursor
        ]
        typed = self._client.text_of(self._uri)[items[0].start : cursor] if items else ""
        fresh = items[0].text[len(typed) :] if items and items[0].text.startswith(typed) else ""
        if self._is_along and self._ghost:
            if fresh.startswith(self._ghost):
                stats.num_hits += 1
            else:
                stats.num_flickers += 1
        if fresh and fresh != self._ghost and not self._is_along:
            stats.num_shown += 1
        self._ghost, self._is_along = fresh, False


async def replay(
    command: Sequence[str],
    writings: Sequence[Writing],
    conditions: Conditions,
    *,
    pace: Pace = "fast",
    accepts: bool = True,
    seed: int = 0,
    max_keys: int = 2000,
    snapshot: Snapshot | None = None,
    progress: Progress = lambda done: None,
) -> tuple[ReplayStats, Json]:
    """Have one server watch files being written, one after the other, until max_keys keys are done.

    snapshot: whose files are the neighbours that stay open, conditions.num_neighbours of them, as in run.run_server;
    one that is still to be written is there as it is before. progress is told the number of keys so far.
    Returns the counts, and what is to be said of the server. Raises: ServerError where it ends or stays silent.
    """
    total = ReplayStats()
    texts = {writing.path: writing.old for writing in writings}
    with tempfile.TemporaryDirectory(prefix="lacuna-replay-") as folder:
        root = Path(folder).resolve()
        subject = ServerSubject(command, conditions, root)
        async with subject.running():
            begun = perf_counter()
            for writing in writings:
                if total.num_keys_wanted >= max_keys:
                    break
                assert subject.client is not None
                uri = (root / writing.path).as_uri()
                if snapshot is not None:
                    this = SourceFile(writing.path, writing.language, writing.old)
                    others = neighbours_of(snapshot, this, conditions.num_neighbours)
                    found = {(root / each.path).as_uri(): each for each in others}
                    subject.show_neighbours(
                        {uri: (each.language, texts.get(each.path, each.text)) for uri, each in found.items()}
                    )
                subject.open(uri, writing.language, writing.old)
                typist = Typist(subject.client, uri, conditions, accepts=accepts)
                typist.stats = total
                for number, edit in enumerate(edits_between(writing.old, writing.new)):
                    if not await typist.write(edit, pace, seed + number, max_keys):
                        break
                    progress(total.num_keys_wanted)
                subject.close(uri)
                texts[writing.path] = writing.new
            if subject.client is not None:
                total.cancel_lag_p95_ms = await _cancel_lag(subject.client)
            total.seconds = perf_counter() - begun
    return total, subject.about


async def _cancel_lag(client: LspClient) -> float | None:
    """What the server says of its own cancelling; None where it says nothing, as others do."""
    told = (await client.request("lacuna/metrics", {})).result
    lag: object = cast(Json, told).get("cancelLagP95Ms") if isinstance(told, dict) else None
    return float(lag) if isinstance(lag, int | float) else None
