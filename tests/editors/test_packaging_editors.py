"""What is shipped to the two editors: the .vsix, its manifest, and what is generated into both."""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from lacuna_ls.infill.languages import LANGUAGES, language_for
from nvim_driver import ROOT

EXTENSION = ROOT / "editors/vscode"
MANIFEST = json.loads((EXTENSION / "package.json").read_text())


def test_settings_are_those_of_the_server():
    command = [sys.executable, str(ROOT / "editors/generate_settings.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_workspace_must_not_decide_is_restricted():
    properties = {
        name: entry
        for section in MANIFEST["contributes"]["configuration"]
        for name, entry in section["properties"].items()
    }
    restricted = set(MANIFEST["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"])
    assert {"lacuna.server.path", "lacuna.server.package", "lacuna.engine.kind", "lacuna.engine.model"} <= restricted
    assert {name for name, entry in properties.items() if entry["scope"] == "machine"} <= restricted
    # nothing that names a program or weakens privacy is of the workspace's
    for name in properties:
        if name.startswith(("lacuna.privacy.", "lacuna.engine.")):
            assert properties[name]["scope"] == "machine", name


def test_tab_is_nobodys():
    keys = [binding["key"] for binding in MANIFEST["contributes"]["keybindings"]]
    assert not [key for key in keys if re.fullmatch(r"(shift\+)?(tab|enter)", key)]
    # escape only where a preview is open
    for binding in MANIFEST["contributes"]["keybindings"]:
        assert "lacuna." in binding["when"]
        if binding["key"] == "escape":
            assert all("lacuna.previewOpen" in part for part in binding["when"].split("||"))


def test_every_string_can_be_translated():
    strings = json.loads((EXTENSION / "package.nls.json").read_text())
    used = set(re.findall(r'"%([^%"]+)%"', (EXTENSION / "package.json").read_text()))
    assert used == set(strings)
    sources = "".join(path.read_text() for path in (EXTENSION / "src").glob("*.ts"))
    # messages go through vscode.l10n, not past it
    assert not re.findall(r"show(?:Information|Warning|Error)Message\(\s*'", sources)


def test_commands_are_declared_and_registered():
    declared = {command["command"] for command in MANIFEST["contributes"]["commands"]}
    registered = set(re.findall(r"'(lacuna\.\w+)': ", (EXTENSION / "src/extension.ts").read_text()))
    assert declared == registered


def test_translators_find_every_string():
    """`npm run l10n` writes the bundle; a translation is a copy of it beside it, and of package.nls.json."""
    bundle = json.loads((EXTENSION / "l10n/bundle.l10n.json").read_text())
    source = "".join(path.read_text() for path in (EXTENSION / "src").glob("*.ts"))
    quoted = re.findall(r"l10n\.t\(\s*'((?:[^'\\]|\\.)*)'", source)
    assert len(re.findall(r"l10n\.t\(", source)) == len(quoted)
    unescaped = {json.loads('"' + text.replace("\\'", "'").replace('"', '\\"') + '"') for text in quoted}
    assert set(bundle) == unescaped
    titles = re.findall(r'"%([\w.]+)%"', (EXTENSION / "package.json").read_text())
    assert set(titles) <= set(json.loads((EXTENSION / "package.nls.json").read_text()))


def test_each_language_with_a_grammar_is_somewhere_in_the_editors_lists(nvim_binary):
    """Each name of a language that the server knows is one that an editor uses, and it knows all that they use."""
    source = (EXTENSION / "src/languages.ts").read_text()
    vscode = set(re.findall(r"^  '([\w-]+)',$", source, re.MULTILINE))
    tell = "io.write(vim.json.encode(require('lacuna.config').get().filetypes))"
    load = f"lua vim.opt.rtp:prepend('{ROOT}/editors/neovim') {tell}"
    command = [str(nvim_binary), "--clean", "--headless", "-c", load, "+qa"]
    neovim = set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert vscode | neovim == {name for row in LANGUAGES if row.grammar for name in row.ids}
    # and each opens its files of each language, whatever it calls that
    assert {language_for(name) for name in vscode} == {language_for(name) for name in neovim}


def test_only_stable_api():
    assert "enabledApiProposals" not in MANIFEST
    assert MANIFEST["engines"]["vscode"] == "^1.91.0"
    version = MANIFEST["devDependencies"]["vscode-languageclient"].lstrip("^")
    assert tuple(map(int, version.split("."))) >= (10, 0, 1)


def test_the_lock_file_names_no_registry():
    lock = json.loads((EXTENSION / "package-lock.json").read_text())
    assert all("resolved" not in package for name, package in lock["packages"].items() if name)
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_the_vsix_holds_what_it_should():
    path = EXTENSION / "lacuna.vsix"
    if not path.exists():
        from conftest import missing

        missing("no .vsix (make vsix)")
    assert path.stat().st_size < 300_000
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        manifest = json.loads(archive.read("extension/package.json"))
        notices = archive.read("extension/dist/THIRD-PARTY.md").decode()
    assert names == {
        "extension.vsixmanifest",
        "[Content_Types].xml",
        "extension/package.json",
        "extension/package.nls.json",
        "extension/readme.md",
        "extension/changelog.md",
        "extension/LICENSE.txt",
        "extension/dist/extension.js",
        "extension/dist/session.js",
        "extension/dist/THIRD-PARTY.md",
        "extension/l10n/bundle.l10n.json",
        "extension/media/icon.png",
        "extension/media/server.md",
        "extension/media/ghost.md",
        "extension/media/holes.md",
        "extension/media/quiet.md",
    }
    # what every window loads stays small
    assert sizes["extension/dist/extension.js"] < 20_000
    assert manifest["version"] == MANIFEST["version"]
    for package in ("vscode-languageclient", "vscode-languageserver-protocol", "vscode-jsonrpc", "semver"):
        assert f"## {package} " in notices


def test_the_pictures_are_small_and_shown():
    readme = (ROOT / "README.md").read_text()
    for name in ("neovim-edit", "neovim-ghost", "vscode-edit", "vscode-ghost", "vscode-menu"):
        data = (ROOT / f"docs/{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 100_000
        assert re.search(rf"!\[[^]]+\]\(docs/{name}\.png\)", readme), name


@pytest.mark.parametrize("file", ["editors/neovim/lua", "editors/neovim/plugin", "editors/neovim/lsp", "plugin"])
def test_lua_compiles(file, nvim_binary):
    for path in sorted((ROOT / file).rglob("*.lua")):
        done = subprocess.run(
            [str(nvim_binary), "--clean", "--headless", "-c", f"lua assert(loadfile('{path}'))", "+qa"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr == "", done.stderr


VSCODE = """
const under = process.argv[2];
const executable = { executable: { uri: { fsPath: `${under}/python.exe` } } };
const environments = { getActiveEnvironmentPath() {}, resolveEnvironment: async () => executable };
const setting = { inspect: () => ({ globalValue: process.argv[3] }) };
module.exports = {
  workspace: { isTrusted: true, getConfiguration: () => setting },
  extensions: { getExtension: () => ({ activate: async () => ({ environments }) }) },
  l10n: { t: (text, ...parts) => `${text} ${parts}` },
};
"""

FIND = """
Object.defineProperty(process, 'platform', { value: 'win32' });
const context = { globalStorageUri: { fsPath: '/none' } };
require('./find.js').findServer(context).then((found) => console.log(JSON.stringify(found)));
"""


@pytest.mark.parametrize("setting", ["", "~/Scripts/lacuna.exe"])
def test_on_windows_the_server_is_found(tmp_path, setting):
    """Where a Python of Windows puts programs outside of virtual environments, and by a setting without $HOME."""
    esbuild = EXTENSION / "node_modules/.bin/esbuild"
    if not esbuild.exists() or not (node := shutil.which("node")):
        pytest.skip("needs Node and the extension's packages: make editors")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/vscode.js").write_text(VSCODE)
    (tmp_path / "main.js").write_text(FIND)
    bundle = ["--bundle", "--platform=node", "--external:vscode", f"--outfile={tmp_path}/find.js", "--log-level=error"]
    subprocess.run([esbuild, "src/find.ts", *bundle], cwd=EXTENSION, check=True)
    program = tmp_path / "Scripts/lacuna.exe"
    program.parent.mkdir()
    program.touch(0o755)
    environment = {"PATH": "/usr/bin"} | ({"USERPROFILE": str(tmp_path)} if setting else {})
    command = [node, "-r", str(tmp_path / "home.js"), "main.js", str(tmp_path), setting]
    # node asks the system that it runs on
    (tmp_path / "home.js").write_text("require('os').homedir = () => process.env.USERPROFILE;")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["command"] == str(program)
