"""Engine values as msgpack frames: what travels between two Lacuna processes of one user, and into a recorded session.

A frame is a 4-byte big-endian length and one msgpack object. Lengths are limited before anything is allocated, and what
comes out is checked: a frame is data of another process, never code. Knows no socket's address and no engine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import msgpack

from .problem import Canvas, CanvasProblem, CanvasResult, EngineStatus, Timings

MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")

Value = dict[str, Any]


class FrameError(ValueError):
    """A frame that is too long, is not msgpack, or does not hold what it should."""


def pack(value: Any) -> bytes:
    """One frame. Raises: FrameError when it is too long."""
    body = msgpack.packb(value)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def read_frame(read: Callable[[int], bytes]) -> Value | None:
    """The next frame; None at the end. read(n) returns n bytes, or fewer at the end. Raises: FrameError."""
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    body = read(length)
    if len(body) < length:
        return None
    try:
        value = msgpack.unpackb(body, max_ext_len=0)
    except Exception as error:
        raise FrameError(f"a frame is not msgpack ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise FrameError("a frame holds no object")
    return cast(Value, value)


def problem_value(problem: CanvasProblem) -> Value:
    """A problem as plain data."""
    return {**_shallow(problem), "canvases": [_shallow(canvas) for canvas in problem.canvases]}


def problem_from(value: Any) -> CanvasProblem:
    """The problem in plain data. Raises: FrameError."""
    try:
        given = dict(value)
        given["canvases"] = tuple(
            Canvas(_ints(c["tokens"]), tuple(bool(p) for p in c["pinned"])) for c in given["canvases"]
        )
        given |= {name: _ints(given[name]) for name in ("prompt", "banned", "stop")}
        given["opening"] = tuple(tuple((int(t), int(state)) for t, state in choices) for choices in given["opening"])
        return CanvasProblem(**given)
    except (TypeError, ValueError, KeyError) as error:
        raise FrameError(f"this is no canvas problem ({error})") from error


def result_value(result: CanvasResult) -> Value:
    """A result as plain data."""
    return {**_shallow(result), "timings": _shallow(result.timings)}


def result_from(value: Any) -> CanvasResult:
    """The result in plain data. Raises: FrameError."""
    try:
        given = dict(value)
        given |= {"tokens": _ints(given["tokens"]), "timings": timings_from(given["timings"])}
        given |= {name: tuple(float(x) for x in given[name]) for name in ("entropy", "logprob")}
        return CanvasResult(**given)
    except (TypeError, ValueError, KeyError) as error:
        raise FrameError(f"this is no canvas result ({error})") from error


def timings_from(value: Any) -> Timings:
    """The timings in plain data. Raises: FrameError."""
    try:
        return Timings(**dict(value))
    except (TypeError, ValueError) as error:
        raise FrameError(f"these are no timings ({error})") from error


def status_from(value: Any) -> EngineStatus:
    """The status in plain data. Raises: FrameError."""
    try:
        return EngineStatus(**dict(value))
    except (TypeError, ValueError) as error:
        raise FrameError(f"this is no status ({error})") from error


def _shallow(value: CanvasProblem | CanvasResult | Canvas | Timings) -> Value:
    """Fields by name. dataclasses.asdict copies every token by itself, which takes 2 ms for an ordinary problem."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _ints(values: Any) -> tuple[int, ...]:
    if not all(isinstance(value, int) for value in values):
        raise ValueError("a token id is not a whole number")
    return tuple(values)
