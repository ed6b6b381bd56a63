"""Secret and ignored files stay unread, whatever a workspace says; secrets in other files are redacted."""

from __future__ import annotations

import time

import pytest
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


def test_a_changed_ignore_file_is_read_again(tmp_path):
    rules = PathRules([tmp_path])
    assert not rules.is_excluded(tmp_path / "a.py")
    time.sleep(0.01)
    (tmp_path / ".gitignore").write_text("a.py\n")
    assert rules.is_excluded(tmp_path / "a.py")


def test_the_users_own_patterns_and_bad_lines(tmp_path):
    (tmp_path / ".gitignore").write_bytes(b"\xff\xfe\n!\nb.py\n")
    rules = PathRules([tmp_path], extra=["work/**"])
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
        pytest.param("postgres://user:pa55word@host/db", "pa55word", id="a password in an address"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "c2lnbmF0", id="a signed token"),
        pytest.param(
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----", "MIIE", id="a key block"
        ),
        pytest.param("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "MIIE", id="a key block that is cut off"),
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
    ],
)
def test_ordinary_code_is_left_alone(text):
    assert redact(text) == text


def test_redacting_is_linear():
    text = ("password = " * 20_000) + "'" * 1000
    started = time.process_time()
    assert REDACTED not in redact(text)
    assert time.process_time() - started < 2
