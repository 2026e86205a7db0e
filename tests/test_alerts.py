"""Alerts: what is told, once; how it is signed, sent, sent again, given up."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from standardwebhooks import Webhook

from tests.cli import answer, refusal
from tests.gateways import Gateway, serving, until
from tests.ledgers import Ledgers, database, purse
from tests.postgres import Server
from tests.upstreams import Upstream
from tolsey import attenuate
from tolsey.cli.alarm import Alarm
from tolsey.config import load, problems
from tolsey.config_alerts import AlertsTo
from tolsey.config_secrets import Secret
from tolsey.ledger.alerting import KINDS, PAUSES, TEST, THRESHOLD, Alert, Standing, crossed, next_try
from tolsey.ledger.approving import OPEN_NS, Question
from tolsey.ledger.events import Reserve, Settle
from tolsey.store.alerts import CLAIM_NS, Alerts, try_again
from tolsey.store.contract import Ledger
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.postgres import open_postgres
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.webhooks import deliver, key_of, sign
from tolsey.testing import NOON, SECOND
from tolsey.token.caveats import format_time

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["GET"]
upstream = "one"
price = "1 USD"
[alerts]
url = "http://127.0.0.1:<hook>/in?key=k"
secret = "${ALERT_SECRET}"
thresholds = [50, 100]
"""


