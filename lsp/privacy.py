"""Which documents are read and proposed in, by the options of this client; and their text without likely secrets.

The rules themselves are infill/privacy.py's; this remembers their verdicts for a moment, because they look at the disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from ..infill.privacy import PathRules, redact
from .documents import Document, clean
from .options import Options

VERDICT_S = 3.0
"""How long a verdict holds: an ignore file that changes counts after this at the latest."""


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
        return not self._is_excluded(document.path, options, for_reading=True)

    def may_propose(self, document: Document, options: Options) -> bool:
        """Whether proposals may be made in the document."""
        return not self._is_excluded(document.path, options, for_reading=False)

    def text(self, document: Document, options: Options) -> str:
        """The document's text as context: without lone surrogates and, unless switched off, without likely secrets."""
        if not options.privacy.redact_secrets:
            return clean(document.text)
        known = self._redacted.get(document.uri)
        if known is None or known[0] != document.revision:
            known = self._redacted[document.uri] = (document.revision, redact(clean(document.text)))
        return known[1]

    def forget(self, uri: str) -> None:
        """The document was closed."""
        self._redacted.pop(uri, None)

    def _make_rules(self, ignore_files: bool, extra: tuple[str, ...]) -> PathRules:
        return PathRules(self._roots if ignore_files else (), extra)

    def _is_excluded(self, path: str, options: Options, *, for_reading: bool) -> bool:
        if not path:
            return False
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
