"""One causal forward by several threads: a part of the rows each, every layer waiting for the part before it.

What a row of a causal forward needs of the rows before it is their keys and values, layer by layer. So the parts run
one behind the other, and a thread waits for another once a layer; threads that share every product wait at each of
them, and on cores that others want that was measured to take up to ten times as long as one thread alone.
Knows threads, and nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor


class PartFailedError(Exception):
    """The part ahead has failed; its own error is the one to show."""


class Front:
    """How far one part has come. A layer is reached when its keys and values, and all before them, can be read."""

    def __init__(self, num_layers: int) -> None:
        self._reached = [threading.Event() for _ in range(num_layers)]
        self._has_failed = False

    def reach(self, layer: int) -> None:
        self._reached[layer].set()

    def wait(self, layer: int) -> None:
        """Until the layer is reached. Raises: PartFailedError."""
        self._reached[layer].wait()
        if self._has_failed:
            raise PartFailedError

    def fail(self) -> None:
        self._has_failed = True
        for event in self._reached:
            event.set()


Run = Callable[[int, Front | None, Front], Tensor]
"""(part, front of the part ahead or None, own front) -> what the part computed."""


def in_parts(num_parts: int, num_layers: int, run: Run) -> list[Tensor]:
    """Run every part in a thread of its own, the last in the caller's. Raises: what the first part to fail raised."""
    fronts = [Front(num_layers) for _ in range(num_parts)]
    results: dict[int, Tensor] = {}
    errors: list[BaseException] = []
    is_inference, is_recording = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def work(part: int) -> None:
        try:
            # these settings are each thread's own
            with torch.inference_mode(is_inference), torch.set_grad_enabled(is_recording):
                results[part] = run(part, fronts[part - 1] if part else None, fronts[part])
        except BaseException as error:
            errors.append(error)
            fronts[part].fail()

    threads = [threading.Thread(target=work, args=(part,), name=f"part {part}") for part in range(num_parts - 1)]
    for thread in threads:
        thread.start()
    work(num_parts - 1)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[part] for part in range(num_parts)]