class Hook:
    """A receiver: what it got (headers in lower case, body), and what it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(hook.statuses.pop(0) if hook.statuses else 204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Not to the test's output."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def about(self, kind: str) -> list[dict[str, Any]]:
        """The data of what was told about this, verified as its makers do."""
        found = []
        for _, headers, body in self.got:
            told = Webhook(SECRET).verify(body, headers)
            if told["type"] == kind:
                found.append(told["data"])
        return found


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.server.shutdown()
    running.server.server_close()


# --- what is told


def standing(
    spent: int, held: int = 0, limit: int = 1000, period: str | None = None, window: int | None = None
) -> Standing:
    return Standing("a", "USD", "team", period, window, limit, spent, held)


@pytest.mark.parametrize(
    ("where", "percents"),
    [
        (standing(499), []),
        (standing(500), [50]),
        (standing(400, 100), [50]),
        (standing(799), [50]),
        (standing(800), [50, 80]),
        (standing(999), [50, 80]),
        (standing(1000), [50, 80, 100]),
        (standing(2**62, limit=2**63 - 1), [50]),
        (standing(2**62 - 1, limit=2**63 - 1), []),
    ],
)
def test_a_threshold_is_reached_exactly(where: Standing, percents: list[int]) -> None:
    assert [alert.data["percent"] for alert in crossed(where, (50, 80, 100), NOON)] == percents


def test_each_window_is_told_anew_and_forgotten() -> None:
    (first,) = crossed(standing(500, period="day", window=1), (50,), NOON)
    (second,) = crossed(standing(500, period="day", window=2), (50,), NOON)
    (plain,) = crossed(standing(500), (50,), NOON)
    assert len({first.id, second.id, plain.id}) == 3
    assert (first.until is None, plain.until) == (False, None)


def test_attempts_are_given_up_after_a_day() -> None:
    now, tries = 0, 1
    while (again := next_try(tries, now)) is not None:
        now, tries = again, tries + 1
    assert (tries, now) == (len(PAUSES) + 1, sum(PAUSES) * SECOND)
    assert 20 < sum(PAUSES) / 3600 < 24


# --- how it is signed


def test_the_signature_is_that_of_standard_webhooks() -> None:
    body, now = '{"test": 2432232314}', int(time.time())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now)}
    assert Webhook(SECRET).verify(body, headers | {"webhook-signature": sign(key_of(SECRET), "msg_1", now, body)})
    # The vector of its specification.
    known = sign(key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert known == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_that_is_not_there_or_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            end, _ = listener.accept()
            end.recv(65536)
            end.close()

        threading.Thread(target=hang_up, daemon=True).start()
        assert deliver(f"http://127.0.0.1:{port}/", b"k", "i", 1, "{}") is not None
    assert "ConnectionRefusedError" in (deliver(f"http://127.0.0.1:{port}/", b"k", "i", 1, "{}") or "")


def test_a_host_that_is_no_name() -> None:
    """It must not end the gateway, which sends alerts as one of its chores."""
    assert "UnicodeError" in (deliver(f"http://{'h' * 64}.example/", b"k", "i", 1, "{}") or "")


def test_a_redirect_is_not_followed(hook: Hook) -> None:
    hook.statuses = [302]
    assert deliver(f"http://127.0.0.1:{hook.port}/", b"k", "i", 1, "{}") == "answered 302"
    assert len(hook.got) == 1


# --- in the ledger


@asynccontextmanager
async def ledger_on(engine: str, folder: Path, postgres: Server) -> AsyncIterator[Ledger]:
    if engine == "sqlite":
        file = SqliteLedger(folder / "l.db", durability="full", now=time.time_ns(), new_id="l", create=True)
        ledger: Ledger = EmbeddedLedger(file, timeout=5, now=time.time_ns)
    else:
        url = postgres.database()
        ledger = await open_postgres(url, durability="full", seconds=5, now=time.time_ns, new_id="l", create=True)
    await ledger.register("o1")
    try:
        yield ledger
    finally:
        await ledger.close()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_what_happened_is_told_once(engine: str, tmp_path: Path, postgres: Server) -> None:
    async with ledger_on(engine, tmp_path, postgres) as ledger:
        alerts, others = (Alerts(ledger, (50, 100), KINDS) for _ in "12")
        now = time.time_ns()
        await alerts.collect(now)
        await others.collect(now)
        chain = purse("root 100 / team - / worker 10")
        await ledger.write([Reserve("h1", chain, 6), Settle("h1", 5)])
        question = Question("q1", now, now + OPEN_NS, "r", "p", "a/b", "t", "GET", "/x", "y=1", 7 * 10**9, "USD", "")
        assert await ledger.ask(question)
        await ledger.answer("q1", granted=True, note="approved by x: y")
        for each in (alerts, others, alerts):
            await each.collect(now)
        now = time.time_ns()
        taken = await alerts.take(now)
        told = [(one.kind, json.loads(one.body)) for one in taken]
        assert sorted(kind for kind, _ in told) == ["account.threshold", "approval.answered"]
        threshold = next(data for kind, data in told if kind == THRESHOLD)
        assert (threshold["account"], threshold["percent"], threshold["spent"]) == ("worker", 50, "0.000000005")
        assert await others.take(now) == []
        await alerts.done(taken[0], now, None)
        assert not await alerts.done(taken[1], now, "answered 500")
        assert [one.tries for one in await alerts.take(now + CLAIM_NS)] == [2]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_one_that_is_never_taken_is_dead_until_somebody_says_so(
    engine: str, tmp_path: Path, postgres: Server
) -> None:
    async with ledger_on(engine, tmp_path, postgres) as ledger:
        alerts = Alerts(ledger, (50,), KINDS)
        await alerts.put([Alert("t1", 1, TEST, {}, None)], 1)
        now = 1
        for tries in range(1, len(PAUSES) + 2):
            (taken,) = await alerts.take(now)
            assert taken.tries == tries
            assert await alerts.done(taken, now, "x" * 300) == (tries > len(PAUSES))
            now = next_try(tries, now) or now
        assert await alerts.take(2**62) == []
        assert not await try_again(ledger, "t2")
        assert await try_again(ledger, "t1")
        assert [one.id for one in await alerts.take(now)] == ["t1"]


def test_what_was_there_before_is_told_of_accounts_alone(tmp_path: Path) -> None:
    """A gateway that starts says which budgets are short, and not what people said last year."""
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        ledgers.open("o1").run([Reserve("h1", purse("root 10"), 9)], NOON)

    with database(tmp_path / "ledger.db", lawless=True) as db:
        # As if they were rolled up: it is the account that is short, whatever is left of its journal.
        db.execute("DELETE FROM entry")

    async def look() -> list[str]:
        file = SqliteLedger(tmp_path / "ledger.db", durability="full", now=NOON, new_id="", create=False)
        ledger = EmbeddedLedger(file, timeout=5, now=time.time_ns)
        alerts = Alerts(ledger, (50,), KINDS)
        await alerts.collect(NOON)
        found = [taken.id for taken in await alerts.take(NOON)]
        await ledger.close()
        return found

    assert asyncio.run(look()) == ["account.threshold:root:USD:50"]
    with SqliteSnapshot(tmp_path / "ledger.db") as snapshot:
        assert [row.state for row in snapshot.alerts()] == ["waiting"]


# --- by a gateway


@pytest.fixture
def gateway(upstream: Upstream, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("ALERT_SECRET", SECRET)
    with serving(tmp_path, CONFIG, port=upstream.port, hook=hook.port) as running:
        yield running


@pytest.mark.slow
def test_a_gateway_tells(gateway: Gateway, hook: Hook) -> None:
    c = ("-c", str(gateway.file))
    hook.statuses = [500]
    token = gateway.token(budget="4 USD")
    for _ in range(2):
        assert gateway.ask("GET", "/a", token=token).status == 200
    until(lambda: len(hook.about(THRESHOLD)) == 2, "it is sent, and sent again", 30)
    (first, second) = hook.about(THRESHOLD)
    assert first == second
    assert (first["percent"], first["limit"], first["spent"], first["label"]) == (50, "4", "2", "team")
    assert {headers["webhook-id"] for _, headers, _ in hook.got} == {f"{THRESHOLD}:{first['account']}:USD:50"}
    assert hook.got[0][0] == "/in?key=k"

    approver = answer("approver", f"http://127.0.0.1:{gateway.port}", *c)["approver"]
    asking = attenuate(token, label="buyer", approval="always", approver=approver)
    body = json.dumps({"method": "GET", "path": "/a", "price": "1 USD", "purpose": "\u202e"}).encode()
    asked = json.loads(gateway.ask("POST", "/.tolsey/approvals", token=asking, body=body).body)
    until(lambda: hook.about("approval.asked"), "somebody is told", 30)
    assert hook.about("approval.asked")[0]["labels"] == "team/buyer"
    answer("deny", asked["approval"], "--reason", "no", *c)
    until(lambda: hook.about("approval.answered"), "and of the answer", 30)
    assert hook.about("approval.answered")[0]["granted"] is False

    sent = answer("alerts", "test", *c)["id"]
    until(lambda: hook.about(TEST), "the test arrives", 30)
    until(lambda: answer("alerts", "list", *c)["alerts"][0]["state"] == "sent", "it is known to have arrived")
    newest = answer("alerts", "list", *c)["alerts"][0]
    assert (newest["id"], newest["tries"], newest["type"]) == (sent, 1, TEST)
    assert answer("alerts", "list", "--dead", *c)["alerts"] == []
    assert refusal("alerts", "retry", sent, *c)["code"] == "alert_unknown"
    assert SECRET not in gateway.said() + gateway.out.read_text()


@pytest.mark.slow
def test_a_gateway_tells_that_the_seal_fails_once_and_when_it_is_restored(gateway: Gateway, hook: Hook) -> None:
    def up() -> bool:
        return b"tolsey_seal_up 1.0" in gateway.ask("GET", "/metrics", admin=True).body

    assert gateway.ask("GET", "/a", token=gateway.token(budget="9 USD")).status == 200
    answer("audit", "checkpoint", "-c", str(gateway.file))
    until(up, "it can sign")
    keys = gateway.file.parent / "data" / "keys"
    whole = keys.read_bytes()
    content = json.loads(whole)
    content["keys"] = [key for key in content["keys"] if key["kind"] != "tolsey-seal"]
    keys.write_text(json.dumps(content))
    until(lambda: not up(), "it cannot sign")
    until(lambda: hook.about("seal.failed"), "it is told", 30)
    assert "which is not in this keyring" in hook.about("seal.failed")[0]["problem"]
    # Two looks further on it has been told once.
    sent = answer("alerts", "test", "-c", str(gateway.file))["id"]
    until(lambda: any(h["webhook-id"] == sent for _, h, _ in hook.got), "the test arrives", 30)
    assert len(hook.about("seal.failed")) == 1
    assert hook.about("seal.restored") == []
    keys.write_bytes(whole)
    until(lambda: hook.about("seal.restored"), "and that it is restored", 30)
    assert up()
    assert "checkpoints are taken again" in gateway.said()
    assert len(hook.about("seal.failed")) == 1


async def test_each_failure_of_the_seal_is_told_once(tmp_path: Path, postgres: Server) -> None:
    """One alert when it begins, however often it is looked at, one when it ends, and another for the next."""
    problems = ["", "no key", "no key", "another reason", "", "", "no key"]
    to = AlertsTo(Secret("http://127.0.0.1:1/"), Secret(SECRET), (), KINDS)
    async with ledger_on("sqlite", tmp_path, postgres) as ledger:

        @asynccontextmanager
        async def using() -> AsyncIterator[Ledger]:
            yield ledger

        alarm = Alarm(using, lambda: to, lambda: problems[0], structlog.get_logger())
        while problems:
            await alarm.look(to)
            problems.pop(0)
        with SqliteSnapshot(tmp_path / "l.db") as snapshot:
            told = sorted((row.at, row.kind, json.loads(row.body)) for row in snapshot.alerts())
    assert [kind for _, kind, _ in told] == ["seal.failed", "seal.restored", "seal.failed"]
    assert told[0][2]["problem"] == "no key"
    assert told[1][2]["since"] == format_time(told[0][0])


def test_without_a_section_nothing_is_told(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG.partition("[alerts]")[0], port=upstream.port) as gateway:
        assert refusal("alerts", "test", "-c", str(gateway.file))["code"] == "alerts_off"


@pytest.mark.parametrize(
    ("lines", "key", "part"),
    [
        ('url = "http://h/"', "secret", "missing"),
        ('secret = "sssssssssssssssss"', "url", "missing"),
        ('url = "ftp://h/"\nsecret = "sssssssssssssssss"', "url", "http://host/path"),
        ('url = "http://u:p@h/"\nsecret = "sssssssssssssssss"', "url", "http://host/path"),
        ('url = "http://h/ x"\nsecret = "sssssssssssssssss"', "url", "character"),
        ('url = "http://h/"\nsecret = "short"', "secret", "shorter than 16"),
        ('url = "http://h/"\nsecret = "whsec_#"', "secret", "base64"),
        ('url = "http://h/"\nsecret = "${NO_SUCH}"', "secret", "NO_SUCH is not set"),
        ('url = "http://h/"\nsecret = "sssssssssssssssss"\nthresholds = [0]', "thresholds", "from 1 to 100"),
        ('url = "http://h/"\nsecret = "sssssssssssssssss"\nevents = ["moon"]', "events", "moon"),
        ('url = "http://h/"\nsecret = "sssssssssssssssss"\nmore = 1', "more", "known"),
    ],
)
def test_a_config_that_is_wrong(tmp_path: Path, lines: str, key: str, part: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(f"[alerts]\n{lines}\n")
    found = [str(error) for error in problems(file, {}) if f"alerts.{key}" in str(error)]
    assert found
    assert part in found[0]


def test_a_config_that_is_right(tmp_path: Path) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(
        '[alerts]\nurl = "${URL}"\nsecret = "${SECRET}"\nevents = ["token.revoked"]\nthresholds = [90, 10]\n'
    )
    alerts = load(file, {"URL": "https://h/x?y=z", "SECRET": SECRET}).alerts
    assert alerts is not None
    assert (alerts.thresholds, alerts.kinds) == ((10, 90), ("token.revoked", TEST))
    assert SECRET not in repr(alerts)
    assert load(file, {}, sends=False).alerts is not None
