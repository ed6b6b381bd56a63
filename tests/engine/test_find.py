"""Where a model is looked for: never on the network, and a download only after a yes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.errors
import pytest
import tiny_models as tiny
from lacuna_ls.engine.errors import CheckpointError, LacunaError, ModelError, ModelNotFoundError
from lacuna_ls.engine.find import RELEASED, ask_size, find_model, pull, pull_main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a network that fails the test when it is touched."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))

    def touched(*_: object, **__: object) -> object:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", touched)
    return folder


def fill_cache(cache: Path, name: str) -> Path:
    root = cache / ("models--" + name.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    return tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), root / "snapshots" / "abc")


def test_a_path_wins(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    fill_cache(cache, "org/model")
    assert find_model("org/model") == Path("org/model")


def test_the_hugging_face_cache_is_next(cache: Path):
    folder = fill_cache(cache, RELEASED)
    assert find_model(RELEASED) == folder
    assert find_model("diffusiongemma") == folder


def test_an_interrupted_download_is_not_a_model(cache: Path):
    next(fill_cache(cache, RELEASED).glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=f"incomplete.*lacuna pull {RELEASED}"):
        find_model(RELEASED)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        pytest.param("org/model", "run `lacuna pull org/model`", id="a name that is not in the cache"),
        pytest.param("/no/such/folder", "does not exist", id="a path"),
        pytest.param("runs/my--model", "does not exist", id="a path that looks like a name"),
        pytest.param("~nosuchuser/model", "does not exist", id="a path of nobody"),
        pytest.param("a" * 300, "does not exist", id="a path that is too long"),
        pytest.param("../models/x", "does not exist", id="a relative path with two parts is no name"),
        pytest.param("word", "does not exist", id="one word"),
        pytest.param("a/b/c", "does not exist", id="a longer path"),
    ],
)
def test_what_is_not_found_says_where_to_look(cache: Path, name: str, advice: str):
    with pytest.raises(ModelNotFoundError, match=advice):
        find_model(name)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A Hugging Face that offers one repository and notes what is fetched."""
    seen: dict[str, object] = {"fetched": None}
    files = [("model.safetensors", 5_000), ("config.json", 10), ("pytorch_model.bin", 5_000), ("tokenizer.json", 20)]
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files]

    def info(*_: object, **__: object) -> object:
        if "error" in seen:
            raise seen["error"]  # type: ignore[misc]
        return SimpleNamespace(siblings=seen.get("siblings", siblings))

    def fetch(name: str, allow_patterns: list[str]) -> str:
        seen["fetched"] = allow_patterns
        return str(cache / "snapshot")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return seen


def test_pull_asks_with_the_size_and_fetches_no_pickle(hub: dict[str, object], cache: Path):
    asked = []
    folder = pull("org/model", lambda download, where: asked.append((download.num_bytes, where)) or True)
    assert asked == [(5_030, cache)]
    assert folder == cache / "snapshot"
    assert sorted(hub["fetched"]) == ["config.json", "model.safetensors", "tokenizer.json"]  # type: ignore[call-overload]


def test_a_drive_that_is_not_there_is_said(hub: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    # as on Windows, where even the top of a path may be missing
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with pytest.raises(ModelError, match="there is no /, where "):
        pull("org/model", lambda *_: True)


def test_no_means_no(hub: dict[str, object]):
    assert pull("org/model", lambda *_: False) is None
    assert hub["fetched"] is None


def test_what_is_cached_is_not_counted(hub: dict[str, object], cache: Path):
    fill_cache(cache, "org/model")
    download = ask_size("org/model")
    assert (download.num_bytes, download.num_cached) == (5_020, 1)


def test_a_full_disk_is_found_before_the_download(hub: dict[str, object]):
    hub["siblings"] = [SimpleNamespace(rfilename="model.safetensors", size=10**18)]
    with pytest.raises(ModelError, match="do not fit on the disk"):
        pull("org/model", lambda *_: True)
    assert hub["fetched"] is None


def test_a_repository_without_safetensors_is_refused(hub: dict[str, object]):
    hub["siblings"] = [SimpleNamespace(rfilename="pytorch_model.bin", size=1)]
    with pytest.raises(ModelNotFoundError, match="no safetensors"):
        pull("org/model", lambda *_: True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(
            huggingface_hub.errors.OfflineModeIsEnabled("off"), "cannot be fetched offline", id="HF_HUB_OFFLINE"
        ),
        pytest.param(ConnectionError("refused"), "check the connection", id="no network"),
    ],
)
def test_network_errors_become_sentences(hub: dict[str, object], error: Exception, message: str):
    hub["error"] = error
    with pytest.raises(ModelError, match=message):
        pull("org/model", lambda *_: True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_command(hub: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(LacunaError, match="--yes"):
        pull_main(["org/model"])
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert pull_main(["org/model"]) == 1
    assert hub["fetched"] is None
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert pull_main(["org/model"]) == 0
    assert hub["fetched"] is not None
    seen = capsys.readouterr()
    assert "3 files, 0.0 GB" in seen.err
    assert seen.out == ""
