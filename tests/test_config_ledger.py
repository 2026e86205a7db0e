"""Where the ledger is: the URL of a database, its variables, and that nobody is shown it."""

from pathlib import Path

import pytest

from tolsey.config import load
from tolsey.errors import ConfigError, LedgerRefused

UPSTREAM = '[[upstream]]\nname = "a"\nurl = "http://a"\nheaders = { A = "${NOPE}" }\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tolsey.toml"


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgres://u:${PASSWORD}@h/d", "postgres://u:p%40%2F%25s@h/d"),
        ("postgresql://u@${HOSTS}/d?sslmode=verify-full", "postgresql://u@a:1,[::1]:2/d?sslmode=verify-full"),
        ("${WHOLE}", "postgresql://u:%40@h/d"),
    ],
)
def test_the_url_of_a_database(file: Path, written: str, url: str) -> None:
    """Parts that come from the environment are percent-encoded, a whole URL is not. It is shown to nobody."""
    file.write_text(f'[ledger]\nurl = "{written}"\n')
    env = {"PASSWORD": "p@/%s", "HOSTS": "a:1,[::1]:2", "WHOLE": "postgresql://u:%40@h/d"}
    config = load(file, env)
    assert config.ledger.postgresql == url
    assert "u@" not in repr(config)
    assert "%40" not in repr(config)
    assert load(file, env) == config
    with pytest.raises(LedgerRefused, match="in a SQLite file"):
        _ = config.ledger.path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:sesame@h", "must name a database"),
        ("postgresql://u:sesame@h/a/b", "must name a database"),
        ("postgresql://u:ses#ame@h/d", "written as %XX"),
        ("postgresql://u:sesame@[h/d", "written as %XX"),
        ("postgresql://u:${NOPE}@h/sesame", "environment variable NOPE is not set"),
        ("${NOPE}", "environment variable NOPE is not set"),
        ("postgresql://u:${sesame", "is written ${NAME}"),
    ],
)
def test_a_url_that_is_wrong_is_not_shown(file: Path, url: str, message: str) -> None:
    file.write_text(f'[ledger]\nurl = "{url}"\n')
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert (caught.value.line, caught.value.key) == (2, "ledger.url")
    assert message in caught.value.reason
    assert "sesame" not in str(caught.value)


def test_a_command_that_sends_nothing_needs_no_variable_of_what_is_sent(file: Path) -> None:
    file.write_text('[ledger]\nurl = "${WHOLE}"\n' + UPSTREAM)
    assert load(file, {"WHOLE": "sqlite:////x.db"}, sends=False).ledger.path == Path("/x.db")
    with pytest.raises(ConfigError, match="NOPE"):
        load(file, {"WHOLE": "sqlite:////x.db"})
    with pytest.raises(ConfigError, match="WHOLE"):
        load(file, {}, sends=False)
