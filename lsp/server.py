"""The language server: life cycle, documents, configuration, status. What is proposed is completion.py's business.

`create_server` puts the parts together around a function that loads an infiller, the only thing a test replaces.
Importing this module loads no torch; the model is loaded by the engine thread once the client is initialized. Longer
than other files because `create_server` names every method that the server knows, in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import PurePath
from typing import Any, cast

from lsprotocol import types
from pygls.protocol import default_converter

from ..infill.request import Infiller
from . import protocol as names
from .actions import CodeActions
from .completion import InlineCompletions, insert_text_mode
from .documents import Document, Documents, path_of
from .next_edit import NextEdits
from .options import Options, for_language, read_options
from .positions import as_encoding
from .privacy import Privacy
from .rpc import LacunaProtocol, RpcServer
from .scheduler import LOADING, EngineState, EngineThread, Scheduler
from .status import StatusBoard
from .workspace import WorkspaceFiles

logger = logging.getLogger(__name__)

LoadInfiller = Callable[[Options, Sequence[str], Callable[[int, int, str], None]], Infiller]
"""(options, folders of the workspace, what is told how far the loading of a model is: EngineThread.told_progress)"""

COPILOT_NEXT_EDIT = "textDocument/copilotInlineEdit"
PROGRESS_TOKEN = "lacuna/load"
STOP_TIMEOUT_S = 2.0
METRICS_INTERVAL_S = 60.0
STATUS_WAIT_S = 0.25
CONFIGURATION_WAIT_S = 5.0
"""What begins without the client's settings after so long takes them when they come."""
MAX_SHOWN, MAX_CHARS = 5, 500
"""So many messages about settings pop up at once, and so much is shown of each."""
COMPLETION_ID = "lacuna-completion"
COMPLETION_TRIGGERS = (".", "(", " ")

NOTEBOOK_SYNC = types.NotebookDocumentSyncOptions(
    notebook_selector=[types.NotebookDocumentFilterWithNotebook(notebook="*")], save=False
)


def package_version_text() -> str:
    """The installed version, or "unknown" in a tree that is not installed."""
    try:
        return package_version("lacuna-ls")
    except PackageNotFoundError:
        return "unknown"


def is_inside(path: str, folder: str, kind: type[PurePath] = PurePath) -> bool:
    """Whether a path is a folder's, or the folder; by the rules of this system, or of the kind given."""
    return bool(path and folder) and kind(path).is_relative_to(kind(folder))


