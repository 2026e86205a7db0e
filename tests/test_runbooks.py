"""The runbooks: their commands, run in order as they stand there, do what the text says.

`systemctl` is a script that starts and stops the gateway of a folder; paths of backups and ports are the test's own.
"""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import postgres
from tests.cli import answer
from tests.gateways import Gateway, child_of, lay_out, until
from tests.ports import free_port
from tests.postgres import Server
from tests.swarm import ending
from tests.test_docs import DOCS, run
from tests.upstreams import Upstream
from tolsey.store.keyring import Keyring
from tolsey.token.chain import ADMIN, CAPABILITY

pytestmark = pytest.mark.slow

RUNBOOKS = DOCS / "runbooks"
CONFIG = """
[server]
[[upstream]]
name = "api"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["GET"]
upstream = "api"
price = "1 USD"
"""
SYSTEMCTL = """#!/bin/sh
set -e
case "$1" in
stop)
    kill "$(cat gateway.pid)"
    while kill -0 "$(cat gateway.pid)" 2>/dev/null; do sleep 0.05; done ;;
start)
    tolsey serve >>gateway.out 2>&1 &
    echo $! >gateway.pid
    until curl -sf http://127.0.0.1:8403/readyz >/dev/null; do kill -0 "$(cat gateway.pid)"; sleep 0.05; done ;;
esac
"""

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the runbooks call curl")


def commands(name: str) -> str:
    """Everything that is to be typed, with the indentation of lists taken off."""
    found = re.findall(r"^( *)```sh\n(.*?)^ *```$", (RUNBOOKS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return "".join(re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found)


Play = Callable[..., str]


@pytest.fixture
def gateway(upstream: Upstream, tmp_path: Path) -> Gateway:
    """A gateway that the script starts and stops."""
    folder = tmp_path / "g"
    folder.mkdir()
    return lay_out(folder, CONFIG, port=upstream.port)


@pytest.fixture
def play(gateway: Gateway, tmp_path: Path) -> Play:
    """Runs commands in the gateway's folder, where the gateway is started first and stopped at the end."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("backups", "archive"):
        (tmp_path / name).mkdir()
    (bin_ / "systemctl").write_text(SYSTEMCTL.replace("8403", str(gateway.admin_port)))
    (bin_ / "systemctl").chmod(0o755)

    def go(text: str, **values: str) -> str:
        for old, new in {"8403": str(gateway.admin_port), "/backups": f"{tmp_path}/backups",
                         "/archive": f"{tmp_path}/archive", **values}.items():  # fmt: skip
            text = text.replace(old, new)
        before = f"set -e\nPATH={bin_}:$PATH\nsystemctl start tolsey\ntrap 'systemctl stop tolsey' EXIT\n"
        status, said = run(before + text, gateway.file.parent)
        assert status == 0, said
        return said

    return go


def spend(gateway: Gateway, token: str, calls: int) -> str:
    """Shell that makes so many calls."""
    call = f"curl -sf -H 'Authorization: Bearer {token}' http://127.0.0.1:{gateway.port}/x >/dev/null\n"
    return call * calls


@needs_curl
def test_a_key_that_got_out(gateway: Gateway, play: Play) -> None:
    old, admin = (Keyring.open(gateway.keys).current(kind)[0] for kind in (CAPABILITY, ADMIN))
    token = gateway.token()
    (gateway.file.parent / "lost.txt").write_text(child_of(token, "label = lost n"))
    refused = (
        f"until curl -s -H 'Authorization: Bearer {token}' http://127.0.0.1:{gateway.port}/x | grep token_forged\n"
    )
    said = play(spend(gateway, token, 2) + commands("key-compromise.md") + refused + "do sleep 0.1; done\n", **{
        "79125265": old})  # fmt: skip
    assert f"dropped {old}" in said
    assert "revoked Link 2 (lost)" in said
    keyring = Keyring.open(gateway.keys)
    assert old not in keyring.key_ids(CAPABILITY)
    assert (admin, keyring.current(ADMIN)[0] == admin) == (keyring.key_ids(ADMIN)[0], False)
    assert '"settle"' in (gateway.file.parent / "journal.jsonl").read_text()


@needs_curl
def test_a_ledger_that_is_restored(gateway: Gateway, play: Play, tmp_path: Path) -> None:
    token = gateway.token()
    before = spend(gateway, token, 1) + "tolsey backup /backups/ledger.db\n" + spend(gateway, token, 2)
    after = (
        spend(gateway, token, 1)
        + f"curl -sf -H 'Authorization: Bearer {token}' "
        + (f"http://127.0.0.1:{gateway.port}/.tolsey/balance\n")
    )
    said = play(before + commands("restore.md") + after)
    assert "it is older than its keys" in said
    # One call before the backup and one after the restoration; the two between are forgotten, and that is written down.
    assert re.search(r'"spent": ?"2"', said), said
    answer("export", "-c", str(gateway.file), "--output", str(tmp_path / "journal.jsonl"))
    assert "incident 12" in (tmp_path / "journal.jsonl").read_text()
    assert (tmp_path / "backups/ledger-after.db").exists()


@needs_curl
def test_a_ledger_that_is_full(gateway: Gateway, play: Play) -> None:
    said = play(spend(gateway, gateway.token(), 2) + commands("ledger-full.md"))
    assert "everything adds up" in said
    assert '{"status":"ok"}' in said
    assert said.rstrip().endswith("none")


def test_a_failover(tmp_path: Path) -> None:
    with postgres.server() as primary, postgres.place() as folder:
        standby = Server(folder)
        url = primary.database()
        standby.copy_of(primary)
        standby.start()
        try:
            primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.psql("SELECT pg_reload_conf()")
            until(lambda: primary.psql("SELECT sync_state FROM pg_stat_replication") == "sync", "it is synchronous")
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            gateway = lay_out(tmp_path, CONFIG, port=free_port())
            with Upstream() as upstream, ending(gateway):
                text = gateway.file.read_text()
                text = re.sub(r'(url = "http://127.0.0.1:)\d+', rf"\g<1>{upstream.port}", text)
                where = url.replace(urlsplit(url).netloc.partition("@")[2], hosts)
                gateway.file.write_text(f'{text}[ledger]\nurl = "{where}?target_session_attrs=read-write"\n')
                gateway.begin()
                token = gateway.token()
                assert gateway.ask("GET", "/x", token=token).status == 200
                primary.kill()
                path = f"PATH={postgres.binaries()}:$PATH\nSTANDBY_URL={standby.url('postgres')}\n"
                status, said = run(f"set -e\n{path}{commands('failover.md')}", tmp_path)
                assert status == 0, said
                assert "everything adds up" in said
                deadline = time.monotonic() + 20
                while gateway.ask("GET", "/x", token=token).status != 200:
                    assert time.monotonic() < deadline, gateway.said()
                gateway.stands(token, spent="2", calls=2)
        finally:
            standby.kill()
