"""Which documents are read and proposed in, by the options of this client; and their text without likely secrets.

The rules themselves are infill/privacy.py's; this remembers their verdicts for a moment, because they look at the disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from ..infill.privacy import PathRules, redact
from .documents import WINDOW_CHARS, Document, clean
from .options import Options

VERDICT_S = 3.0
"""How long a verdict holds: an ignore file that changes counts after this at the latest."""

KEY_CHARS = 10_000
"""No block of a private key is longer than this."""


class Privacy:
    """Verdicts and redacted texts. Event loop only."""

    def __init__(self) -> None:
        self._roots: tuple[str, ...] = ()
        self._rules = lru_cache(maxsize=32)(self._make_rules)
        self._verdicts: dict[tuple[str, bool, tuple[str, ...]], tuple[float, bool]] = {}
        self._redacted: dict[str, tuple[int, str]] = {}

    def set_roots(self, roots: Sequence[str]) -> None:
        """The folders of the workspace: ignore files count inside them."""
        self._roots = tuple(roots)
        self._rules.cache_clear()
        self._verdicts.clear()

    def may_read(self, document: Document, options: Options) -> bool:
        """Whether the document may be context for another one."""
        return not self._is_excluded(_path_of(document), options, for_reading=True)

    def may_propose(self, document: Document, options: Options) -> bool:
        """Whether proposals may be made in the document."""
        return not self._is_excluded(_path_of(document), options, for_reading=False)

    def text(self, document: Document, options: Options) -> str:
        """The document's text as context: without lone surrogates and, unless switched off, without likely secrets.

        Of a long document, what stands around its last change: this holds up the event loop.
        """
        if not options.privacy.redact_secrets:
            return clean(_window(document))
        known = self._redacted.get(document.uri)
        if known is None or known[0] != document.revision:
            known = self._redacted[document.uri] = (document.revision, redact(clean(_window(document))))
        return known[1]

    def forget(self, uri: str) -> None:
        """The document was closed."""
        self._redacted.pop(uri, None)

    def _make_rules(self, ignore_files: bool, extra: tuple[str, ...]) -> PathRules:
        return PathRules(self._roots, extra, is_everywhere=True) if ignore_files else PathRules((), extra)

    def _is_excluded(self, path: str, options: Options, *, for_reading: bool) -> bool:
        extra = options.privacy.deny if for_reading else (*options.privacy.deny, *options.disable.paths)
        rules = self._rules(options.privacy.ignore_files, extra)
        key = (path, options.privacy.ignore_files, extra)
        now = time.monotonic()
        known = self._verdicts.get(key)
        if known is None or now - known[0] > VERDICT_S:
            if len(self._verdicts) > 1000:
                self._verdicts.clear()
            known = self._verdicts[key] = (now, rules.is_excluded(path))
        return known[1]


def _path_of(document: Document) -> str:
    """The path that the rules are asked about. Where there is no file, the one in the URI: `fugitive:///p/.git//0/.env`
    shows as much as the file does."""
    if document.path:
        return document.path
    try:
        path = urlsplit(document.uri).path
    except ValueError:
        # what follows is no host
        path = document.uri
    # a bare name, as in `untitled:Untitled-1`, lies in no folder, and surely not in that of this process
    return "/" + unquote(path).lstrip("/")


def _window(document: Document) -> str:
    """The text; of a long document a piece around the last change, or the top."""
    text = document.text
    if len(text) <= WINDOW_CHARS:
        return text
    cursor = document.last_cursor()
    offset = document.offset_at(cursor) if cursor is not None else 0
    high = min(len(text), max(0, offset - WINDOW_CHARS // 2) + WINDOW_CHARS)
    low = high - WINDOW_CHARS
    # a secret that is cut is not recognised: begin and end with a whole line, and begin outside of a key's block
    low = (text.find("\n", low - 1, low + KEY_CHARS) + 1 or low) if low else 0
    high = (text.rfind("\n", high - KEY_CHARS, high) + 1 or high) if high < len(text) else high
    begin = text.rfind("-----BEGIN", max(0, low - KEY_CHARS), low)
    if begin >= 0 and text.find("-----END", begin, low) < 0:
        low = begin
    return text[low:high]
