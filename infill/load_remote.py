"""From a server's address to a LocalInfiller: which model it serves decides in which layout that is asked.

A model that was trained as Lacuna's own is asked in the embedded layout, a published DiffusionGemma in its own turns:
by tokens where its tokenizer is on this machine, else by text. Looks for nothing on any other network.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..engine.errors import VocabularyError
from ..engine.modelfile import EMBEDDED
from ..engine.remote import RemoteEngine
from .chat import CharTokenizer
from .infiller import LocalInfiller
from .load import load_tokenizer, policy_for
from .privacy import PathRules
from .tokenizer import Tokenizer
from .trigger import TriggerRules

logger = logging.getLogger(__name__)

PROBE = "def add(first, second):\n    return first + second  # 1234\n"
"""Text on which a server's tokenizer is compared with ours."""


def load_remote(url: str, model: str = "", *, asked_for: str = "", timeout_s: float = 5.0) -> LocalInfiller:
    """model: folder, or name in the Hugging Face cache, that holds the tokenizer.json of the model that is served;
    empty: it is looked for by the name that the server tells. asked_for: the model to ask the server for.

    Raises: EngineError for a server that cannot be used, VocabularyError for a tokenizer that is not its model's.
    """
    engine = RemoteEngine(url, model=asked_for, timeout_s=timeout_s)
    try:
        tokenizer = _given(engine, url, model) if model else _found(engine)
    except BaseException:
        engine.close()
        raise
    engine.use_vocabulary(tokenizer.vocab_size, tokenizer.end_ids, is_text=isinstance(tokenizer, CharTokenizer))
    rules = TriggerRules(is_excluded=PathRules().is_excluded)
    return LocalInfiller(engine, tokenizer, policy=policy_for(tokenizer, is_remote=True), rules=rules)


def _given(engine: RemoteEngine, url: str, model: str) -> Tokenizer:
    source = _source(model)
    if source is None:
        raise VocabularyError(
            f"There is no tokenizer.json of {model}, neither as a folder nor in the Hugging Face cache. Name a folder "
            "that holds one, or leave engine.model empty to ask the server by text."
        )
    tokenizer = load_tokenizer(source)
    if engine.agrees_on(PROBE, tokenizer.encode(PROBE)) is False:
        raise VocabularyError(
            f"The server {url} has another tokenizer than {model}. Set engine.model to a folder with the "
            "tokenizer.json of the model that it serves, or leave it empty to ask by text."
        )
    return tokenizer


def _found(engine: RemoteEngine) -> Tokenizer:
    """The embedded tokenizer where the server has it, the one of the model that it names, or code points."""
    embedded = load_tokenizer(EMBEDDED)
    if engine.agrees_on(PROBE, embedded.encode(PROBE)):
        return embedded
    source = _source(engine.model)
    if source is not None:
        tokenizer = load_tokenizer(source)
        if engine.agrees_on(PROBE, tokenizer.encode(PROBE)) is not False:
            return tokenizer
    logger.warning("The tokenizer of %s is not on this machine; the server is asked by text.", engine.model)
    return CharTokenizer()


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
