"""Everything that can go wrong in the world, as one tree.

Each message says what happened and what to do about it. Misuse by our own code is a ValueError instead, and expected
outcomes (cancelled, declined, out of time) are values, never exceptions.
"""


def shown(value: object) -> str:
    """A value as a message quotes it: what a damaged file holds may be very long."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class LacunaError(Exception):
    """Root of the tree. The message is written for the user: what happened, and what to do.

    LacunaError
    ├── ModelError                 something about a checkpoint on disk
    │   ├── ModelNotFoundError     no such folder or file, or nothing loadable in it
    │   ├── ConfigError            config.json has a value this engine does not support
    │   ├── CheckpointError        a tensor is missing, extra, misshaped, NaN or truncated; names tensor and file
    │   └── VocabularyError        tokenizer and model do not belong together
    ├── DeviceError                the device is missing, lost, or out of memory
    └── EngineError                the engine failed while working, or was closed
    """


class ModelError(LacunaError):
    """Something is wrong with a model on disk."""


class ModelNotFoundError(ModelError):
    """There is no model where we looked."""


class ConfigError(ModelError):
    """config.json asks for something this engine does not implement."""


class CheckpointError(ModelError):
    """A tensor is missing, extra, misshaped, not finite, or its file is truncated."""


class VocabularyError(ModelError):
    """Tokenizer and model do not belong together."""


class DeviceError(LacunaError):
    """The device is missing, lost, or out of memory."""


class EngineError(LacunaError):
    """The engine failed while working, or was used after it was closed."""
