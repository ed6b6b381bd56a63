"""Find permissively licensed source files: the standard library, installed distributions, pinned wheels, npm packages.

Decides which licences may enter (an unknown one may not) and which files of a package are worth reading; knows
nothing of cleaning, duplicates or the corpus format. A package is taken whole or left out: the licence is the one that
its own metadata states.
"""

import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, cast

PERMISSIVE = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT",
    "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "BSD",
})  # fmt: skip

# what `License ::` classifiers and free-text License fields say, as a licence identifier
_WORDS: tuple[tuple[str, str], ...] = (
    (r"mit[- ]cmu|hpnd|historical permission", "HPND"),
    (r"\bmit\b|expat", "MIT"),
    (r"apache", "Apache-2.0"),
    (r"new bsd|bsd[- ]3|3-clause|modified bsd", "BSD-3-Clause"),
    (r"simplified bsd|bsd[- ]2|2-clause", "BSD-2-Clause"),
    (r"\b0bsd\b", "0BSD"),
    (r"\bbsd\b", "BSD"),
    (r"\bisc\b|iscl", "ISC"),
    (r"python software foundation|\bpsf", "PSF-2.0"),
    (r"unlicense", "Unlicense"),
    (r"\bzlib\b", "Zlib"),
)
_RESTRICTED = re.compile(
    r"\b(?:[al]?gpl|mpl|epl|eupl|cddl|cc-by|sspl|busl?)"
    r"|general public|mozilla|affero|eclipse|proprietary|non-?commercial|business source",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"\(|\)|[^\s()]+")

# copies of other projects (their licence and their split are not this package's), and benchmarks
_SKIPPED_PARTS = re.compile(
    r"^(?:_?vendor(?:ed|s)?|_vendored_packages|third_?party|3rdparty|extern(?:al|s)?|_externals?|node_modules|site-packages|__pycache__"
    r"|human_?eval.*|mbpp.*|.*_bench(?:mark)?_?data|lib2to3)$",
    re.IGNORECASE,
)
_SKIPPED_FILE = re.compile(r"(?:_pb2(?:_grpc)?|(?:^|/)human_?eval\w*|(?:^|/)mbpp\w*|(?:^|/)_?six)\.py$", re.IGNORECASE)
_TEST_PART = re.compile(
    r"(?:^|/)(?:tests?|testing|__tests__|conftest\.py|test_[^/]*|[^/]*_test\.py|[^/]*\.(?:test|spec)\.[cm]?[jt]sx?)(?:/|$)"
)

LANGUAGES: dict[str, str] = {
    ".py": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascriptreact",
    ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "typescriptreact",
}  # fmt: skip
"""The language (an LSP identifier) of a file that may enter, by its suffix."""

