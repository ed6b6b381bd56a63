"""The server's model is the workspace's adapted one, unless an option or the adapter itself says otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from lacuna_ls.infill.request import InfillRequest
from lacuna_ls.lsp.loading import load_infiller
from lacuna_ls.lsp.options import EngineOptions, Options

TEXT = "if __name__ == "


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose adapter mixes up the table of words."""
    import torch
    from lacuna_ls.engine.adapter import Adapter, save_adapter
    from lacuna_ls.engine.adapter_file import adapter_file, fingerprint
    from lacuna_ls.engine.checkpoint import load_config
    from lacuna_ls.engine.modelfile import EMBEDDED

    config = load_config(EMBEDDED)
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(config.vocab_size, 2, generator=generator)
    down = 0.1 * torch.randn(2, config.hidden_size, generator=generator)
    adapter = Adapter(fingerprint(EMBEDDED), {"embed_tokens.weight": (up, down)})
    save_adapter(adapter, adapter_file(tmp_path))
    return tmp_path


def answer(options: Options, roots: list[str]) -> tuple[str, float] | None:
    infiller = load_infiller(options, roots)
    request = InfillRequest(TEXT, len(TEXT), len(TEXT), "python", is_explicit=True)
    try:
        found = infiller.fill(request).proposals
    finally:
        infiller.close()
    return (found[0].text, found[0].confidence) if found else None


def test_a_workspace_is_served_by_its_own_model(workspace: Path) -> None:
    local = Options(engine=EngineOptions(kind="local"))
    base = answer(local, [])
    assert base is not None
    assert answer(local, [str(workspace / "src")]) != base
    assert answer(Options(engine=EngineOptions(kind="local", adapter=False)), [str(workspace)]) == base
    assert answer(local, [str(workspace.parent / "another")]) == base


def test_windows_of_other_workspaces_do_not_share_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lacuna_ls.engine import shared

    keys = []

    class NotedError(Exception):
        pass

    def note(load, key, folder):
        keys.append(key)
        raise NotedError

    monkeypatch.setattr(shared, "SharedEngine", note)
    if not shared.is_supported():
        pytest.skip("this system shares no engine")
    for roots in ([str(workspace)], [str(workspace)], []):
        with pytest.raises(NotedError):
            load_infiller(Options(), roots)
    assert keys[0] == keys[1] != keys[2]


def test_an_adapter_of_other_weights_is_told_of_and_left_out(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    from lacuna_ls.engine.adapter import read_adapter, save_adapter
    from lacuna_ls.engine.adapter_file import adapter_file

    path = adapter_file(workspace)
    save_adapter(replace(read_adapter(path), base="0" * 64), path)
    local = Options(engine=EngineOptions(kind="local"))
    with caplog.at_level(logging.WARNING):
        assert answer(local, [str(workspace)]) == answer(local, [])
    assert "other weights than those of the embedded model; run `lacuna adapt` again" in caplog.text
