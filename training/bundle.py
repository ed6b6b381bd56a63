"""A corpus in one small file, for a machine without a network: cleaned texts of chosen packages, compressed.

Made where packages can be fetched, read where training happens; there the texts go through the same cleaning, hold-out
and duplicates as what is installed. Held-out packages travel too, so that nothing like them is trained on. The form is
a tar of xz: `packages.json`, and an uncompressed zip for each package. Needs the standard library and numpy only.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .corpus import SPLITS, Corpus
from .sources import Package

INDEX = "packages.json"


def write_bundle(corpus: Path, out: Path, left_out: Collection[str] = (), max_bytes: int = sys.maxsize) -> int:
    """Write what corpus has of all packages but left_out; of training packages the largest go first where max_bytes of
    text are exceeded. Returns the size of the file in bytes. Raises: ModelNotFoundError where there is no corpus.
    """
    splits = [Corpus(corpus, split) for split in SPLITS]
    manifest: dict[str, dict[str, Any]] = json.loads((corpus / "manifest.json").read_text("utf-8"))["packages"]
    names = [name for name in manifest if name not in left_out]
    # held-out ones always, then the smallest: variety before volume
    names.sort(key=lambda name: (manifest[name]["split"] != "holdout", manifest[name]["bytes"]))
    chosen: set[str] = set()
    for name in names:
        max_bytes -= manifest[name]["bytes"]
        if max_bytes >= 0:
            chosen.add(name)
    members: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for each in splits:
        for i, file in enumerate(each.files()):
            if file["package"] in chosen:
                members[file["package"]].append((file["path"], each.data(i)))
    rows: list[dict[str, Any]] = []
    part = out.with_name(f"{out.name}.part")
    with tarfile.open(part, "w:xz", preset=9) as bundle:
        for number, (name, files) in enumerate(sorted(members.items())):
            files.sort()
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
                for path, data in files:
                    archive.writestr(zipfile.ZipInfo(path), data)
            about = {key: manifest[name][key] for key in ("version", "licence", "language")}
            rows.append({"name": name, **about, "origin": f"{number}.zip", "files": [path for path, _ in files]})
            _add(bundle, f"{number}.zip", packed.getvalue())
        _add(bundle, INDEX, json.dumps(rows).encode())
    part.replace(out)
    return out.stat().st_size


def read_bundle(bundle: Path, folder: Path) -> list[Package]:
    """Unpack into folder; the packages then read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(bundle, "r:xz") as archive:
        for member in archive:
            # plain names of files only: nothing lands outside of the folder
            if (content := archive.extractfile(member)) is not None:
                (folder / Path(member.name).name).write_bytes(content.read())
    rows: list[dict[str, Any]] = json.loads((folder / INDEX).read_text("utf-8"))
    return [
        Package(
            row["name"], row["version"], row["licence"], row["language"], folder / row["origin"], tuple(row["files"])
        )
        for row in rows
    ]


def _add(bundle: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    bundle.addfile(info, io.BytesIO(data))


def main(arguments: list[str] | None = None) -> None:
    """Command: pack a corpus and report the size on stderr."""
    about = "Pack a corpus into one file for a machine without a network."
    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.training.bundle", description=about)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by lacuna_ls.training.corpus")
    parser.add_argument("--out", type=Path, required=True, help="the .tar.xz to write")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="packages that are there already")
    parser.add_argument("--max-mb", type=float, default=1e6, help="of text, before compression")
    options = parser.parse_args(arguments)
    size = write_bundle(options.corpus, options.out, options.without, int(options.max_mb * 1e6))
    sys.stderr.write(f"{options.out}: {size / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    from .command import guarded

    raise SystemExit(guarded(main))
