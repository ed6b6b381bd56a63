"""What must not be read and not be proposed in: secret files, ignored files; and secrets inside files that may be read.

The built-in list cannot be switched off by a workspace: ignore files only ever add to it. Knows paths and text, no
document and no editor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

DENY_LIST: tuple[str, ...] = (
    ".env", ".env.*", "*.env", ".envrc", ".dev.vars", "!.env.example", "!.env.sample", "!.env.template",
    "*.pem", "*.key", "*.crt", "*.cer", "*.cert", "*.der", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg",
    "*.asc", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.ppk",
    "secret", "secrets", "secret.*", "secrets.*", "*.secret", "*.secrets", "credentials", "credentials.*",
    "service-account*.json", "*.tfstate", "*.tfstate.*", "*.tfvars",
    ".ssh/", ".aws/", ".azure/", ".gnupg/", ".kube/", ".gcloud/", ".docker/config.json",
    ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".htpasswd", ".git-credentials", ".vault-token", ".my.cnf",
)  # fmt: skip
"""gitignore patterns, matched on lower-cased paths. The exceptions are templates that hold no secrets by convention."""

IGNORE_FILES = (".gitignore", ".lacunaignore", ".copilotignore")
"""Read in every folder from the workspace's root down to a file's own."""

REDACTED = "<redacted>"

_ASSIGNED = re.compile(
    r"""((?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key|credential)
        [\w.-]*["']?\s*(?::=|=>|[:=])\s*[fbru]{0,2}["'`])([^"'`\n]{6,})(["'`])""",
    re.IGNORECASE | re.VERBOSE,
)
_KEY_BLOCK = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(.*?)(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_IN_URL = re.compile(r"(?<=://)([^\s/:@\"']+):([^\s/@\"']+)(?=@)")
_TOKENS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[\w-]{16,}"
    r"|sk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
)


class PathRules:
    """Says which files are off limits. Ignore files are read once per folder and again when they change."""

    def __init__(self, roots: Iterable[str | Path] = (), extra: Iterable[str] = ()) -> None:
        """roots: the workspace's folders. extra: more gitignore patterns, from the user's own settings."""
        # the innermost of nested folders is the one a file belongs to
        self._roots = sorted((Path(root).absolute() for root in roots), key=lambda root: -len(root.parts))
        self._deny = GitIgnoreSpec.from_lines(DENY_LIST)
        self._extra = GitIgnoreSpec.from_lines(extra)
        self._specs: dict[Path, tuple[tuple[int, ...], GitIgnoreSpec | None]] = {}

    def is_excluded(self, path: str | Path) -> bool:
        """Whether a file must be neither read nor proposed in. A path without a file behind it counts by its name."""
        if not str(path):
            return False
        whole = Path(path).absolute()
        inside = PurePosixPath(*whole.parts[1:]).as_posix()
        if self._deny.match_file(inside.lower()) or self._extra.match_file(inside):
            return True
        root = next((root for root in self._roots if whole.is_relative_to(root)), None)
        return root is not None and self._is_ignored(whole, root)

    def _is_ignored(self, whole: Path, root: Path) -> bool:
        """What git would say of the file and the folders it lies in; a folder's rules overrule those above it."""
        parts = whole.relative_to(root).parts
        for depth in range(1, len(parts) + 1):
            is_folder = depth < len(parts)
            verdict = False
            for at in range(depth):
                spec = self._spec(root.joinpath(*parts[:at]))
                if spec is None:
                    continue
                name = "/".join(parts[at:depth]) + ("/" if is_folder else "")
                include = spec.check_file(name).include
                verdict = verdict if include is None else include
            if verdict:
                # what lies in an ignored folder cannot be taken back
                return True
        return False

    def _spec(self, folder: Path) -> GitIgnoreSpec | None:
        stamps = tuple(_stamp(folder / name) for name in IGNORE_FILES)
        known = self._specs.get(folder)
        if known is not None and known[0] == stamps:
            return known[1]
        lines: list[str] = []
        for name, stamp in zip(IGNORE_FILES, stamps, strict=True):
            if stamp:
                lines += _lines(folder / name)
        spec = GitIgnoreSpec.from_lines(lines) if lines else None
        self._specs[folder] = (stamps, spec)
        return spec


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if _is_pattern(line)]


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        # one bad line of the user's must not switch off the others
        return False
    return True


def redact(text: str) -> str:
    """Text with likely secrets replaced by REDACTED; its lines stay where they are."""
    text = _KEY_BLOCK.sub(lambda m: m[1] + "\n" * m[2].count("\n") + m[3], text)
    text = _IN_URL.sub(f"{REDACTED}:{REDACTED}", text)
    text = _TOKENS.sub(REDACTED, text)
    return _ASSIGNED.sub(lambda m: m[1] + REDACTED + m[3], text)
