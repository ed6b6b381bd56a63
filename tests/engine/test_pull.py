"""`lacuna pull` with the real huggingface_hub against a small hub on this machine: size, progress, cache, offline."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_models as tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/model"


class Hub:
    """One repository, as far as huggingface_hub asks; notes every request."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(has_body=True)

            def do_HEAD(self) -> None:
                self.answer(has_body=False)

            def log_message(self, *_: object) -> None:
                pass

            def answer(self, has_body: bool) -> None:
                path = self.path.partition("?")[0]
                hub.requests.append(f"{self.command} {path}")
                if path.startswith(f"/api/models/{NAME}/tree/"):
                    entry = {"type": "file", "oid": "0" * 40}
                    tree = [{**entry, "path": name, "size": len(data)} for name, data in files.items()]
                    body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
                elif path.startswith(f"/api/models/{NAME}"):
                    siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                    about = {"id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "siblings": siblings}
                    body, headers = json.dumps(about).encode(), {"Content-Type": "application/json"}
                else:
                    body = files[path.rpartition("/")[2]]
                    headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if has_body:
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def fetched(self) -> set[str]:
        return {line.rpartition("/")[2] for line in self.requests if line.startswith(f"GET /{NAME}/resolve/")}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub = Hub({**files, "pytorch_model.bin": b"never fetched"})
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def run(command: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env = {**online, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    script = f"import sys; from lacuna_ls.engine.find import *; {command}"
    arguments = [sys.executable, "-c", script]
    return subprocess.run(arguments, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_nothing_is_fetched_where_nobody_can_agree(hub: Hub, tmp_path: Path):
    done = run(f"pull_main([{NAME!r}])", tmp_path / "home", HF_ENDPOINT=hub.url)
    assert "add --yes" in done.stderr
    assert "5 files, 0.0 GB to fetch" in done.stderr
    assert hub.fetched() == set()


def test_pulled_with_size_and_progress_and_found_offline(hub: Hub, tmp_path: Path):
    done = run(f"sys.exit(pull_main([{NAME!r}, '--yes']))", tmp_path / "home", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"{NAME}: 5 files, 0.0 GB to fetch" in done.stderr
    assert "100%|" in done.stderr
    assert done.stdout == ""
    shards = {f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)}
    assert hub.fetched() == shards | {"config.json", "model.safetensors.index.json"}
    # from now on without a network
    num_requests = len(hub.requests)
    offline = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}
    found = run(f"print(find_model({NAME!r}))", tmp_path / "home", **offline)
    assert Path(found.stdout.strip()).name == COMMIT, found.stderr
    assert {file.name for file in Path(found.stdout.strip()).iterdir()} == hub.fetched()
    # and a second pull fetches nothing
    again = run(f"sys.exit(pull_main([{NAME!r}, '--yes']))", tmp_path / "home", HF_ENDPOINT=hub.url)
    assert again.returncode == 0, again.stderr
    assert "0 files, 0.0 GB to fetch" in again.stderr
    assert not [line for line in hub.requests[num_requests:] if line.startswith(f"GET /{NAME}/resolve/")]
