"""What `lacuna doctor` says of the memory of a GPU, with a GPU that is pretended, and of the workspace's adapter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lacuna_ls.engine.plan import CONTEXT_BYTES, plan_folder
from lacuna_ls.lsp.doctor import _adapter, _folder, findings
from lacuna_ls.lsp.metrics import default_file
from lacuna_ls.lsp.options import EngineOptions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nvidia-smi is pretended by a shell script")


@pytest.fixture
def released(tmp_path):
    """A folder with the released model's config, and nothing else: the plan needs no more."""
    config = Path(__file__).parents[2] / "bench" / "diffusiongemma_26b.json"
    (tmp_path / "config.json").write_text(config.read_text())
    return tmp_path


@pytest.fixture
def process():
    """A function that starts a process with a command line of its own, and gives its id."""
    started = []

    def start(*command):
        sleeping = [sys.executable, "-c", "import time; time.sleep(120)", *command]
        started.append(subprocess.Popen(sleeping, stdout=subprocess.DEVNULL))
        return started[-1].pid

    yield start
    for each in started:
        each.kill()
        each.wait()


def plan_on(monkeypatch, tmp_path, model, free, users=None):
    """The last finding about the plan with so many free bytes. users: lines of nvidia-smi; None: it is not there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if users is not None:
        script = folder / "nvidia-smi"
        lines = "\n".join(f"echo '{line}'" for line in users)
        script.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n{lines}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (free, 24_000_000_000))
    properties = SimpleNamespace(name="a card", total_memory=24_000_000_000, uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = [each for each in findings(EngineOptions(model=str(model), kind="local")) if each.name == "plan"]
    if users is not None and found[-1].state != "ok":
        assert "--id=GPU-1234-abcd --query-compute-apps=pid,used_gpu_memory" in (folder / "asked").read_text()
    return found[-1]


def test_the_context_of_the_process_that_asks_is_counted_once(monkeypatch, tmp_path, released):
    # it is gone from what is free already
    found = plan_on(monkeypatch, tmp_path, released, plan_folder(released).total - CONTEXT_BYTES)
    assert found.state == "ok"
    assert "to be had" in found.found


def test_what_a_running_server_holds_is_not_a_strangers(monkeypatch, tmp_path, released, process):
    server = process("/somewhere/bin/lacuna", "serve")
    found = plan_on(monkeypatch, tmp_path, released, 5_000_000_000, [f"{server}, 17000", f"{os.getpid()}, 400"])
    assert found.state == "note"
    assert found.found == (
        f"it does not fit beside what a running Lacuna server holds: process {server} (17.8 GB)"
    )
    assert "unload its model" in found.advice


def test_who_else_holds_memory_is_told(monkeypatch, tmp_path, released, process):
    server, other = process("lacuna", "serve"), process("train.py")
    lines = [f"{server}, 1000", f"{other}, 15000", "4711, [N/A]", "Not a line"]
    found = plan_on(monkeypatch, tmp_path, released, 5_000_000_000, lines)
    assert found.state == "missing"
    assert found.found == (
        f"it does not fit: the Lacuna server {server} holds 1.0 GB, process {other} holds 15.7 GB"
    )
    assert "GB over the free memory of the device" in found.advice


@pytest.mark.parametrize(
    "users", [pytest.param(None, id="no nvidia-smi"), pytest.param(["4711, [N/A]"], id="it does not tell")]
)
def test_where_nobody_says_who_holds_it_a_server_is_thought_of(monkeypatch, tmp_path, released, users):
    found = plan_on(monkeypatch, tmp_path, released, 5_000_000_000, users)
    assert (found.state, found.found) == ("missing", "it does not fit")
    assert "If a Lacuna server is running" in found.advice


ADAPTER = """
import sys
from lacuna_ls.lsp.doctor import _adapter
from lacuna_ls.lsp.options import EngineOptions
found = _adapter(EngineOptions(kind=sys.argv[1]))
assert "torch" not in sys.modules
print(found.state, found.found, found.advice, sep="\\n")
"""


def adapter_line(folder, kind="local"):
    """(state, found, advice) of the line about the adapter in a folder, from a process that must not load torch."""
    command = [sys.executable, "-c", ADAPTER, kind]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return tuple(done.stdout.removesuffix("\n").split("\n"))


def test_the_adapter_of_the_workspace_is_told(tmp_path):
    from lacuna_ls.engine.adapter import Adapter, save_adapter
    from lacuna_ls.engine.adapter_file import adapter_file, fingerprint, forget_adapter
    from lacuna_ls.engine.modelfile import EMBEDDED

    inside = tmp_path / "src"
    inside.mkdir()
    assert adapter_line(tmp_path)[:2] == ("note", f"none for {tmp_path}")
    factors = {"embed_tokens.weight": (torch.zeros(4, 2), torch.zeros(2, 4))}
    about = {"made": "2026-11-30T03:20:38+00:00", "workspace": str(tmp_path)}
    path = adapter_file(tmp_path)
    save_adapter(Adapter(fingerprint(EMBEDDED), factors, about=about), path)
    # the server looks in the folders above, too
    for folder in (tmp_path, inside):
        state, found, *_ = adapter_line(folder)
        assert state == "ok"
        assert found == f"{path}, 0.0 MB, made 2026-11-30 03:20 UTC for {tmp_path}"
    state, found, *_ = adapter_line(tmp_path, "http://127.0.0.1:1")
    assert state == "note"
    assert "a model on a server is used without it" in found
    save_adapter(Adapter("0" * 64, factors, about=about), path)
    state, found, advice = adapter_line(tmp_path)
    assert state == "note"
    assert "made for other weights" in found
    assert "lacuna adapt" in advice
    path.write_bytes(b"no adapter")
    state, found, *_ = adapter_line(tmp_path)
    assert state == "note"
    assert "it is not used" in found
    assert forget_adapter(tmp_path) == path


def test_adapters_that_cannot_be_looked_for_are_no_failure(monkeypatch, tmp_path):
    # as a folder is that belongs to root, since `sudo lacuna adapt`
    monkeypatch.setattr("lacuna_ls.engine.adapter_file.state_folder", lambda: tmp_path / ("a" * 300))
    found = _adapter(EngineOptions())
    assert found.state == "note"
    assert "cannot be looked for" in found.found


def test_a_home_that_is_no_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    found = _folder("state", tmp_path / "file" / "lacuna")
    assert found.state == "note"
    assert "is no folder" in found.advice


def test_a_home_that_cannot_be_looked_at_is_no_reason_to_reinstall(monkeypatch, tmp_path):
    # as that of root is, for a user of a container
    stat = os.stat

    def denied(path, **given):
        if Path(path).is_relative_to(tmp_path / "root"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **given)

    monkeypatch.setattr("os.stat", denied)
    assert _folder("state", tmp_path / "root" / "lacuna").state == "ok"


def test_a_drive_that_is_not_there_is_said(monkeypatch, tmp_path):
    # as on Windows, where even the top of a path may be missing
    monkeypatch.setattr("os.path.exists", lambda path: False)
    found = _folder("state", tmp_path)
    assert found.state == "note"
    assert "There is no /;" in found.advice


def test_the_state_folder_is_the_one_that_is_written_to(monkeypatch, tmp_path):
    # on Windows platformdirs puts a folder of the author's between, unless it is told that there is none
    def of_windows(name, appauthor=None):
        return tmp_path / name if appauthor is False else tmp_path / name / name

    monkeypatch.setattr("platformdirs.user_state_path", of_windows)
    told = {each.name: each.found for each in findings(EngineOptions())}
    assert told["state"].startswith(f"{default_file().parent},")
