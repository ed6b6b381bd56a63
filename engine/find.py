"""Where a model is looked for, and the only way one is ever downloaded.

`find_model` looks at a path, then in the Hugging Face cache, and never at the network. `pull` downloads, after it has
said how much and been told yes. Knows no tensor.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar, cast

from .errors import LacunaError, ModelError, ModelNotFoundError
from .modelfile import PACKED_MANIFEST
from .shards import find_files

T = TypeVar("T")

RELEASED = "google/diffusiongemma-26B-A4B-it"
SHORT_NAMES = {"diffusiongemma": RELEASED}

WANTED_FILES = ("*.safetensors", "*.json", "chat_template.jinja", "LICENSE*", "README.md")
"""No pickle is ever fetched, whatever a repository offers."""

RESERVE_BYTES = 1 << 30
"""Disk that a download must leave free."""


def find_model(name: str) -> Path:
    """The folder or file of a model. name: a path, a Hugging Face name such as org/model, or a short name.

    Raises: ModelNotFoundError saying where was looked, CheckpointError for a download that was interrupted.
    """
    path = expanded(Path(name))
    if _is_there(path):
        return path
    repository = SHORT_NAMES.get(name, name)
    nowhere = f"{path} does not exist; give the folder of a model, or a name such as {RELEASED}"
    if not _is_repository(repository):
        raise ModelNotFoundError(nowhere)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repository, "config.json")
    except HFValidationError:
        # there are more rules for names, and a path that leads nowhere may look like one
        raise ModelNotFoundError(nowhere) from None
    if not isinstance(config, str):
        raise ModelNotFoundError(
            f"{name} is neither a folder here nor in the Hugging Face cache ({cache_folder()}); run `lacuna pull "
            f"{repository}` to download it"
        )
    folder = Path(config).parent
    if not (folder / PACKED_MANIFEST).exists():
        try:
            find_files(folder)
        except ModelError as error:
            raise type(error)(
                f"the download of {repository} is incomplete ({error}); run `lacuna pull {repository}` again"
            ) from None
    return folder


def expanded(path: Path) -> Path:
    """path with its ~ replaced by the user's folder; as it is where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError as error:
        raise ModelNotFoundError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except OSError:
        # longer than any name on this system
        return False


@dataclass(frozen=True, slots=True)
class Download:
    """What a pull would fetch. num_bytes: of files that are not in the cache yet."""

    repository: str
    files: tuple[str, ...]
    num_bytes: int
    num_cached: int


def ask_size(repository: str) -> Download:
    """Look up what a repository holds; this is a network request. Raises: ModelError and ModelNotFoundError."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    info = _online(repository, lambda: HfApi().model_info(repository, files_metadata=True))
    wanted = [file for file in info.siblings or [] if any(fnmatch(file.rfilename, pattern) for pattern in WANTED_FILES)]
    if not any(file.rfilename.endswith(".safetensors") for file in wanted):
        raise ModelNotFoundError(
            f"{repository} holds no safetensors files; only those are ever loaded. Choose another repository"
        )
    missing = [file for file in wanted if not isinstance(try_to_load_from_cache(repository, file.rfilename), str)]
    return Download(
        repository,
        tuple(file.rfilename for file in wanted),
        sum(file.size or 0 for file in missing),
        len(wanted) - len(missing),
    )


def pull(repository: str, is_agreed: Callable[[Download, Path], bool]) -> Path | None:
    """Download a model into the Hugging Face cache. is_agreed: asked once, with the size and the folder, before
    anything is fetched. Progress is huggingface_hub's own bars on stderr; an interrupted download goes on where it
    stopped.

    Returns the folder, or None when the answer was no. Raises: ModelError and its kinds.
    """
    import huggingface_hub

    # its signature is an overload that a checker cannot read to the end
    fetch = cast(Callable[..., str], huggingface_hub.snapshot_download)  # pyright: ignore[reportUnknownMemberType]
    repository = SHORT_NAMES.get(repository, repository)
    if not _is_repository(repository):
        raise ModelNotFoundError(_no_name(repository))
    download = ask_size(repository)
    folder = cache_folder()
    if not is_agreed(download, folder):
        return None
    free = free_bytes(folder)
    if download.num_bytes + RESERVE_BYTES > free:
        raise ModelError(
            f"{download.num_bytes / 1e9:.1f} GB do not fit on the disk of {folder} ({free / 1e9:.1f} GB free); make "
            "room, or set HF_HOME to a larger disk"
        )
    return Path(_online(repository, lambda: fetch(repository, allow_patterns=list(download.files))))


def cache_folder() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def pull_main(argv: list[str]) -> int:
    """`lacuna pull [NAME]`: for lsp/cli.py. Asks on stderr. Returns the exit code; LacunaErrors pass through."""
    parser = argparse.ArgumentParser(
        prog="lacuna pull", description="Download a model into the Hugging Face cache. Asks first."
    )
    parser.add_argument("name", nargs="?", default=RELEASED, metavar="NAME", help=f"default: {RELEASED}")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(argv)

    def is_agreed(download: Download, folder: Path) -> bool:
        what = f"{len(download.files) - download.num_cached} files, {download.num_bytes / 1e9:.1f} GB"
        sys.stderr.write(f"{download.repository}: {what} to fetch from Hugging Face into {folder}\n")
        if options.yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            raise LacunaError("nobody is here to agree to the download; add --yes")
        sys.stderr.write("Download now? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    folder = pull(options.name, is_agreed)
    if folder is None:
        sys.stderr.write("lacuna: nothing was downloaded\n")
        return 1
    sys.stderr.write(f"lacuna: {folder} is ready. `lacuna quantize {options.name} DIR` makes it load faster\n")
    return 0


def _online(repository: str, request: Callable[[], T]) -> T:
    """Run a request, with the library's errors turned into ours."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return request()
    except HFValidationError:
        raise ModelNotFoundError(_no_name(repository)) from None
    except GatedRepoError:
        raise ModelError(
            f"{repository} asks you to accept its terms: do so on its page, then run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"{repository} does not exist on Hugging Face, or is private; check the name, or run `hf auth login`"
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise ModelError(
            f"{repository} cannot be fetched offline; unset HF_HUB_OFFLINE, or copy the model here from another machine"
        ) from None
    except Exception as error:
        # the library's transport changes its name between versions, and not all of its errors are OSErrors
        if not isinstance(error, OSError) and not type(error).__module__.startswith(
            ("httpx", "httpcore", "requests", "huggingface_hub")
        ):
            raise
        raise ModelError(
            f"{repository} could not be fetched ({type(error).__name__}: {error}); check the connection and run it "
            "again"
        ) from None


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _no_name(repository: str) -> str:
    return f"{repository!r} is not a Hugging Face name; write it as org/model, for example {RELEASED}"


def free_bytes(folder: Path) -> int:
    """Free on the disk of a folder, which need not exist yet. Raises: ModelError where there is no such disk."""
    found = existing(folder)
    if found is None:
        raise ModelError(f"there is no {folder.anchor}, where {folder} should lie; choose another folder")
    return shutil.disk_usage(found).free


def existing(folder: Path) -> Path | None:
    """The folder, or the nearest one above it that exists; None on a drive of Windows that is not there."""
    # what cannot be looked at, as in another user's home, is not there for us; Path.exists would raise
    return next((each for each in (folder, *folder.parents) if os.path.exists(each)), None)  # noqa: PTH110
