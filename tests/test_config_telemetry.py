"""The section `[telemetry]`: its defaults, what each key may be, and what is said of what it may not be."""

from pathlib import Path

import pytest

from tolsey.config import load, problems
from tolsey.config_secrets import Secret
from tolsey.config_telemetry import Telemetry

ENV = {"COLLECTOR_KEY": "sesame"}


def read(folder: Path, text: str) -> Telemetry:
    file = folder / "tolsey.toml"
    file.write_text(text)
    return load(file, ENV).telemetry


def test_nothing_is_sent_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == read(tmp_path, "[telemetry]") == Telemetry(None, (), 1.0)


def test_every_key(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
[telemetry]
endpoint = "https://otel.example/base"
headers = { Api-Key = "${COLLECTOR_KEY}" }
sample_ratio = 0
""",
    )
    assert found == Telemetry("https://otel.example/base", (("Api-Key", Secret("sesame")),), 0.0)
    assert "sesame" not in repr(found)


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ('endpoint = "http://u:p@h"', "endpoint", "belong in `headers`"),
        ('endpoint = "otel:4317"', "endpoint", 'must be "http://host"'),
        ('endpoint = "http://h/"', "endpoint", "may not end in '/'"),
        ("sample_ratio = 1.5", "sample_ratio", "must be a number from 0 to 1"),
        ("sample_ratio = nan", "sample_ratio", "must be a number from 0 to 1"),
        ("sample_ratio = true", "sample_ratio", "must be a number from 0 to 1"),
        ('headers = { a = "${GONE}" }', "headers.a", "GONE is not set"),
        ('headers = { host = "x" }', "headers.host", "the gateway's own to set"),
        ("header = {}", "header", 'did you mean "headers"'),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, line: str, key: str, message: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(f"[telemetry]\n{line}\n")
    (found,) = problems(file, ENV)
    assert (found.line, found.key) == (2, f"telemetry.{key}")
    assert message in found.reason
