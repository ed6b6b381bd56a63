"""What the status line shows: one value computed from the engine's state, the options and pauses; sent when it changes.

Knows the engine's states and protocol.py's shapes; starts and stops nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .protocol import StatusKind, StatusParams
from .scheduler import EngineState

LATENCY_INTERVAL_S = 1.0
"""A new latency alone is sent no more often than this."""


class StatusBoard:
    """Collects what is known and publishes the sum of it. Event loop only."""

    def __init__(self, publish: Callable[[StatusParams], None]) -> None:
        self._publish = publish
        self._engine = EngineState("unloaded", "not started yet")
        self._is_enabled = True
        self._is_paused = False
        self._is_filling = False
        self._warning = ""
        self._latency_ms: float | None = None
        self._last: StatusParams | None = None
        self._last_sent = 0.0
        self._is_latency_waiting = False

    @property
    def is_paused(self) -> bool:
        """Whether the user paused proposals."""
        return self._is_paused

    @property
    def engine(self) -> EngineState:
        """The engine's last known state."""
        return self._engine

    def set_engine(self, state: EngineState) -> None:
        """The engine thread reports a new state."""
        self._engine = state
        self._send()

    def set_enabled(self, is_enabled: bool) -> None:
        """The option `enable`."""
        self._is_enabled = is_enabled
        self._send()

    def set_paused(self, is_paused: bool) -> None:
        """lacuna/pause and lacuna/resume."""
        self._is_paused = is_paused
        self._send()

    def set_filling(self, is_filling: bool) -> None:
        """An infill takes long enough to be worth showing."""
        self._is_filling = is_filling
        self._send()

    def set_warning(self, warning: str) -> None:
        """Something that needs attention but stops nothing; empty when it is over."""
        self._warning = warning
        self._send()

    def set_latency(self, latency_ms: float) -> None:
        """Request to answer of an infill that ran the model."""
        self._latency_ms = round(latency_ms, 1)
        wait_s = self._last_sent + LATENCY_INTERVAL_S - time.monotonic()
        if wait_s <= 0:
            self._send()
        elif not self._is_latency_waiting:
            # the last one of a burst must not stay untold
            self._is_latency_waiting = True
            asyncio.get_running_loop().call_later(wait_s, self._send_waiting)

    def _send_waiting(self) -> None:
        self._is_latency_waiting = False
        self._send()

    def current(self) -> StatusParams:
        """The status as it is now."""
        engine = self._engine
        kind, message = StatusKind.Normal, engine.detail or "ready"
        if engine.state == "failed":
            kind = StatusKind.Error
        elif not self._is_enabled:
            kind, message = StatusKind.Inactive, "disabled in the settings (lacuna.enable)"
        elif self._is_paused:
            kind, message = StatusKind.Inactive, "paused"
        elif engine.state in ("unloaded", "closed"):
            kind = StatusKind.Inactive
        elif engine.state == "loading":
            kind = StatusKind.Busy
        elif engine.state == "restarting":
            kind = StatusKind.Warning
        elif self._warning:
            kind, message = StatusKind.Warning, self._warning
        elif self._is_filling:
            kind, message = StatusKind.Busy, "filling"
        return StatusParams(
            kind, message, engine.model or None, engine.device or None, self._latency_ms, is_paused=self._is_paused
        )

    def _send(self) -> None:
        status = self.current()
        if status != self._last:
            self._last, self._last_sent = status, time.monotonic()
            self._publish(status)
