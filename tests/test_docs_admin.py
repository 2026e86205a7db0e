"""What docs/admin.md says is so: its tables are complete, and its commands do what it says."""

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.test_docs import names, rows, run, script
from tests.upstreams import Upstream
from tolsey.admin.problems import CODES
from tolsey.cli.template import TEMPLATE
from tolsey.token.admin_caveats import ACTIONS, ADMIN_CAVEAT_NAMES, parse_admin_caveat


def test_the_caveats_are_all_there_and_their_examples_are_read() -> None:
    found = rows("admin.md", "Handing on")
    assert sorted(names(row[0])[0] for row in found) == sorted(ADMIN_CAVEAT_NAMES)
    for name, examples, *_ in found:
        for example in names(examples):
            assert example.startswith(f"{names(name)[0]} = ")
            parse_admin_caveat(example.encode())


def test_the_actions_are_all_there() -> None:
    assert sorted(names(row[0])[0] for row in rows("admin.md", "What can be done")) == sorted(ACTIONS)


def test_the_codes_are_all_there() -> None:
    found = {code: int(row[1]) for row in rows("admin.md", "Refusals") for code in names(row[0])}
    assert found == {code: status for code, (status, _) in CODES.items()}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page calls curl")
def test_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    folder, admin = tmp_path / "empty", free_port()
    folder.mkdir()
    with closing(Upstream()) as upstream:
        route = f"\n[[upstream]]\nname = 'a'\nurl = 'http://127.0.0.1:{upstream.port}'\n"
        text = script("docs/admin.md", free_port(), admin, upstream.port)
        text = text.replace("127.0.0.1:8403", f"127.0.0.1:{admin}").replace("-s -H", "-s -w '\\n' -H")
        status, said = run(f"tolsey init . && printf {json.dumps(route)} >> tolsey.toml && {text}", folder)
    assert "[admin]" in TEMPLATE
    assert status == 0, said
    lines = said.replace('{"status":"ok"}', "").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{") and '"event"' not in line]
    me, minted, first, second = answers[-4:]
    assert me["label"] == "admin"
    assert (minted["label"], first["label"]) == ("team-research-q2", "intern-run-1")
    assert "scope = /api/v1/search" in first["caveats"]
    assert (second["code"], second["remaining"]) == ("budget_exhausted", "40")
    assert re.search(r"^ +intern +100 +60 +0 +40 +USD +1 ", said, re.MULTILINE), said
    assert "everything adds up" in said
