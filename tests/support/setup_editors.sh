#!/usr/bin/env bash
# setup_editors.sh - everything that tests/editors needs: Neovim 0.12, the VS Code extension as a .vsix, code-server, Chromium.
# Fetched under .editors/ (kept between runs); root is used for nothing but Chromium and a font, and only where it is at hand.
# PYTHON names the project's interpreter. Ends with 0 when everything is there; otherwise says what is missing, and why, and
# ends with 1: the tests of what is there run all the same.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
editors=$root/.editors
export PYTHON=${PYTHON:-python3}
export npm_config_loglevel=error npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
mkdir -p "$editors"
missing=()

# the functions below are not named like the programs: `command -v` would find the function itself

# runs a step in silence; its last lines are shown when it fails
step() {
    local what=$1
    shift
    local log=$editors/${what// /-}.log
    if ! "$@" > "$log" 2>&1; then
        tail -n 5 "$log" | sed "s/^/  /" >&2
        missing+=("$what ($log)")
        return 1
    fi
}

chromium_() {
    command -v chromium > /dev/null && return 0
    [ "$(id -u)" = 0 ] || { echo "no chromium, and no root to install it"; return 1; }
    command -v apt-get > /dev/null || { echo "no chromium, and no apt-get to install it with"; return 1; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install chromium fonts-dejavu-core
}

tmux_() {
    command -v tmux > /dev/null && return 0
    [ "$(id -u)" = 0 ] && apt-get -qq -y --no-install-recommends install tmux
}

# the extension is built again when one of its sources is newer than the .vsix
vsix_() {
    local extension=$root/editors/vscode
    cd "$extension" || return 1
    command -v npm > /dev/null || { echo "no npm"; return 1; }
    local stamp=node_modules/.lacuna-complete
    if [ ! -e "$stamp" ] || [ package-lock.json -nt "$stamp" ]; then
        npm ci --ignore-scripts && touch "$stamp" || return 1
    fi
    local newer
    newer=$(find src media l10n package*.json esbuild.mjs README.md CHANGELOG.md -newer lacuna.vsix 2>/dev/null | head -1)
    [ -e lacuna.vsix ] && [ -z "$newer" ] && return 0
    npm run package
}

# one after the other: two package managers at once gain nothing on two cores
step "neovim" "$here/get-nvim.sh" "$editors/nvim"
step "chromium" chromium_
step "tmux" tmux_
step "code-server" "$here/get-code-server.sh" "$editors/code-server"
step "vsix" vsix_

if [ ${#missing[@]} -gt 0 ]; then
    printf 'setup_editors: not here: %s\n' "${missing[@]}" >&2
    exit 1
fi
