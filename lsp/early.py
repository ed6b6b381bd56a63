"""Fills that begin with the change of a text, before its ghost text is asked for: the answer is ready when it is.

Editors wait after a key before they ask (VS Code 50 ms, Neovim's own client 200), and most fills are done by then. Only
where they have asked before, and where the model is quick: what it would do for each key of a slow one is thrown away
by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from lsprotocol import types

from ..infill.request import Infiller, InfillRequest, InfillResult
from .cancel import CancelToken

Work = Callable[[Infiller, CancelToken], None]


@dataclass(slots=True)
class _Early:
    """One fill ahead. has_begun: it will come to a result, which is None where it was given up."""

    request: InfillRequest
    has_begun: bool = False
    future: Future[InfillResult | None] = field(default_factory=Future[InfillResult | None])


class EarlyFills:
    """The last fill ahead of each document. Event loop only, but for the work that it hands to the engine thread."""

    def __init__(self) -> None:
        self._fills: dict[str, _Early] = {}
        self._formatting: dict[str, types.FormattingOptions | None] = {}
        """Of the documents that ghost text was asked for as a matter of course, what came with the last request."""

    def asked(self, uri: str, formatting: types.FormattingOptions | None) -> None:
        """An editor asks after every key of this document."""
        self._formatting[uri] = formatting

    def is_asked(self, uri: str) -> bool:
        """Whether an answer for this document is likely to be asked for."""
        return uri in self._formatting

    def formatting(self, uri: str) -> types.FormattingOptions | None:
        """What will come with the next request."""
        return self._formatting.get(uri)

    def forget(self, uri: str | None = None) -> None:
        """The text changed, or for every document the options."""
        if uri is None:
            self._fills.clear()
        else:
            self._fills.pop(uri, None)

    def close(self, uri: str) -> None:
        """The document is gone."""
        self.forget(uri)
        self._formatting.pop(uri, None)

    def begin(self, uri: str, request: InfillRequest, deadline_ms: float) -> Work:
        """The work that fills ahead: for the engine thread, after the prompt was read."""
        early = self._fills[uri] = _Early(request)

        def work(infiller: Infiller, cancelled: CancelToken) -> None:
            if cancelled():
                return
            early.has_begun = True
            found: InfillResult | None = None
            try:
                result = infiller.fill(replace(request, deadline_ms=deadline_ms), cancelled)
                found = None if result.is_cancelled else result
            finally:
                early.future.set_result(found)

        return work

    async def answer(
        self, uri: str, request: InfillRequest, token: CancelToken, deadline_s: float
    ) -> InfillResult | None:
        """What was filled ahead for exactly this request, waiting for the rest of it. None: ask the model.

        Also None when token was set meanwhile, or the deadline passed.
        """
        early = self._fills.get(uri)
        if early is None or not early.has_begun or early.request != request:
            return None
        if not early.future.done():
            both = (asyncio.wrap_future(early.future), token.waiter())
            await asyncio.wait(both, timeout=max(0.0, deadline_s), return_when=asyncio.FIRST_COMPLETED)
        return early.future.result() if early.future.done() and not token() else None
