"""Secret and ignored files stay unread, whatever a workspace says; secrets in other files are redacted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import unicodedata

import pytest
from lacuna_ls.infill import privacy
from lacuna_ls.infill.privacy import REDACTED, PathRules, redact


@pytest.mark.parametrize(
    ("path", "is_excluded"),
    [
        pytest.param("/p/.env", True, id="the classic"),
        pytest.param("/p/.env.production", True, id="one per stage"),
        pytest.param("/p/.env.example", False, id="a template"),
        pytest.param("/p/prod.ENV", True, id="case is no way out"),
        pytest.param("/p/certs/server.pem", True, id="a certificate"),
        pytest.param("/home/u/.ssh/config", True, id="anything under .ssh"),
        pytest.param("/home/u/.aws/sub/x.txt", True, id="deep under .aws"),
        pytest.param("/p/id_rsa", True, id="a private key"),
        pytest.param("/p/id_rsa.pub", True, id="its public half, to be safe"),
        pytest.param("/p/config/secrets.yml", True, id="secrets by name"),
        pytest.param("/p/secrets/readme.py", True, id="a folder of secrets"),
        pytest.param("/p/keyboard.py", False, id="a name that only looks like key"),
        pytest.param("/p/src/environment.py", False, id="a name that only looks like env"),
        pytest.param("/p/monkey.py", False, id="ends like .key, but is not"),
        pytest.param("", False, id="a document without a path"),
    ],
)
def test_the_built_in_list(path, is_excluded):
    assert PathRules().is_excluded(path) is is_excluded


def test_ignore_files_of_every_folder_count_and_deeper_ones_overrule(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".gitignore").write_text("*.log\nbuild/\n!.env\n")
    (tmp_path / "sub" / ".lacunaignore").write_text("!keep.log\nprivate.py\n")
    (tmp_path / "sub" / ".copilotignore").write_text("/own.py\n")
    rules = PathRules([tmp_path])
    assert rules.is_excluded(tmp_path / "a.log")
    assert rules.is_excluded(tmp_path / "sub" / "a.log")
    assert not rules.is_excluded(tmp_path / "sub" / "keep.log")
    assert rules.is_excluded(tmp_path / "build" / "deep" / "x.py")
    assert rules.is_excluded(tmp_path / "sub" / "private.py")
    assert rules.is_excluded(tmp_path / "sub" / "own.py")
    assert not rules.is_excluded(tmp_path / "own.py")
    assert rules.is_excluded(tmp_path / ".env"), "a workspace cannot take back the built-in list"
    assert not rules.is_excluded(tmp_path.parent / "a.log"), "outside of the workspace its rules say nothing"


@pytest.fixture
def repo(tmp_path):
    """A repository with a part that is opened alone; the folder above it has rules, too, which are not its own."""
    repo = tmp_path / "repo"
    (repo / "backend" / "deep").mkdir(parents=True)
    (repo / ".git" / "info").mkdir(parents=True)
    (repo / ".gitignore").write_text("local_settings.py\n")
    (repo / ".git" / "info" / "exclude").write_text("/backend/mine.py\nkept.py\n")
    (repo / "backend" / ".gitignore").write_text("!kept.py\n")
    (tmp_path / ".gitignore").write_text("*.py\n")
    return repo


@pytest.mark.parametrize(
    "roots",
    [["repo/backend"], ["repo", "repo/backend"], ["repo"], ["repo/backend/deep", "elsewhere"], []],
    ids=["a part", "both", "the whole", "a deep part", "none"],
)
def test_the_rules_of_the_whole_repository_count(repo, roots):
    rules = PathRules([repo.parent / root for root in roots], is_everywhere=True)
    for folder in (repo / "backend", repo / "backend" / "deep"):
        assert rules.is_excluded(folder / "local_settings.py")
        assert not rules.is_excluded(folder / "a.py"), "what stands above the repository does not count"
    assert rules.is_excluded(repo / "backend" / "mine.py"), ".git/info/exclude"
    assert not rules.is_excluded(repo / "backend" / "kept.py"), "which .gitignore overrules"


def test_nested_roots_without_a_repository(tmp_path):
    (tmp_path / "backend").mkdir()
    (tmp_path / ".gitignore").write_text("local_settings.py\n")
    assert PathRules([tmp_path, tmp_path / "backend"]).is_excluded(tmp_path / "backend" / "local_settings.py")


def test_without_a_repository_no_ignore_file_of_the_disk_is_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".gitignore").write_text("*.py\n")
    assert not PathRules([tmp_path / "sub"], is_everywhere=True).is_excluded(tmp_path / "sub" / "a.py")
    assert not PathRules([], is_everywhere=True).is_excluded(tmp_path / "sub" / "a.py")


def test_outside_of_all_roots_only_where_it_is_asked_for(repo):
    # whoever switched ignore files off has the built-in list alone
    assert not PathRules().is_excluded(repo / "local_settings.py")


def test_a_worktree_has_the_exclude_file_of_its_repository(repo):
    tree = repo.parent / "tree"
    own = repo / ".git" / "worktrees" / "tree"
    own.mkdir(parents=True)
    tree.mkdir()
    (own / "commondir").write_text("../..\n")
    (tree / ".git").write_text(f"gitdir: {own}\n")
    rules = PathRules([tree])
    assert rules.is_excluded(tree / "backend" / "mine.py")
    assert not rules.is_excluded(tree / "backend" / "other.py")


@pytest.mark.parametrize(
    ("lines", "ignored", "kept"),
    [
        pytest.param("*\n!*/\n!*.py\n", ["sub/a.txt"], ["a.py", "sub/deep/a.py"], id="only some kinds of files"),
        pytest.param("*\n!src/\n!src/**/\n!src/**/*.py\n", ["a.py"], ["src/x.py", "src/a/b.py"], id="only a folder"),
        pytest.param("foo/**\n!foo/keep.py\n", ["foo/a.py"], ["foo/keep.py"], id="all in a folder but one"),
        pytest.param("data/**/\n!data/keep/\n", ["data/x/a.py"], ["data/keep/a.py", "data/a.py"], id="all folders"),
        pytest.param("*.log\n!logs/\n", ["logs/a.log"], ["logs/a.py"], id="a folder is not what lies in it"),
        pytest.param("**\n!*.py\n", ["a.txt"], ["b.py/x.py"], id="a folder that is called like a file"),
        pytest.param("\ufeffmine.py\nb.py\n", ["mine.py", "b.py"], ["c.py"], id="with a mark at the beginning"),
        pytest.param("Icon\r\r\nb.py\r\n", ["b.py", "Icon\r"], ["Icon/a.py"], id="macOS' icons"),
        pytest.param("[z-a].py\nb.py\n", ["b.py"], ["m.py"], id="a range that runs backwards"),
        pytest.param("[[:digit:]].py\n[^[:alpha:]]b\n", ["1.py", "_b"], ["a.py", "ab"], id="classes"),
        pytest.param("a.py \nb\\ \nc/  \n", ["a.py", "b ", "c/x"], ["b"], id="blanks at the end"),
        pytest.param("*a*b**c*d\n", ["abcd", "xaxbxcxd", "s/abbccd"], ["abc", "acbd", "abcdx"], id="stars"),
        pytest.param("a/**/b*/**/c\n", ["a/b/c", "a/x/by/b/z/c"], ["a/c", "x/a/b/c", "a/xb/c"], id="folders between"),
    ],
)
def test_an_ignore_file_means_what_git_says(tmp_path, lines, ignored, kept):
    (tmp_path / ".gitignore").write_bytes(lines.encode())
    rules = PathRules([tmp_path])
    names = [*ignored, *kept]
    assert [name for name in names if rules.is_excluded(tmp_path / name)] == ignored
    git = shutil.which("git")
    if git is not None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        subprocess.run([git, "init", "-q", str(tmp_path)], check=True)
        asked = "\0".join(names).encode() + b"\0"
        command = [git, "-C", str(tmp_path), "check-ignore", "--no-index", "-z", "--stdin"]
        said = subprocess.run(command, input=asked, capture_output=True, check=False).stdout
        assert said.decode().split("\0")[:-1] == ignored


def test_the_users_own_ignore_file_counts_where_git_says_so(repo, monkeypatch):
    home = repo.parent / "home"
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "ignore").write_text("scratch.py\nkept.py\n")
    (repo / "backend" / ".gitignore").write_text("!kept.py\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    rules = PathRules([repo])
    assert rules.is_excluded(repo / "backend" / "scratch.py")
    assert not rules.is_excluded(repo / "backend" / "kept.py"), "a repository's own rules overrule the user's"
    (home / ".gitconfig").write_text('[core]\n\texcludesFile = "~/mine"  ; not in the usual place\n')
    (home / "mine").write_text("other.py\n")
    rules = PathRules([repo])
    assert rules.is_excluded(repo / "backend" / "other.py")
    assert not rules.is_excluded(repo / "backend" / "scratch.py")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_an_ignore_file_without_an_end_is_none(tmp_path):
    os.mkfifo(tmp_path / ".gitignore")
    (tmp_path / ".lacunaignore").symlink_to("/dev/zero")
    (tmp_path / ".copilotignore").write_text("a.py\n")
    # in a process of its own, because one that waits for a pipe cannot be stopped
    code = f"from lacuna_ls.infill.privacy import PathRules; print(PathRules([{str(tmp_path)!r}])"
    code += f".is_excluded({str(tmp_path / 'a.py')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        pytest.param("*a*a*a*a*a*a*a*a*b", "a" * 250, id="many stars"),
        pytest.param("*?a*?a*[ab]a*[ab]a*a?b", "a" * 250, id="stars between other marks"),
        pytest.param("*" * 300 + "b", "a" * 250, id="stars side by side"),
        pytest.param("a/**/a*/**/a/**/*a/**/a/**/a/**/b", "a/" * 300, id="many folders"),
    ],
)
def test_no_pattern_takes_long(tmp_path, pattern, name):
    """A workspace can bring any pattern, and its settings, too (`disable.paths`)."""
    (tmp_path / ".gitignore").write_text(pattern)
    started = time.process_time()
    assert not PathRules([tmp_path], [pattern]).is_excluded(tmp_path / name)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(("case", "is_excluded"), [(re.IGNORECASE, True), (re.NOFLAG, False)])
def test_patterns_have_case_where_file_names_have_it(repo, monkeypatch, case, is_excluded):
    # with core.ignorecase, as git sets it on Windows and macOS, `git check-ignore` says the same
    monkeypatch.setattr(privacy, "CASE", case)
    (repo / ".gitignore").write_text("Secret_Config.py\nBuild/\n")
    rules = PathRules([repo], ["*.DUMP"])
    for path in ("secret_config.py", "build/a.py", "a.dump"):
        assert rules.is_excluded(repo / path) is is_excluded, path
    assert rules.is_excluded(repo / "Secret_Config.py")


@pytest.mark.parametrize(("form", "is_excluded"), [("NFC", True), (None, False)])
def test_an_accent_apart_from_its_letter_is_the_same_name_where_the_system_says_so(
    repo, monkeypatch, form, is_excluded
):
    # macOS; with core.precomposeunicode, as git sets it there, `git check-ignore` says the same
    monkeypatch.setattr(privacy, "FORM", form)
    (repo / ".gitignore").write_text("Pr\u00fcfung/\ncaf\u00e9.py\n", encoding="utf-8")
    rules = PathRules([repo], ["r\u00e9sum\u00e9.py"])
    for path in ("Pru\u0308fung/a.py", "cafe\u0301.py", "re\u0301sume\u0301.py"):
        assert rules.is_excluded(repo / path) is is_excluded, path
        assert rules.is_excluded(unicodedata.normalize("NFC", str(repo / path)))


def test_a_changed_ignore_file_is_read_again(tmp_path):
    rules = PathRules([tmp_path])
    assert not rules.is_excluded(tmp_path / "a.py")
    time.sleep(0.01)
    (tmp_path / ".gitignore").write_text("a.py\n")
    assert rules.is_excluded(tmp_path / "a.py")


def test_a_time_of_nought_is_a_time(repo):
    for file in (".git", ".gitignore", ".git/info/exclude"):
        os.utime(repo / file, ns=(0, 0))
    rules = PathRules([repo / "backend"])
    assert rules.is_excluded(repo / "backend" / "local_settings.py")
    assert rules.is_excluded(repo / "backend" / "mine.py")


def test_the_users_own_patterns_and_bad_lines(tmp_path):
    (tmp_path / ".gitignore").write_bytes(b"\xff\xfe\n!\nb.py\n")
    rules = PathRules([tmp_path], extra=["[z-a]", "!", "work/**"])
    assert rules.is_excluded(tmp_path / "b.py"), "one bad line does not switch off the others"
    assert rules.is_excluded("/x/work/a.py") is PathRules([], ["work/**"]).is_excluded("/x/work/a.py")
    assert PathRules([], ["*.sql"]).is_excluded("/x/dump.sql")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        pytest.param('password = "hunter2hunter2"', "hunter2", id="an assignment"),
        pytest.param("'api_key': 'abcdef123456'", "abcdef", id="a mapping"),
        pytest.param("const authToken = `s3cr3t-value-1`;", "s3cr3t", id="a template string"),
        pytest.param('DB_PASSWORD := "longenough"', "longenough", id="Go"),
        pytest.param("aws AKIAIOSFODNN7EXAMPLE x", "IOSFODNN7", id="a cloud key by its shape"),
        pytest.param("x = 'ghp_" + "a" * 36 + "'", "aaaa", id="a forge's token by its shape"),
        pytest.param("mail = 'SG." + "a" * 22 + "." + "b" * 43 + "'", "bbbb", id="a mail service's key"),
        pytest.param("AccountName=x;AccountKey=" + "aB1/" * 21 + "aB==;", "aB1/", id="a storage account's key"),
        pytest.param("x = 'dop_v1_" + "0a" * 32 + "'", "0a0a", id="a host's token by its shape"),
        pytest.param("postgres://user:pa55word@host/db", "pa55word", id="a password in an address"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "c2lnbmF0", id="a signed token"),
        pytest.param(
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----", "MIIE", id="a key block"
        ),
        pytest.param("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "MIIE", id="a key block that is cut off"),
        pytest.param("  POSTGRES_PASSWORD: s3cr3tvalue", "s3cr3t", id="YAML"),
        pytest.param('  - "POSTGRES_PASSWORD=s3cr3tvalue"', "s3cr3t", id="a list in YAML"),
        pytest.param("export API_KEY=abcdefghijkl", "abcdef", id="a shell, where a word is no name"),
        pytest.param("# API_KEY=abc123def456", "abc123", id="in a comment"),
        pytest.param("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr", id="an ini file's"),
        pytest.param("spring.datasource.password=p@ssw0rd!", "p@ss", id="a properties file"),
        pytest.param('h = {"Authorization": "Bearer abcdefghijklmnop"}', "abcdef", id="a bearer token"),
        pytest.param("redis://:s3cr3tvalue@host:6379/0", "s3cr3t", id="an address without a name"),
        pytest.param('f"redis://{name}:s3cr3tvalue@{host}"', "s3cr3t", id="an address whose name is put in"),
        pytest.param('{"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}', "dXNlcjpw", id="name and password in a header"),
        pytest.param('PASSWORD = """hunter2hunter2"""', "hunter2", id="three quotes"),
        pytest.param("x = 'sk-proj-abcdefghijklmnopqrst1234'", "mnop", id="a model's key by its shape"),
        pytest.param('token = f(password="hunter2hunter2")', "hunter2", id="a secret in an argument"),
        pytest.param('password = "it\'s-hunter2"', "hunter2", id="another quote inside"),
        pytest.param(r'password = "a\"bc-hunter2"', "hunter2", id="the same quote inside"),
        pytest.param("signing_key = 'abc123def456'", "abc123", id="a key that signs"),
        pytest.param('"Server=x;Uid=u;Pwd=Hunter2!x;Encrypt=True"', "Hunter2", id="what a database is opened with"),
        pytest.param("'Endpoint=sb://x/;SharedAccessKey=" + "aB1/" * 10 + "='", "aB1/", id="a message bus"),
        pytest.param("https://hooks.slack.com/services/T01234567/B01234567/" + "aB1" * 8, "aB1", id="a web hook"),
        pytest.param("curl -X POST -u admin:s3cr3tvalue https://host/x", "s3cr3t", id="curl's user"),
        pytest.param("requests.get(url, auth=('admin', 's3cr3tvalue'))", "s3cr3t", id="a pair for an HTTP library"),
        pytest.param("https://x.blob.core.windows.net/a?sv=1&sig=" + "aB1%2F" * 8, "aB1", id="a signed address"),
        pytest.param("bot('123456789:AA" + "F1-" * 11 + "')", "F1-", id="a bot's token"),
    ],
)
def test_secrets_are_redacted_and_lines_stay(text, secret):
    shown = redact(f"a = 1\n{text}\nb = 2\n" if "BEGIN PRIVATE" not in text else text)
    assert secret not in shown
    assert shown.count("\n") >= text.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("token = tokens.pop()", id="a call is no secret"),
        pytest.param("def check(password: str) -> bool:", id="a parameter is no secret"),
        pytest.param('password = ""', id="empty"),
        pytest.param('url = "https://example.org/a:b@c"', id="an address without a password"),
        pytest.param("key = 'name'\n", id="a short value, an ordinary key"),
        pytest.param("token: str", id="an annotation"),
        pytest.param("    token: Optional[str] = None,\n", id="an annotation with a default"),
        pytest.param("    token: int|None=None", id="an annotation without spaces"),
        pytest.param("  api_key: string | undefined;", id="a type in TypeScript"),
        pytest.param("  API_TOKEN: SecretString", id="a type of one's own"),
        pytest.param("password = get_password()", id="a call by a long name"),
        pytest.param("token = settings.TOKEN", id="an attribute"),
        pytest.param("  apiKey: process.env.API_KEY,", id="a property"),
        pytest.param("    secret=another_secret,", id="an argument by name"),
        pytest.param("token = utf8ToUtf16", id="a name with digits"),
        pytest.param("max_tokens = 16384000", id="a number"),
        pytest.param("TOKEN=$(cat /run/secrets/token)", id="a substitution in a shell"),
        pytest.param("PASSWORD=${DB_PASSWORD:-}", id="a variable of a shell"),
        pytest.param("password == otherpassword1x2y", id="a comparison"),
        pytest.param("tokenUrl: https://example.org/token1/a2b3", id="an address by that name"),
        pytest.param("if x: token = 1 or s3cr3tvalue2", id="not at the start of a line"),
        pytest.param('f"postgres://{user}:{password}@{host}/db"', id="a password that is put in"),
        pytest.param('"amqp://%s:%s@%s" % (user, password, host)', id="one that is put in by C's rules"),
        pytest.param("url=https://${USER}:$TOKEN@example.org", id="one that a shell puts in"),
        pytest.param(".sk-estimator-html-representation-container {", id="a class of a stylesheet"),
        pytest.param("# Basic internationalization is done", id="a word behind another"),
        pytest.param('h = f"Bearer {self.access_token_value}"', id="a bearer token that is put in"),
        pytest.param("token = 'it' if a else 'that'", id="two short strings"),
        pytest.param('f"Server={host};Pwd={password};"', id="a database's password that is put in"),
        pytest.param('curl -u "$USER:$PASSWORD" https://example.org', id="a user that a shell puts in"),
        pytest.param("curl --user {name}:{password} https://example.org", id="a user that is put in"),
        pytest.param("get(url, auth=(user, password))", id="a pair of names"),
        pytest.param("a=1;Pwd=form.elements.Pwd;send(Pwd)", id="a statement that gives one on"),
    ],
)
def test_ordinary_code_is_left_alone(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    ["password = " * 20_000 + "'" * 1000, "token" * 60_000, "\ntoken=" + "a" * 300_000, "token:" * 50_000,
     "\n" * 100_000 + "token = \n" * 10_000, "\napi_key=a(" + "a1" * 100_000, "sk-" * 100_000, "://:" * 100_000,
     "authorization:" + "\t" * 100_000 + "authorization " * 10_000, "eyJa-" * 60_000,
     "curl -u " * 40_000, "curl" + " --user" * 40_000, "auth=('', " * 30_000, "curl -u " + "a" * 300_000],
    ids=["assignments", "one word", "a long value", "colons", "empty lines", "a long call", "beginnings of a key",
         "addresses", "headers", "beginnings of a signed token", "curls", "users", "pairs", "a long user"],
)  # fmt: skip
def test_redacting_is_linear(text):
    started = time.process_time()
    assert REDACTED not in redact(text)
    assert time.process_time() - started < 2
