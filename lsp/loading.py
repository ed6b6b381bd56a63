"""From options to an infiller: the only place that decides which engine a server uses. Called in the engine thread.

Knows options and the facade of infill/; knows no protocol.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path

from ..engine.errors import LacunaError, VocabularyError
from ..engine.modelfile import EMBEDDED
from ..engine.problem import Engine
from ..infill.request import Infiller
from .options import Options

logger = logging.getLogger(__name__)

PROBE = "def add(first, second):\n    return first + second  # 1234\n"
"""Text on which a remote server's tokenizer is compared with ours."""

NO_SHARING_VARIABLE = "LACUNA_NO_SHARING"
"""Set to anything: every process loads its own model, as with engine.kind "local"."""


def load_infiller(options: Options) -> Infiller:
    """The infiller that the options ask for. Raises LacunaError with a message for the user."""
    from ..infill.load import load_infiller as load

    engine = options.engine
    return load(
        model=engine.model,
        device=engine.device,
        kv_tokens=engine.kv_tokens,
        cap_bytes=int(engine.vram_cap_gib * 2**30) or None,
        idle_minutes=engine.idle_unload_minutes,
        make_engine=_engine_for(options),
    )


def _remote(options: Options) -> Engine:
    """The remote engine, once it is known that it speaks the tokens of the model that is named here."""
    from ..engine.remote import RemoteEngine
    from ..infill.load import load_tokenizer

    given = options.engine
    tokenizer = load_tokenizer(Path(given.model).expanduser() if given.model else EMBEDDED)
    engine = RemoteEngine(
        given.kind,
        model=given.remote_model,
        timeout_s=given.remote_timeout_ms / 1000,
        num_vocab=tokenizer.vocab_size,
        end_tokens=(tokenizer.eos,),
    )
    if engine.agrees_on(PROBE, tokenizer.encode(PROBE)) is False:
        engine.close()
        raise VocabularyError(
            f"The server {given.kind} has another tokenizer than {given.model or 'the embedded model'}. "
            "Set engine.model to a folder with the tokenizer.json of the model that it serves."
        )
    return engine


def _engine_for(options: Options) -> Callable[[Callable[[], Engine]], Engine] | None:
    """Who makes the engine: None for this process alone."""
    if options.engine.kind.startswith(("http://", "https://")):
        return lambda load: _remote(options)
    if options.engine.kind != "auto" or os.environ.get(NO_SHARING_VARIABLE):
        return None
    from ..engine.shared import SharedEngine, is_supported, private_folder, sharing_key

    if not is_supported():
        return None
    try:
        folder = private_folder()
    except LacunaError as error:
        # no private place for a socket: work without sharing rather than not at all
        logger.warning("%s The model is not shared.", error)
        return None
    try:
        version = package_version("lacuna-ls")
    except PackageNotFoundError:
        version = ""
    model = os.path.abspath(os.path.expanduser(options.engine.model)) if options.engine.model else ""  # noqa: PTH100, PTH111
    key = sharing_key(version, model, options.engine.device)
    return lambda load: SharedEngine(load, key, folder)