# what a build put beside the source, or instead of it; and declarations without code
_BUILT_PARTS = re.compile(r"^(?:dist.*|build|builds|out|umd|bundles?|min|coverage|fixtures?|typings)$", re.IGNORECASE)
_BUILT_FILE = re.compile(r"[.-](?:min|bundle|umd|prod|production)\.[cm]?js$|\.d\.[cm]?ts$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Package:
    """One package whose files may enter the corpus; `origin` is a wheel, or the folder that `files` are relative to."""

    name: str
    version: str
    licence: str
    language: str
    origin: Path
    files: tuple[str, ...]

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Every file as (path inside the package, raw bytes); unreadable files are left out."""
        if self.origin.is_file():
            with zipfile.ZipFile(self.origin) as wheel:
                for name in self.files:
                    yield name, wheel.read(name)
            return
        for name in self.files:
            try:
                yield name, (self.origin / name).read_bytes()
            except OSError:
                continue


def normalise_name(name: str) -> str:
    """The one spelling of a distribution's name. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_test(path: str) -> bool:
    """Whether a path is a test by its name; tests are kept with a lower weight."""
    return bool(_TEST_PART.search(path.lower()))


def is_wanted(path: str) -> bool:
    """Whether a file is a Python source of this package itself: no vendored copy, protobuf output or benchmark."""
    parts = PurePosixPath(path).parts
    return path.endswith(".py") and not any(map(_SKIPPED_PARTS.match, parts[:-1])) and not _SKIPPED_FILE.search(path)


def is_wanted_script(path: str) -> bool:
    """Whether a file of an npm package is source that somebody wrote: no bundle, minified file or mere declaration."""
    parts = PurePosixPath(path).parts[:-1]
    is_script = LANGUAGES.get(PurePosixPath(path).suffix, "python") != "python"
    is_own = not any(_SKIPPED_PARTS.match(part) or _BUILT_PARTS.match(part) for part in parts)
    return is_script and is_own and not _BUILT_FILE.search(path)


def _holds(expression: str) -> bool:
    """Whether an SPDX expression can be satisfied by permissive licences alone. Malformed ones cannot."""
    tokens: list[str] = _TOKENS.findall(expression)

    def disjunction() -> bool:
        value = conjunction()
        while tokens and tokens[0].upper() == "OR":
            tokens.pop(0)
            value = conjunction() or value
        return value

    def conjunction() -> bool:
        value = operand()
        while tokens and tokens[0].upper() == "AND":
            tokens.pop(0)
            value = operand() and value
        return value

    def operand() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token == "(":
            value = disjunction()
            return bool(tokens) and tokens.pop(0) == ")" and value
        if tokens[:1] and tokens[0].upper() == "WITH":
            # an exception only adds permissions to the licence before it
            del tokens[:2]
        return token in PERMISSIVE

    value = disjunction()
    return value and not tokens


def classify_licence(expression: str | None, field: str | None, classifiers: Iterable[str]) -> str | None:
    """The licence by which a package may enter the corpus, or None: it is restricted or not stated.

    `expression` is License-Expression (SPDX) and decides alone where there is one; otherwise the `License ::`
    classifiers decide, and without a telling one the free-text License field (its first line only: whole licence
    texts are pasted there, and they mention other licences).
    """
    if expression:
        return expression if _holds(expression) else None
    stated = [line.split("::")[-1] for line in classifiers if line.startswith("License ::")]
    stated = [line.strip() for line in stated if line.strip() not in ("OSI Approved", "")]
    first = next((line.strip() for line in (field or "").splitlines() if line.strip()), "")
    if any(map(_RESTRICTED.search, [*stated, first])):
        return None
    found = [licence for text in stated for pattern, licence in _WORDS if re.search(pattern, text, re.IGNORECASE)]
    if stated:
        return found[0] if found else None
    if _TOKENS.findall(first) and _holds(first):
        return first
    return next((licence for pattern, licence in _WORDS if re.search(pattern, first, re.IGNORECASE)), None)


def _stated_licence(fields: Callable[[str], list[str] | None]) -> str | None:
    expression, field = fields("License-Expression") or [""], fields("License") or [""]
    return classify_licence(expression[0], field[0], fields("Classifier") or ())


def standard_library() -> Package:
    """The library of the running interpreter, without what is installed beside it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    version = ".".join(map(str, sys.version_info[:3]))
    return Package("python", version, "PSF-2.0", "python", root, tuple(filter(is_wanted, files)))


def installed_packages() -> Iterator[Package]:
    """Every installed distribution with a permissive licence, except this project itself."""
    for distribution in metadata.distributions():
        head = distribution.metadata
        name = normalise_name(head["Name"] or "")
        licence = _stated_licence(head.get_all)
        if not name or licence is None or name == "lacuna-ls":
            continue
        paths = sorted(path.as_posix() for path in distribution.files or ())
        files = tuple(path for path in paths if is_wanted(path) and not path.startswith(".."))
        yield Package(name, distribution.version, licence, "python", Path(str(distribution.locate_file(""))), files)


def wheel_package(path: Path) -> Package | None:
    """A wheel as a package, or None where its metadata states no permissive licence."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        described = next(name for name in names if name.endswith(".dist-info/METADATA"))
        head = HeaderParser().parsestr(wheel.read(described).decode("utf-8", "replace"))
    licence = _stated_licence(head.get_all)
    if licence is None:
        return None
    files = tuple(sorted(filter(is_wanted, names)))
    return Package(normalise_name(head["Name"]), head["Version"], licence, "python", path, files)


def fetch_wheels(pins: dict[str, str], folder: Path) -> list[Path]:
    """Fetch pinned wheels with pip (four at a time; those already there are not fetched again).

    Returns: the wheels at hand, by name; a package without a wheel for this interpreter is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def find(name: str) -> Path | None:
        prefix = f"{name.replace('-', '_')}-{pins[name]}-"
        return next((path for path in sorted(folder.glob("*.whl")) if path.name.lower().startswith(prefix)), None)

    def fetch(name: str) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), f"{name}=={pins[name]}"]
        subprocess.run(command, check=False, capture_output=True, timeout=300)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, [name for name in pins if find(name) is None]))
    return [path for name in sorted(pins) if (path := find(name))]


def npm_packages(folder: Path) -> Iterator[Package]:
    """Every package with a permissive licence in a node_modules folder, those inside other packages too.

    Named `npm/NAME`, so that no npm package is taken for a Python one of the same name.
    """
    for described in sorted(folder.rglob("package.json")):
        root = described.parent
        inside = root.relative_to(folder).parts
        # a package.json that is not a package's own (a test's, or one that only states the kind of module)
        owner = inside[:-2] if len(inside) > 1 and inside[-2].startswith("@") else inside[:-1]
        if not inside or (owner and owner[-1] != "node_modules"):
            continue
        try:
            about = cast(dict[str, Any], json.loads(described.read_text("utf-8")))
            name, version, licence = about["name"], str(about["version"]), npm_licence(about)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        files = tuple(filter(is_wanted_script, paths))
        if licence is not None and files:
            yield Package(f"npm/{name}", version, licence, "javascript", root, files)


def npm_licence(about: dict[str, Any]) -> str | None:
    """The licence by which a package.json lets its package enter, or None. Source: npm's documentation of `license`,
    with the older forms: an object, or a list of objects under `licenses` of which one may be chosen.
    """
    stated: Any = about.get("license", about.get("licenses"))
    if isinstance(stated, list):
        stated = " OR ".join(map(_type_of, cast(list[object], stated)))
    return classify_licence(_type_of(stated), None, ())


def _type_of(stated: Any) -> str:
    if isinstance(stated, dict):
        stated = cast(dict[str, Any], stated).get("type")
    return stated if isinstance(stated, str) else ""
