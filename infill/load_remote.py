"""From a server's address to a LocalInfiller: which model it serves decides in which layout that is asked.

A model that was trained as Lacuna's own is asked in the embedded layout, a published DiffusionGemma in its own turns:
by tokens where its tokenizer is on this machine, else by text. Looks for nothing on any other network.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..engine.errors import EngineError, LacunaError, VocabularyError
from ..engine.modelfile import EMBEDDED
from ..engine.remote import RemoteEngine, UnreachableError
from .chat import CharTokenizer
from .context import gatherer_for
from .infiller import LocalInfiller
from .load import load_tokenizer, policy_for
from .pose import CHARS_PER_TOKEN
from .privacy import PathRules
from .request import Cancelled, GapFill, GapsRequest, GapsResult, InfillRequest, InfillResult
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PROBE = "def add(first, second):\n    return first + second  # 1234\n"
"""Text on which a server's tokenizer is compared with ours."""

UNREACHABLE = "unreachable"
"""Why there is nothing: the server has not answered yet."""


def load_remote(url: str, model: str = "", *, asked_for: str = "", timeout_s: float = 5.0) -> LocalInfiller:
    """model: folder, or name in the Hugging Face cache, that holds the tokenizer.json of the model that is served;
    empty: it is looked for by the name that the server tells. asked_for: the model to ask the server for.

    A server that does not answer yet may do so later. Raises: EngineError for an address that must not be used and a
    server that refuses, VocabularyError for a tokenizer that is not its model's.
    """
    infiller = RemoteInfiller(RemoteEngine(url, model=asked_for, timeout_s=timeout_s), url, model)
    try:
        infiller.settle()
    except UnreachableError as error:
        logger.warning("%s It is asked again with the next request.", error)
    except BaseException:
        infiller.close()
        raise
    return infiller


class RemoteInfiller(LocalInfiller):
    """LocalInfiller over a server, in the layout of what that serves: known once it has answered, so until then
    nothing is filled."""

    def __init__(self, engine: RemoteEngine, url: str, model: str) -> None:
        """model: as in load_remote. Asks nothing."""
        super().__init__(engine, CharTokenizer(), is_excluded=PathRules().is_excluded)
        self._remote = engine
        self._url = url
        self._model = model
        self._is_settled = False

    def settle(self, cancelled: Cancelled | None = None) -> None:
        """Choose the tokenizer, and with it the layout, by what the server says. Raises: as load_remote, and
        UnreachableError when it does not answer."""
        tokenizer = self._given(cancelled) if self._model else self._found(cancelled)
        is_text = isinstance(tokenizer, CharTokenizer)
        self._remote.use_vocabulary(tokenizer.vocab_size, tokenizer.end_ids, is_text=is_text)
        self.tokenizer = tokenizer
        self.policy = policy_for(tokenizer, is_remote=True)
        # where code points stand for tokens, one is one
        self._gather = gatherer_for(self.policy.limits, self.is_excluded, 1 if is_text else CHARS_PER_TOKEN)
        self._is_settled = True

    def prefetch(self, request: InfillRequest, cancelled: Cancelled | None = None) -> None:
        if self._is_usable(cancelled):
            super().prefetch(request, cancelled)

    def fill(self, request: InfillRequest, cancelled: Cancelled | None = None) -> InfillResult:
        if self._is_usable(cancelled):
            return super().fill(request, cancelled)
        return InfillResult(declined=UNREACHABLE, is_cancelled=_is_over(cancelled))

    def fill_gaps(self, request: GapsRequest, cancelled: Cancelled | None = None) -> GapsResult:
        if self._is_usable(cancelled):
            return super().fill_gaps(request, cancelled)
        fills = tuple(GapFill(gap, None, UNREACHABLE) for gap in request.gaps)
        return GapsResult(fills, is_cancelled=_is_over(cancelled))

    def _is_usable(self, cancelled: Cancelled | None) -> bool:
        """Whether the layout is known, having asked for it if there is hope. The engine's status says why not."""
        if self._is_settled or self._remote.is_left_alone:
            return self._is_settled
        try:
            self.settle(cancelled)
        except EngineError as error:
            # the engine remembers it, and says it in its status
            logger.debug("%s", error)
        except LacunaError as error:
            # looked at again later: another model may be served then
            self._remote.complain(str(error))
        return self._is_settled

    def _given(self, cancelled: Cancelled | None) -> Tokenizer:
        source = _source(self._model)
        if source is None:
            raise VocabularyError(
                f"There is no tokenizer.json of {self._model}, neither as a folder nor in the Hugging Face cache. Name "
                "a folder that holds one, or leave engine.model empty to ask the server by text."
            )
        tokenizer = load_tokenizer(source)
        if self._remote.agrees_on(PROBE, tokenizer.encode(PROBE), cancelled) is False:
            raise VocabularyError(
                f"The server {self._url} has another tokenizer than {self._model}. Set engine.model to a folder with "
                "the tokenizer.json of the model that it serves, or leave it empty to ask by text."
            )
        return tokenizer

    def _found(self, cancelled: Cancelled | None) -> Tokenizer:
        """The embedded tokenizer where the server has it, the one of the model that it names, or code points."""
        embedded = load_tokenizer(EMBEDDED)
        if self._remote.agrees_on(PROBE, embedded.encode(PROBE), cancelled):
            return embedded
        source = _source(self._remote.model)
        if source is not None:
            tokenizer = load_tokenizer(source)
            if self._remote.agrees_on(PROBE, tokenizer.encode(PROBE), cancelled) is not False:
                return tokenizer
        logger.warning("The tokenizer of %s is not on this machine; the server is asked by text.", self._remote.model)
        return CharTokenizer()


def _is_over(cancelled: Cancelled | None) -> bool:
    return cancelled is not None and cancelled()


def _source(name: str) -> Path | None:
    """Where a tokenizer is: a folder or packed file, or a snapshot in the Hugging Face cache."""
    path = Path(name).expanduser()
    if path.is_file() or (path / "tokenizer.json").is_file():
        return path
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
    except ValueError:
        # no name of a repository
        return None
    return Path(cached).parent if isinstance(cached, str) else None
