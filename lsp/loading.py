"""From options to an infiller: the only place that decides which engine a server uses. Called in the engine thread.

Knows options and the facade of infill/; knows no protocol.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import LacunaError
from ..engine.problem import Engine
from ..infill.request import Infiller
from .options import Options

if TYPE_CHECKING:
    from ..engine.formats import Progress

logger = logging.getLogger(__name__)

NO_SHARING_VARIABLE = "LACUNA_NO_SHARING"
"""Set to anything: every process loads its own model, as with engine.kind "local"."""


def load_infiller(
    options: Options, roots: Sequence[str] = (), progress: Progress | None = None, *, is_lazy: bool = True
) -> Infiller:
    """The infiller that the options ask for. roots: the workspace's folders, for its adapter. progress: told while this
    process loads a model, now or later. is_lazy: a model folder is loaded by the first request: an editor that is
    opened asks for nothing yet, and 18 GB are missed elsewhere. Raises LacunaError with a message for the user.
    """
    infiller = _load(options, roots, progress, is_lazy=is_lazy)
    # a look for garbage in torch's half a million objects stops every thread for 170 ms, and they all stay
    gc.freeze()
    return infiller


def _load(options: Options, roots: Sequence[str], progress: Progress | None, *, is_lazy: bool) -> Infiller:
    from ..infill.load import load_infiller as load

    engine = options.engine
    if engine.is_remote:
        from ..infill.load_remote import load_remote

        return load_remote(
            engine.kind, engine.model, asked_for=engine.remote_model, timeout_s=engine.remote_timeout_ms / 1000
        )
    adapter = _adapter_of(roots, engine.model) if engine.adapter else None
    return load(
        model=engine.model,
        device=engine.device,
        kv_tokens=engine.kv_tokens,
        cap_bytes=int(engine.vram_cap_gib * 2**30) or None,
        idle_minutes=engine.idle_unload_minutes,
        adapter=adapter,
        is_lazy=is_lazy,
        progress=progress,
        make_engine=_engine_for(options, adapter),
    )


def _adapter_of(roots: Sequence[str], model: str) -> Path | None:
    """The file that `lacuna adapt` made for this workspace and this model."""
    from ..engine.adapter_file import adapter_file, find_adapter

    # most workspaces have none: then the model need not be looked for
    if not any(adapter_file(place).exists() for root in roots for place in (Path(root), *Path(root).parents)):
        return None
    from ..engine.find import find_model
    from ..engine.modelfile import EMBEDDED

    return find_adapter(roots, find_model(model) if model else EMBEDDED)


def _engine_for(options: Options, adapter: Path | None) -> Callable[[Callable[[], Engine]], Engine] | None:
    """Who makes the engine: None for this process alone."""
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
    # windows of workspaces with different adapters have different models
    adapted = hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter else ""
    key = sharing_key(version, model, options.engine.device, adapted)
    return lambda load: SharedEngine(load, key, folder)
