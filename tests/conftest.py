"""What every test gets: a home of its own, no network for models, and skips that say their reason."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts what runs behind it (make test &) with Ctrl-C ignored, and every child inherits that; the tests are
    # about programs that somebody started in a terminal
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tracked(repository: Path) -> list[str]:
    """Every file that git tracks and that is still there, relative to the root. Links are not files."""
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: what is tracked is unknown")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=repository, check=True, capture_output=True, text=True)
    paths = [(name, repository / name) for name in done.stdout.split("\0") if name]
    return [name for name, path in paths if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="session")
def small_tokenizer():
    """A tokenizer of the embedded model's kind with 800 tokens, learnt from a few files of the standard library."""
    from lacuna_ls.infill.tokenizer import Tokenizer
    from lacuna_ls.training import sources
    from lacuna_ls.training.tokenizer import train_tokenizer

    texts = [raw.decode() for name, raw in sources.standard_library().read() if name.startswith("json/")]
    return Tokenizer(train_tokenizer(texts, 800))


@pytest.fixture(autouse=True, scope="session")
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory):
    """No test reads or writes the developer's caches, settings or sockets, nor does a process that a test starts."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        # but pyright's own download is not worth doing again
        if "PYRIGHT_PYTHON_CACHE_DIR" not in os.environ:
            own = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            patch.setenv("PYRIGHT_PYTHON_CACHE_DIR", own)
        for kind in ("CACHE", "CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
        runtime = home / "run"
        runtime.mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        for name in [name for name in os.environ if name.startswith("LACUNA_")]:
            patch.delenv(name)
        # a test that would download a model must fail, not wait
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """In tests of tensors, fresh memory holds NaN, so that a row which nobody wrote cannot pass for a zero."""
    if request.path.parent.name not in ("engine", "kernels"):
        return
    import torch

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapper(*args: object, **kwargs: object) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16) and not tensor.is_meta:
                with torch.no_grad():
                    tensor.fill_(float("nan"))
            return tensor

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are collected everywhere, and skipped aloud where there is no CUDA device."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    # only now: most runs of a few tests need no torch
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
