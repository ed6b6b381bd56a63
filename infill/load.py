"""From a model's place on disk to a LocalInfiller. The only module here that names an implementation of Engine.

The engine is imported inside the function: importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.config import ModelConfig
from ..engine.errors import ConfigError, VocabularyError
from ..engine.modelfile import CALIBRATION_KEY, CONFIG_KEY, EMBEDDED, loads, read_metadata, read_text, read_tokenizer
from ..engine.problem import Engine, Loadable
from .calibration import Calibration
from .chat import CharTokenizer, ChatTokenizer, tokenizer_of
from .infiller import LocalInfiller
from .pose import Policy
from .privacy import PathRules
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..engine.formats import Progress


def load_infiller(
    model: str | None = None,
    device: str = "auto",
    *,
    is_excluded: Callable[[str], bool] | None = None,
    policy: Policy | None = None,
    kv_tokens: int | None = None,
    cap_bytes: int | None = None,
    idle_minutes: float = 0.0,
    adapter: Path | None = None,
    is_lazy: bool = False,
    progress: Progress | None = None,
    make_engine: Callable[[Callable[[], Engine]], Engine] | None = None,
) -> LocalInfiller:
    """Load a model with its tokenizer and its calibration.

    model: a model folder, a packed .safetensors file, or the name of one in the Hugging Face cache; None or "" for the
    embedded one. device: "cpu" or "cuda"; "auto" is a GPU for a model of the user's own where there is one, else the
    CPU. is_excluded: paths that nothing is proposed in; None: the built-in deny-list. kv_tokens, cap_bytes: KV budget
    and limit of device memory of a packed model (engine/plan.py). idle_minutes: after so many without a request the
    memory is given back; 0: never. adapter: what engine/adapter_file.py found for this model; merged into the weights.
    is_lazy: the weights of a model folder, which may be 18 GB, are loaded by the first fill; a single file, as the
    embedded model is, is there in an instant and is loaded here. progress: told (bytes done, bytes in all, tensor)
    while a quantised model, or one for a GPU, is loaded by this process. make_engine: given the function that makes the
    engine of this process, returns the engine to use, which may call it or not.
    Returns once the model is loaded, here or in another process; at once with is_lazy and a folder. Raises: LacunaError
    of the right kind, with a message for the user.
    """
    source = _find(model) if model else EMBEDDED
    tokenizer = load_tokenizer(source)
    num_ids = _num_ids(source)
    if tokenizer.vocab_size > num_ids:
        raise VocabularyError(
            f"the tokenizer of {source} has {tokenizer.vocab_size} tokens but the model knows {num_ids}; "
            "copy the tokenizer.json that the model was trained with"
        )
    tokenizer.ban_unused(num_ids)
    calibration = load_calibration(source)

    def load() -> Engine:
        # imported only where the model is hosted: a window that attaches to another's needs no torch
        from ..engine.adapter import load_adapter
        from ..engine.checkpoint import load_config
        from ..engine.life import ManagedEngine
        from ..engine.packed_engine import load_engine
        from ..engine.plan import KV_TOKENS
        from ..engine.threads import leave_a_core

        def told(done: int, total: int, tensor: str) -> None:
            managed.told_progress(done, total)
            if progress is not None:
                progress(done, total, tensor)

        def load_model(kv_tokens: int) -> Engine:
            leave_a_core()
            adapted = load_adapter(adapter, load_config(source)) if adapter else None
            return load_engine(source if model else None, device, kv_tokens, cap_bytes, told, adapted)

        name = source.name if model else "embedded"
        managed = ManagedEngine(load_model, kv_tokens or KV_TOKENS, name, idle_minutes)
        return managed

    engine = load() if make_engine is None else make_engine(load)
    if isinstance(engine, Loadable) and not (is_lazy and source.is_dir()):
        try:
            engine.load()
        except BaseException:
            engine.close()
            raise
    is_excluded = is_excluded or PathRules().is_excluded
    policy = policy or policy_for(tokenizer)
    return LocalInfiller(engine, tokenizer, calibration=calibration, policy=policy, is_excluded=is_excluded)


def policy_for(tokenizer: Tokenizer, *, is_remote: bool = False) -> Policy:
    """How a model of this kind is asked. is_remote: a server's, which knows no openings (healing.py) and no scores."""
    policy = Policy(use_drafts=True, use_needs=True, use_definitions=True)
    if is_remote:
        policy = replace(policy, decoding="verify", use_healing=False, use_scores=False)
    if not isinstance(tokenizer, ChatTokenizer):
        return policy
    # the released sampler; what stands elsewhere helps a model of this size
    policy = replace(policy, decoding="denoise", max_steps=48, use_healing=False, use_neighbours=True)
    policy = replace(policy, limits=tokenizer.limits, num_rows_block=128)
    if isinstance(tokenizer, CharTokenizer):
        # rows are characters, the marks of a code block among them; without tokens there are no lengths to pin
        policy = replace(policy, candidate_lengths=(), num_rows_line=400, num_rows_block=2400)
    return policy


def _find(model: str) -> Path:
    from ..engine.find import find_model

    return find_model(model)


def _num_ids(source: Path) -> int:
    """How many token ids a model knows. Raises: ModelNotFoundError, ConfigError, CheckpointError."""
    # not engine/checkpoint.py's way, which needs torch
    if source.is_dir():
        return ModelConfig.load(source / "config.json").vocab_size
    text = read_metadata(source).get(CONFIG_KEY)
    if text is None:
        raise ConfigError(f"{source} carries no config; it was not written by `lacuna export`")
    try:
        return ModelConfig.from_dict(loads(text), source=str(source)).vocab_size
    except ValueError as error:
        raise ConfigError(f"{source}: the config in its header is not valid JSON ({error}); copy it again") from None


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer of a model folder or packed file. Raises: ModelNotFoundError, VocabularyError."""
    text = read_tokenizer(source)
    try:
        return tokenizer_of(text)
    except Exception as error:
        # the tokenizers library raises plain Exception for a broken file
        raise VocabularyError(
            f"the tokenizer of {source} cannot be used ({error}); it must be the one this kind of model is trained with"
        ) from error


def load_calibration(source: Path) -> Calibration:
    """The calibration of a model; the identity where it has none. Raises: VocabularyError for a broken table."""
    try:
        if source.is_dir():
            path = source / "calibration.json"
            text = read_text(path) if path.exists() else ""
        else:
            text = read_metadata(source).get(CALIBRATION_KEY, "")
        return Calibration.from_json(loads(text)) if text else Calibration()
    except (OSError, ValueError) as error:
        message = f"the calibration table of {source} is broken ({error}); export the model again"
        raise VocabularyError(message) from error
