"""A snapshot is the same thing from a folder, a git checkout and every archive, and refuses what it cannot use."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from lacuna_ls.bench import snapshot as module
from lacuna_ls.bench.errors import SnapshotError
from lacuna_ls.bench.snapshot import read_snapshot

PATHS = ["pkg/shapes.py", "pkg/stack.js", "pkg/users.py", "tests/test_shapes.py"]


def test_a_folder_gives_its_sources_in_order(repository_folder: Path):
    found = read_snapshot(repository_folder)
    assert [file.path for file in found.files] == PATHS
    assert (found.name, found.version, found.kind) == ("shapes", "1.2", "folder")
    assert [file.language for file in found.files] == ["python", "javascript", "python", "python"]


def test_archives_give_what_the_folder_gives(repository_folder: Path, tmp_path: Path):
    expected = read_snapshot(repository_folder)
    sdist = tmp_path / "shapes-1.2.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(repository_folder, "shapes-1.2")
    wheel = tmp_path / "shapes-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        # the order inside must not matter
        for path in sorted(repository_folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(repository_folder).as_posix())
    for path, kind in ((sdist, "sdist"), (wheel, "wheel")):
        found = read_snapshot(path)
        assert found.sha256 == expected.sha256
        assert (found.title, found.kind) == ("shapes 1.2", kind)


def test_a_git_checkout_gives_what_is_tracked(repository_folder: Path):
    def git(*words: str):
        subprocess.run(["git", "-C", str(repository_folder), *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", "pkg/shapes.py", "pkg/users.py")
    (repository_folder / "pkg" / "untracked.py").write_text("x = 1\n", encoding="utf-8")
    found = read_snapshot(repository_folder)
    assert found.kind == "git"
    assert [file.path for file in found.files] == ["pkg/shapes.py", "pkg/users.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_a_git_checkout_starts_no_program_of_its_own(repository_folder: Path):
    def git(*words: str):
        subprocess.run(["git", "-C", str(repository_folder), *words], check=True, capture_output=True)

    script = repository_folder / "started.sh"
    script.write_text(f"#!/bin/sh\ntouch '{repository_folder}/started'\n", encoding="utf-8")
    script.chmod(0o755)
    git("init", "-q")
    git("add", "pkg/shapes.py")
    git("config", "core.fsmonitor", str(script))
    assert [file.path for file in read_snapshot(repository_folder).files] == ["pkg/shapes.py"]
    assert not (repository_folder / "started").exists()


def test_names_that_lead_out_of_an_archive_are_left_out(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../up.py", "a/../../up.py", "/whole.py", "a/..b/fine.py"):
            archive.writestr(name, "x = 1\n")
    found = read_snapshot(path)
    assert [file.path for file in found.files] == ["a/..b/fine.py"]
    assert found.skipped == {"outside": 3}


def test_a_tar_archive_with_odd_numbers_says_so(tmp_path: Path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a/x.py")
    info.pax_headers = {"size": "9" * 20}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(SnapshotError, match="Fetch it again"):
        read_snapshot(path)


def test_languages_and_tests_can_be_left_out(repository_folder: Path):
    (repository_folder / "setup.toml").write_text("a = 1\n", encoding="utf-8")
    assert [file.path for file in read_snapshot(repository_folder, ["javascript"]).files] == ["pkg/stack.js"]
    assert [file.path for file in read_snapshot(repository_folder, ["toml"]).files] == ["setup.toml"]
    found = read_snapshot(repository_folder, include_tests=False)
    assert [file.path for file in found.files] == PATHS[:3]
    assert found.skipped == {"tests": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"x = '\xff'\n", "not UTF-8", id="latin-1"),
        pytest.param(b"x = 1\n\0", "not UTF-8", id="binary"),
        pytest.param(b"x = 1\ry = 2\r", "not UTF-8", id="lone-carriage-returns-have-no-agreed-lines"),
        pytest.param(b" \n\n", "empty", id="blank"),
        pytest.param(b"x = [" + b"1, " * 2000 + b"]\n", "generated", id="minified"),
        pytest.param(b"x = 1\n" * 200_000, "too large", id="over-a-mebibyte"),
    ],
)
def test_what_cannot_be_used_is_counted(repository_folder: Path, data: bytes, reason: str):
    (repository_folder / "pkg" / "odd.py").write_bytes(data)
    found = read_snapshot(repository_folder)
    assert [file.path for file in found.files] == PATHS
    assert found.skipped == {reason: 1}


def test_a_byte_order_mark_and_crlf_are_no_trouble(repository_folder: Path):
    (repository_folder / "pkg" / "windows.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    texts = {file.path: file.text for file in read_snapshot(repository_folder).files}
    assert texts["pkg/windows.py"] == "x = 1\r\ny = 2\r\n"


def test_other_peoples_code_and_links_are_left_out(repository_folder: Path):
    for folder in ("node_modules", ".venv", "build", "shapes.egg-info"):
        (repository_folder / folder).mkdir()
        (repository_folder / folder / "x.py").write_text("x = 1\n", encoding="utf-8")
    (repository_folder / "pkg" / "link.py").symlink_to(repository_folder / "pkg" / "users.py")
    assert [file.path for file in read_snapshot(repository_folder).files] == PATHS


def test_a_zip_that_lies_about_sizes_is_read_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.py", "x = 1\n" * 10_000)
        archive.writestr("fine.py", "x = 1\n")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    found = read_snapshot(path)
    assert [file.path for file in found.files] == ["fine.py"]
    assert found.skipped == {"too large": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("none", None, "There is no", id="nothing-there"),
        pytest.param("x.txt", b"hello", "neither a folder nor an archive", id="a-text-file"),
        pytest.param("x.tar.gz", b"hello", "as a tar archive", id="no-tar"),
        pytest.param("x.zip", b"hello", "as a zip archive", id="no-zip"),
        pytest.param("x" * 300, None, "There is no", id="a-name-that-is-too-long"),
    ],
)
def test_what_is_no_snapshot_says_so(tmp_path: Path, name: str, content: bytes | None, message: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SnapshotError, match=message):
        read_snapshot(path)


def test_a_truncated_archive_says_so(tmp_path: Path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        info = tarfile.TarInfo("a-1/x.py")
        info.size = 50_000
        archive.addfile(info, io.BytesIO(bytes(range(256)) * 196))
    path = tmp_path / "a-1.tar.gz"
    path.write_bytes(whole.getvalue()[:200])
    with pytest.raises(SnapshotError, match="Fetch it again"):
        read_snapshot(path)


def test_too_much_says_so(repository_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_FILES", 2)
    with pytest.raises(SnapshotError, match="more than 2 files"):
        read_snapshot(repository_folder)


def test_nothing_usable_says_why(tmp_path: Path):
    (tmp_path / "a.py").write_bytes(b"")
    with pytest.raises(SnapshotError, match="1 empty"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.xz"])
def test_a_damaged_archive_says_so(tmp_path: Path, kind: str):
    rng = random.Random(0)
    text = "\n".join(f"x = {rng.random()}" for _ in range(5000)).encode()
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("p/a.py", text)
    else:
        with tarfile.open(path, "w:xz") as tar:
            info = tarfile.TarInfo("p/a.py")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    data = bytearray(path.read_bytes())
    middle = slice(200, 260) if kind == "zip" else slice(len(data) // 2, len(data) // 2 + 60)
    data[middle] = bytes(byte ^ 0xFF for byte in data[middle])
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="Fetch it again"):
        read_snapshot(path)


@pytest.mark.skipif(sys.platform != "linux", reason="a file system whose names are bytes")
def test_a_name_that_is_no_text_is_left_out(tmp_path: Path):
    (tmp_path / "fine.py").write_text("x = 1\n")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.py")).write_text("x = 1\n")
    found = read_snapshot(tmp_path)
    assert [file.path for file in found.files] == ["fine.py"]
    assert found.skipped == {"not UTF-8": 1}
