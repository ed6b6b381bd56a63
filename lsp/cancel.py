"""A flag that one thread sets and another polls. Knows nothing of what is cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class CancelToken:
    """Set once; polled by the engine thread after every step. Calling it says whether it was set."""

    __slots__ = ("_callbacks", "cancelled_at")

    def __init__(self) -> None:
        self.cancelled_at: float | None = None
        """time.monotonic seconds, once it is set."""
        self._callbacks: list[Callable[[], None]] = []

    def __call__(self) -> bool:
        return self.cancelled_at is not None

    def cancel(self) -> None:
        """Set the flag. Call it, and on_cancel, from the event loop only."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
            for callback in self._callbacks:
                callback()
            self._callbacks.clear()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Run callback when the flag is set, or now when it is set already."""
        if self():
            callback()
        else:
            self._callbacks.append(callback)

    def waiter(self) -> asyncio.Future[None]:
        """A future of the running loop that is done when the flag is set: for asyncio.wait beside other things."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_cancel(lambda: None if woken.done() else woken.set_result(None))
        return woken
