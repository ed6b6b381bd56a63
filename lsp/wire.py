"""The wire: JSON-RPC frames over stdin and stdout, with threads for both so that the event loop never blocks.

stdin and stdout belong to the protocol alone: anything else that reads file descriptor 0 finds its end, and what it
writes to descriptor 1 lands on stderr. Knows frames; knows no method and no document.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 512 * 1024 * 1024
_LENGTH = re.compile(rb"(?i)^content-length\s*:\s*(\d+)\s*$")


def guard_stdin() -> BinaryIO:
    """Keep the real stdin for the wire and point file descriptor 0 at nothing. Returns the real one.

    On Windows this is what lets numpy load: its Fortran library looks at descriptor 0, and a look at a pipe that
    another thread reads from waits until the editor writes again.
    """
    wire = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(wire, os.O_BINARY)
    return os.fdopen(wire, "rb")


def guard_stdout() -> BinaryIO:
    """Keep the real stdout for the wire and point file descriptor 1 at stderr. Returns the real one, unbuffered."""
    sys.stdout.flush()
    wire = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(wire, os.O_BINARY)
    return os.fdopen(wire, "wb", buffering=0)


def read_frame(stream: BinaryIO) -> bytes | None:
    """The body of the next frame, or None at the end of the stream. Lines that are no header are skipped."""
    length = -1
    while True:
        line = stream.readline(65536)
        if not line:
            return None
        if match := _LENGTH.match(line.rstrip(b"\r\n")):
            length = int(match.group(1))
        elif not line.strip() and length >= 0:
            if length > MAX_FRAME_BYTES:
                logger.error("A frame of %d bytes is too long; giving up on this client.", length)
                return None
            body = stream.read(length)
            return body if len(body) == length else None


def write_whole(stream: BinaryIO, data: bytes) -> None:
    """Write all of data to an unbuffered stream. Raises: OSError or ValueError when the reader is gone."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
    stream.flush()


class FrameReader:
    """Reads frames in a thread. on_frame and on_end are called from that thread."""

    def __init__(self, stream: BinaryIO, on_frame: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_frame = on_frame
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="lacuna-reader", daemon=True)

    def start(self) -> None:
        """Begin reading."""
        self._thread.start()

    def _run(self) -> None:
        try:
            while (body := read_frame(self._stream)) is not None:
                self._on_frame(body)
        except (OSError, ValueError):
            logger.debug("stdin is gone", exc_info=True)
        finally:
            try:
                self._on_end()
            except RuntimeError:
                # the event loop has ended first
                logger.debug("nobody waits for the end of stdin")


class FrameWriter:
    """What pygls writes to: queues whole frames, and a thread sends them. A reader that is slow blocks nobody."""

    def __init__(self, stream: BinaryIO, on_broken: Callable[[], None]) -> None:
        self._stream = stream
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lacuna-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue one frame."""
        self._queue.put(data)

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued, waiting no longer than timeout_s."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                write_whole(self._stream, data)
            except (OSError, ValueError):
                logger.info("The editor has closed the connection.")
                try:
                    self._on_broken()
                except RuntimeError:
                    logger.debug("nobody waits for the writer")
                return
