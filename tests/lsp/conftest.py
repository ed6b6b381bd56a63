"""Servers as real subprocesses over real stdio, with an infiller that does as it is told."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from lsp_client import FAKE_SERVER, Client, initialize_params, with_encoding


@pytest.fixture
def journal(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """What the fake infiller was asked, in order; of the workspace's files only where they are named."""

    def read(*named: str) -> list[dict[str, Any]]:
        file = tmp_path / "journal.jsonl"
        every = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [each for each in every if (each["what"] in (named or ("index", "refresh"))) == bool(named)]

    return read


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """start(client=name or parameters, encoding, options, settings, fake, ...) -> an initialized Client."""
    clients: list[Client] = []

    def begin(
        client: str | dict[str, Any] = "nvim",
        *,
        encoding: str | None = None,
        options: Any = None,
        settings: Any = None,
        fake: dict[str, Any] | None = None,
        is_ready: bool = True,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> Client:
        told = {"journal": str(tmp_path / "journal.jsonl"), **(fake or {})}
        environment = {**os.environ, "LACUNA_FAKE": json.dumps(told), **(env or {})}
        made = Client(command or FAKE_SERVER, env=environment, settings=settings)
        clients.append(made)
        params = initialize_params(client) if isinstance(client, str) else client
        made.server = made.initialize(with_encoding(params, encoding) if encoding else params, options)  # type: ignore[attr-defined]
        if is_ready:
            made.wait_ready()
        return made

    yield begin
    for each in clients:
        each.close()
