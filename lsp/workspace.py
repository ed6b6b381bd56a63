"""The files of the workspace that are not open: read in the background, and read anew when they are written.

Decides which folders, by which rules, and when the reader has to wait; what is done with the text is infill's business.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from lsprotocol import types

from ..infill.privacy import IGNORE_FILES, PathRules
from ..infill.request import Infiller
from .cancel import CancelToken
from .documents import path_of

if TYPE_CHECKING:
    from .server import LacunaServer

logger = logging.getLogger(__name__)

KEY = "lacuna#workspace"
WATCHER_ID = "lacuna-files"

MAX_CHANGED = 10_000
"""So many written files that are not read yet, and the workspace is read anew instead."""

Wanted = tuple[tuple[str, ...], bool, tuple[str, ...]]
"""Folders, whether their ignore files count, and the user's own patterns."""


class WorkspaceFiles:
    """One per server. Event loop only, but for the work that it hands to the engine thread."""

    def __init__(self, server: LacunaServer) -> None:
        self._server = server
        self._given: Wanted | None = None
        """What the infiller was told last; None: it is new and knows nothing yet."""
        self._changed: deque[str] = deque(maxlen=MAX_CHANGED)
        self._may_read = False

    async def begin(self) -> None:
        """The configuration is known, so that from now on files may be read."""
        self._may_read = True
        self.update()
        await self._watch()

    def on_ready(self) -> None:
        """There is a new infiller."""
        self._given = None
        self.update()

    def update(self) -> None:
        """The options, the folders or the infiller changed: tell the infiller what to read, if that is news to it."""
        wanted = self._wanted()
        is_ready = self._may_read and self._server.status_board.engine.state == "ready"
        if not is_ready or wanted == self._given:
            return
        self._given = wanted
        self._changed.clear()
        roots, has_ignore_files, deny = wanted
        # rules of its own: they remember what they read, and the reader is another thread
        rules = PathRules(roots if has_ignore_files else (), deny)
        is_busy = self._is_busy

        def work(infiller: Infiller, cancelled: CancelToken) -> None:
            infiller.index_workspace(roots, rules.is_excluded, is_busy)

        logger.info("The files of %d folders are read in the background.", len(roots))
        self._server.scheduler.in_background(KEY, work)

    def on_written(self, uris: Iterable[str]) -> None:
        """Files were saved, made, changed or deleted, by whomever."""
        paths = [path for uri in uris if uri.startswith("file:") and (path := path_of(uri))]
        if any(PurePath(path).name in IGNORE_FILES for path in paths) or len(self._changed) + len(paths) > MAX_CHANGED:
            # another rule may hold for every file now
            self.on_ready()
            return
        if not paths or self._given is None:
            return
        self._changed.extend(paths)
        changed = self._changed

        def work(infiller: Infiller, cancelled: CancelToken) -> None:
            infiller.refresh_files([changed.popleft() for _ in range(len(changed))])

        self._server.scheduler.in_background(f"{KEY}/written", work)

    async def _watch(self) -> None:
        """Ask the client to tell of written files. LSP knows no other way to ask than a registration at run time."""
        workspace = self._server.client_capabilities.workspace
        watching = workspace.did_change_watched_files if workspace is not None else None
        if watching is None or not watching.dynamic_registration:
            return
        options = types.DidChangeWatchedFilesRegistrationOptions([types.FileSystemWatcher("**/*")])
        method = types.WORKSPACE_DID_CHANGE_WATCHED_FILES
        registration = types.Registration(WATCHER_ID, method, options)
        try:
            await self._server.client_register_capability_async(types.RegistrationParams([registration]))
        except Exception:
            logger.debug("this client does not tell of written files", exc_info=True)

    def _wanted(self) -> Wanted:
        options = self._server.options
        roots = tuple(self._server.indexed_roots()) if options.enable else ()
        return roots, options.privacy.ignore_files, options.privacy.deny

    def _is_busy(self) -> bool:
        # asked by the reading thread; both are single values
        return self._server.engine.is_busy or self._server.status_board.is_paused