class LacunaServer(RpcServer):
    """One client's server. Everything here runs on the event loop unless it says otherwise."""

    def __init__(self, load_infiller: LoadInfiller) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            names.SERVER_NAME,
            package_version_text(),
            types.TextDocumentSyncKind.Incremental,
            NOTEBOOK_SYNC,
            protocol_cls=LacunaProtocol,
            converter_factory=default_converter,
        )
        self.documents = Documents()
        self.options = Options()
        self._initial_options = Options()
        self._folder_settings: dict[str, Any] = {}
        """What the client gave for each folder last."""
        self._folder_options: dict[str, Options] = {}
        self._num_pulls = 0
        self._last_pull = 0
        """The latest of them that was answered."""
        self._pending_messages: list[str] = []
        self._shown_messages: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_engine_started = False
        self._offers_completion = False
        self._load_news: asyncio.Queue[EngineState] | None = None
        """What is told of the load that is under way."""
        self._num_loads = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.status_board = StatusBoard(self._publish_status)
        self.engine = EngineThread(
            lambda: load_infiller(self.options, self.roots(), self.engine.told_progress),
            self._on_engine_state,
            self._on_engine_crash,
        )
        self.scheduler = Scheduler(self.engine)
        self.privacy = Privacy()
        self.completions = InlineCompletions(self)
        self.actions = CodeActions(self)
        self.next_edits = NextEdits(self)
        self.files = WorkspaceFiles(self)

    # life cycle

    def on_initialize(self, params: types.InitializeParams) -> None:
        """Read the options; load nothing, so that the answer goes out at once."""
        self._loop = asyncio.get_running_loop()
        self.documents.encoding = as_encoding(self.workspace.position_encoding)
        # also for a client that never says `initialized`
        self.privacy.set_roots(self.roots())
        self._initial_options, messages = read_options(params.initialization_options)
        self.options = self._initial_options
        self._pending_messages += messages
        self.completions.insert_text_mode = insert_text_mode(params)
        text = params.capabilities.text_document
        if self.options.features.completion_fallback and (text is None or text.inline_completion is None):
            self.handle_completion()
        client = params.client_info
        # Emacs' version is two lines
        name = " ".join(f"{client.name} {client.version or ''}".split()) if client else "a client without a name"
        logger.info("%s connected, positions in %s.", name, self.documents.encoding)

    def handle_completion(self) -> None:
        """Answer the ordinary completion list, for a client without inline completion whose user wants it."""
        self._offers_completion = True

        @self.feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=COMPLETION_TRIGGERS))
        async def completion(params: types.CompletionParams) -> types.CompletionList:
            return await self.completions.as_completion(params)

    def offer_completion(self) -> None:
        """The same once the client is at work: it is told by a registration, or the user what to do where it cannot."""
        text = self.client_capabilities.text_document
        is_wanted = any(each.features.completion_fallback for each in (self.options, *self._folder_options.values()))
        if not is_wanted or self._offers_completion or (text is not None and text.inline_completion is not None):
            return
        if text is None or text.completion is None or not text.completion.dynamic_registration:
            self.show(
                "lacuna.features.completionFallback has to be in the initialization options for this editor: it "
                "cannot be told later what there is to ask for."
            )
            return
        self.handle_completion()
        options = types.CompletionRegistrationOptions(trigger_characters=COMPLETION_TRIGGERS)
        registration = types.Registration(COMPLETION_ID, types.TEXT_DOCUMENT_COMPLETION, options)
        self.spawn(self.client_register_capability_async(types.RegistrationParams([registration])))

    async def on_initialized(self) -> None:
        """Ask for the configuration, then start loading the model with it."""
        await self.pull_configuration()
        self.start_engine()
        await self.files.begin()

    def start_engine(self) -> None:
        """Start the engine thread, once. A client that never says `initialized` starts it with its first document."""
        if not self._is_engine_started:
            self._is_engine_started = True
            self._report_options([])
            self.completions.on_options()
            self.engine.start()
            self.spawn(self._flush_metrics())

    def stop_engine(self) -> bool:
        """Keep the counts and end the engine thread; whether it ended in time."""
        self.completions.metrics.flush()
        return not self._is_engine_started or self.engine.stop(STOP_TIMEOUT_S)

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine on its own and log what goes wrong in it."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("A background task failed.", exc_info=error)

        task.add_done_callback(done)
        return task

    async def _flush_metrics(self) -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL_S)
            await asyncio.to_thread(self.completions.metrics.flush)

    def _note_load(self, state: EngineState) -> None:
        """Show a load from its first state to the next of another kind."""
        if state.state == "loading" and self._load_news is None:
            self._load_news = asyncio.Queue()
            self._num_loads += 1
            # a token is used once
            number = "" if self._num_loads == 1 else f"/{self._num_loads}"
            self.spawn(self._show_progress(f"{PROGRESS_TOKEN}{number}", self._load_news))
        if self._load_news is not None:
            self._load_news.put_nowait(state)
            if state.state != "loading":
                self._load_news = None

    async def _show_progress(self, token: str, news: asyncio.Queue[EngineState]) -> None:
        window = self.client_capabilities.window
        if window is None or not window.work_done_progress:
            return
        try:
            progress: Any = self.work_done_progress
            await asyncio.wait_for(progress.create_async(token), 5.0)
        except Exception:
            # a client that refuses the token gets no progress, and that is all
            logger.debug("no progress for this client", exc_info=True)
            return
        # clients show parts only where a part is begun with; a model of the user's own may be large enough to have some
        first = 0 if self.options.engine.model and not self.options.engine.is_remote else None
        begin = types.WorkDoneProgressBegin(title="Lacuna", message=LOADING, cancellable=False, percentage=first)
        self.work_done_progress.begin(token, begin)
        while (state := await news.get()).state == "loading":
            if state.percent is not None:
                part = types.WorkDoneProgressReport(message=LOADING, percentage=state.percent)
                self.work_done_progress.report(token, part)
        self.work_done_progress.end(token, types.WorkDoneProgressEnd(message=state.detail))

    # engine callbacks, from the engine thread

    def _on_engine_state(self, state: EngineState) -> None:
        self._from_thread(lambda: self._set_engine_state(state))

    def _on_engine_crash(self, message: str) -> None:
        self._from_thread(lambda: self.show(message, types.MessageType.Error))

    def _from_thread(self, call: Callable[[], None]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            logger.debug("the event loop has ended before the engine thread")

    def _set_engine_state(self, state: EngineState) -> None:
        self.status_board.set_engine(state)
        self._note_load(state)
        if state.state == "failed":
            self.show(state.detail, types.MessageType.Error)
        if state.is_new:
            self.files.on_ready()
        elif state.state == "ready":
            self.files.update()

    # messages and status

    def show(self, message: str, kind: types.MessageType = types.MessageType.Warning) -> None:
        """Tell the user, once per message."""
        if message in self._shown_messages:
            return
        self._shown_messages.add(message)
        self.window_show_message(types.ShowMessageParams(type=kind, message=message))

    def forget_messages(self) -> None:
        """The user asks for something again: what still goes wrong is told again."""
        self._shown_messages.clear()

    def _publish_status(self, status: names.StatusParams) -> None:
        self.protocol.tell(names.STATUS_CHANGED, status)

    # configuration

    async def pull_configuration(self) -> None:
        """Ask the client for the settings, also folder by folder; a client that cannot be asked keeps what it sent.

        Returns once they are there, or have taken too long: then they count from when they come.
        """
        self.privacy.set_roots(self.roots())
        self.files.update()
        workspace = self.client_capabilities.workspace
        if workspace is None or not workspace.configuration:
            self._report_options([])
            return
        # not wait_for: a client that was asleep, or is starting up, answers late and once
        pull = self.spawn(self._pull())
        await asyncio.wait([pull], timeout=CONFIGURATION_WAIT_S)
        if not pull.done():
            logger.warning("The client has not answered workspace/configuration yet; until then its options stay.")
            self._report_options([])

    async def _pull(self) -> None:
        folders = list(self.workspace.folders)
        items = [types.ConfigurationItem(section="lacuna")]
        items += [types.ConfigurationItem(scope_uri=uri, section="lacuna") for uri in folders]
        self._num_pulls += 1
        number = self._num_pulls
        try:
            answer = await self.workspace_configuration_async(types.ConfigurationParams(items=items))
        except Exception:
            logger.warning("The client did not answer workspace/configuration; its options stay.")
            self._report_options([])
            return
        if number < self._last_pull:
            # it was overtaken by one that was asked later
            return
        self._last_pull = number
        values: list[Any] = list(answer) if answer else []
        own = values[0] if values else None
        self.apply_options(own, dict(zip(folders, values[1:], strict=False)))

    def roots(self) -> list[str]:
        """The folders of the workspace."""
        folders = [path for uri in self.workspace.folders if (path := path_of(uri))]
        return folders or [root for root in [self.workspace.root_path] if root]

    def indexed_roots(self) -> list[str]:
        """The folders whose files may be read in the background."""
        own = {path_of(uri): options for uri, options in self._folder_options.items()}
        return [root for root in self.roots() if own.get(root, self.options).context.workspace]

    def apply_options(self, settings: object, by_folder: dict[str, Any] | None = None) -> None:
        """Put settings over what came with initialize; what was given by folder last stays where nothing new is.

        Null means that the client has none.
        """
        before = self.options
        self.options, messages = read_options(settings, base=self._initial_options)
        if by_folder is not None:
            self._folder_settings = by_folder
        self._folder_options = {}
        for uri, given in self._folder_settings.items():
            options, more = read_options(given, base=self.options, is_workspace=True)
            self._folder_options[uri] = options
            messages += more
        self._report_options(messages)
        self.status_board.set_enabled(self.options.enable)
        self.completions.on_options()
        self.offer_completion()
        self.files.update()
        if self._is_engine_started and before.engine != self.options.engine:
            logger.info("The engine's options changed; the model is loaded again.")
            self.engine.reload()

    def _report_options(self, messages: list[str]) -> None:
        # of a workspace's settings there may be any number, of any length
        found = [message[:MAX_CHARS] for message in (*self._pending_messages, *messages)]
        self._pending_messages.clear()
        for message in found:
            logger.warning("%s", message)
        for message in found[:MAX_SHOWN]:
            self.show(message)
        if len(found) > MAX_SHOWN:
            self.show(f"{len(found) - MAX_SHOWN} more of Lacuna's settings cannot be used; its log names them.")

    def options_for(self, document: Document) -> Options:
        """The options that hold in this document: its folder's, with the overrides of its language."""
        options = self.options
        best = -1
        for uri, given in self._folder_options.items():
            folder = path_of(uri)
            if len(folder) > best and is_inside(document.path, folder):
                options, best = given, len(folder)
        return for_language(options, document.language)

    def forget_opened(self, items: Sequence[types.TextDocumentItem]) -> None:
        """Documents are opened. One that is open already gets another text: what was asked about the old one is off."""
        for item in items:
            if self.documents.get(item.uri) is not None:
                self.forget(item.uri)

    def forget(self, uri: str) -> None:
        """A document, or a cell of a notebook, is gone: nothing is computed for it any more."""
        self.completions.on_close(uri)
        self.actions.on_close(uri)


def create_server(load_infiller: LoadInfiller) -> LacunaServer:
    """A server that will load its infiller with the given function, in the engine thread."""
    server = LacunaServer(load_infiller)

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.on_initialize(params)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        await server.on_initialized()

    @server.feature(types.SHUTDOWN)
    def shutdown(*_: Any) -> None:
        server.completions.on_shutdown()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def did_change_configuration(params: types.DidChangeConfigurationParams) -> None:
        settings: Any = params.settings
        if isinstance(settings, dict) and settings:
            server.apply_options(cast(object, settings))
        else:
            await server.pull_configuration()

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    async def did_change_folders(params: types.DidChangeWorkspaceFoldersParams) -> None:
        await server.pull_configuration()

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenTextDocumentParams) -> None:
        server.start_engine()
        server.forget_opened([params.text_document])
        server.documents.open(params.text_document)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: types.DidChangeTextDocumentParams) -> None:
        document = server.documents.change(
            params.text_document.uri, params.text_document.version, params.content_changes
        )
        if document is not None:
            server.completions.on_change(document)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE, types.SaveOptions(include_text=False))
    def did_save(params: types.DidSaveTextDocumentParams) -> None:
        server.files.on_written([params.text_document.uri])

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def did_change_watched_files(params: types.DidChangeWatchedFilesParams) -> None:
        server.files.on_written([change.uri for change in params.changes])

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: types.DidCloseTextDocumentParams) -> None:
        server.forget(params.text_document.uri)
        server.documents.close(params.text_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def notebook_did_open(params: types.DidOpenNotebookDocumentParams) -> None:
        server.start_engine()
        server.forget_opened(params.cell_text_documents)
        server.documents.open_notebook(params)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def notebook_did_change(params: types.DidChangeNotebookDocumentParams) -> None:
        cells = params.change.cells
        structure = cells.structure if cells is not None else None
        for closed in structure.did_close or () if structure is not None else ():
            server.forget(closed.uri)
        server.forget_opened((structure.did_open or ()) if structure is not None else ())
        for document in server.documents.change_notebook(params):
            server.completions.on_change(document)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def notebook_did_close(params: types.DidCloseNotebookDocumentParams) -> None:
        for cell in params.cell_text_documents:
            server.forget(cell.uri)
        server.documents.close_notebook(params)

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline_completion(params: names.InlineCompletionParams) -> list[types.InlineCompletionItem] | None:
        return await server.completions.answer(params)

    kinds = [names.FILL_HOLE_KIND, names.FILL_ALL_KIND, names.REWRITE_KIND, names.REPAIR_KIND]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(kinds, resolve_provider=True))
    async def code_action(params: types.CodeActionParams) -> list[types.CodeAction]:
        return await server.actions.offer(params)

    @server.feature(types.CODE_ACTION_RESOLVE)
    async def code_action_resolve(action: types.CodeAction) -> types.CodeAction:
        return await server.actions.resolve(action)

    def did_show(params: names.DidShowParams) -> None:
        server.completions.on_show(params)

    def did_partially_accept(params: names.DidPartiallyAcceptParams) -> None:
        server.completions.on_partial_accept(params)

    def did_dismiss(params: names.DidDismissParams) -> None:
        server.completions.on_dismiss(params)

    async def status(params: Any) -> names.StatusParams:
        # who asks wants to know how it is now, not how it was at the last look; but a fill that is under way is not
        # waited for
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(server.engine.look()), STATUS_WAIT_S)
        return server.status_board.current()

    def pause(params: Any) -> names.StatusParams:
        server.completions.on_shutdown()
        server.status_board.set_paused(True)
        return server.status_board.current()

    def resume(params: Any) -> names.StatusParams:
        server.status_board.set_paused(False)
        server.forget_messages()
        server.engine.load()
        return server.status_board.current()

    def unload(params: Any) -> names.StatusParams:
        server.engine.unload()
        return server.status_board.current()

    async def metrics(params: names.MetricsParams) -> names.MetricsResult:
        result = await asyncio.to_thread(server.completions.metrics.result, purge=params.purge)
        lags = sorted(server.engine.cancel_lags_ms)
        result.cancel_lag_p95_ms = round(lags[int(0.95 * (len(lags) - 1))], 2) if lags else None
        return result

    handlers: dict[str, Callable[[Any], Any]] = {
        names.METRICS: metrics,
        names.DID_SHOW: did_show,
        names.DID_PARTIALLY_ACCEPT: did_partially_accept,
        names.DID_DISMISS: did_dismiss,
        names.STATUS: status,
        names.PAUSE: pause,
        names.RESUME: resume,
        names.UNLOAD: unload,
    }
    for method, handler in handlers.items():
        server.feature(method)(handler)
    for alias, method in names.COPILOT_ALIASES.items():
        if method in handlers:
            server.feature(alias)(handlers[method])

    @server.feature(names.NEXT_EDIT)
    async def next_edit(params: names.NextEditParams) -> names.NextEditResult:
        return await server.next_edits.answer(params, is_automatic=False)

    @server.feature(COPILOT_NEXT_EDIT)
    async def copilot_inline_edit(params: names.NextEditParams) -> names.NextEditResult:
        # Copilot's clients ask at every stop of the cursor
        return await server.next_edits.answer(params, is_automatic=True)

    @server.feature(names.PREVIEW_EDIT)
    async def preview_edit(params: names.PreviewEditParams) -> names.PreviewEditResult | None:
        return await server.actions.preview(params)

    @server.command(names.APPLY_EDIT_COMMAND)
    async def apply_edit(*arguments: Any) -> None:
        data, instruction, *_ = *arguments, None, None
        await server.actions.apply(data, instruction)

    @server.command(names.ACCEPT_COMMAND)
    def accept(*arguments: Any) -> None:
        server.completions.on_accept(arguments[0] if arguments and isinstance(arguments[0], str) else "")

    return server
