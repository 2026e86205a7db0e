"""Observe mode through a real gateway: nothing is refused, and what enforcement would have said is written down."""

import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import answer
from tests.gateways import Gateway, child_of, problem, serving, until
from tests.reading import fsck
from tests.upstreams import Upstream
from tolsey.ledger.tallies import TallyKey
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.tallies import tallies
from tolsey.units import format_nano

CONFIG = """
[server]
mode = "observe"
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/big/*"
methods = ["POST"]
upstream = "one"
price = "1 USD"
max_body = 10
[[route]]
path = "/gone/*"
methods = ["GET"]
upstream = "gone"
price = "1 USD"
[[route]]
path = "/hard/*"
methods = ["GET"]
upstream = "one"
price = "0.4 USD"
mode = "enforce"
[[route]]
path = "/*"
methods = ["GET", "POST"]
upstream = "one"
price = "0.4 USD"
[[upstream]]
name = "gone"
url = "http://127.0.0.1:1"
"""
START = """
[server]
mode = "observe"
[[upstream]]
name = "api"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["*"]
upstream = "api"
price = "0.01 USD"
"""


@pytest.fixture
def watching(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a ledger that nobody has written to."""
    with serving(tmp_path_factory.mktemp("observe"), CONFIG, port=upstream.port) as running:
        yield running


def counted(gateway: Gateway, calls: int) -> list[tuple[TallyKey, int, int]]:
    """The keys that were tallied with their calls and cost in nano-units, once there are so many calls."""
    found: list[tuple[TallyKey, int, int]] = []

    def there() -> bool:
        with SqliteSnapshot(gateway.ledger) as snapshot:
            found[:] = [(key, counts.calls, counts.cost) for _, key, counts in tallies(snapshot, 0, 2**40)]
        return sum(each[1] for each in found) >= calls

    until(there, "the calls are tallied", 20)
    assert sum(each[1] for each in found) == calls
    return sorted(found)


def observed(gateway: Gateway) -> dict[str | None, str]:
    return {row.label: format_nano(row.observed) for row in gateway.trail()}


def test_a_call_without_a_token_goes_on_and_is_counted(watching: Gateway, upstream: Upstream) -> None:
    for path in ("/users/17", "/users/18"):
        assert watching.ask("GET", path, "User-Agent: curl/8.0").status == 200
    ((key, calls, cost),) = counted(watching, 2)
    assert (key.mode, key.verified, key.agent, key.path) == ("observe", False, "user-agent curl/8.0", "/users/*")
    assert (key.code, key.unit, calls, cost) == ("token_missing", "USD", 2, 800_000_000)
    assert fsck(watching.ledger).difference is None
    assert watching.trail() == []


def test_a_foreign_credential_goes_up_and_one_of_ours_does_not(watching: Gateway, upstream: Upstream) -> None:
    watching.ask("GET", "/a", "Authorization: Bearer the-upstreams-own")
    assert upstream.last().all("authorization") == ["Bearer the-upstreams-own"]
    token = watching.token()
    watching.ask("GET", "/a", token=token)
    assert upstream.last().all("authorization") == []
    forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    assert watching.ask("GET", "/a", token=forged).status == 200
    assert upstream.last().all("authorization") == []


def test_overspend_is_recorded_truly_and_refuses_no_enforced_call(watching: Gateway, upstream: Upstream) -> None:
    token = watching.token(budget="1 USD")
    for _ in range(5):
        got = watching.ask("GET", "/a", token=token)
        assert (got.status, got["tolsey-cost"]) == (200, "0.4 USD")
    keys = counted(watching, 5)
    assert sorted((key.code, calls) for key, calls, _ in keys) == [("", 2), ("budget_exhausted", 3)]
    assert {(key.agent, key.team, key.verified) for key, _, _ in keys} == {("team", "team", True)}
    assert observed(watching) == {"team": "2"}
    assert [watching.ask("GET", "/hard/a", token=token).status for _ in range(3)] == [200, 200, 402]
    watching.stands(token, spent="0.8", calls=2)
    assert fsck(watching.ledger).difference is None


def test_what_a_token_refuses_is_observed(watching: Gateway, upstream: Upstream) -> None:
    token = watching.token("scope = /a", budget="9 USD")
    assert watching.ask("GET", "/a", token=token).status == 200
    assert watching.ask("GET", "/b", token=token).status == 200
    assert watching.ask("GET", "/a", token=child_of(token, "label = w n", "expires = 2001-01-01")).status == 200
    keys = counted(watching, 3)
    assert sorted((key.agent, key.code) for key, _, _ in keys) == [
        ("team", ""), ("team", "caveat_refused"), ("team/w", "token_expired"),
    ]  # fmt: skip
    # What was refused is charged to accounts that are there, and opens none.
    assert observed(watching) == {"team": "1.2"}


def test_a_call_that_was_not_sent_costs_nothing(watching: Gateway, upstream: Upstream) -> None:
    token = watching.token()
    assert watching.ask("GET", "/gone/a", token=token).status == 502
    ((key, calls, cost),) = counted(watching, 1)
    assert (key.upstream, calls, cost) == ("gone", 1, 0)
    assert observed(watching) == {}


def test_what_cannot_be_forwarded_is_still_refused(watching: Gateway, upstream: Upstream) -> None:
    assert watching.ask("POST", "/big/a", body=b"x" * 11).status == 413
    assert watching.ask("DELETE", "/a").status == 405
    assert watching.ask("GET", "/a/../b").status == 400


def test_tags_that_a_token_allows_are_in_entries_and_tallies(watching: Gateway, upstream: Upstream) -> None:
    token = watching.token("tag = team=research project=*", budget="9 USD")
    assert watching.ask("GET", "/hard/a", "Tolsey-Tag: project=apollo, color=red", token=token).status == 200
    refused = watching.ask("GET", "/hard/a", "Tolsey-Tag: team=other", token=token)
    assert refused.status == 403
    ((key, _, _), *_) = counted(watching, 2)
    assert (key.tags, key.team) == ("project=apollo team=research", "research")
    assert [e.note for e in watching.entries() if e.kind == "reserve"] == ["GET /hard/a #project=apollo team=research"]


def test_strangers_leave_one_line_when_the_gateway_ends(watching: Gateway, upstream: Upstream) -> None:
    for _ in range(3):
        watching.ask("GET", "/a", "User-Agent: x")
    counted(watching, 3)
    assert watching.process is not None
    watching.process.send_signal(signal.SIGTERM)
    assert watching.ends() == 0
    watching.begin()
    notes = [entry.note for entry in watching.entries() if entry.kind == "observe"]
    assert notes == ["3 calls would be refused: token_missing, such as GET /a by user-agent x"]


def test_from_observing_to_enforcing(tmp_path: Path, upstream: Upstream) -> None:
    """What a report proposes is minted and switched on as it is printed, and the agent goes on with it."""
    with serving(tmp_path, START, port=upstream.port) as gateway:
        for n in range(4):
            assert gateway.ask("GET", f"/items/{n}", "X-Agent: crawler").status == 200
        assert gateway.ask("POST", "/items", "X-Agent: crawler", body=b"{}").status == 200
        counted(gateway, 5)
        c = ("-c", str(gateway.file))
        found = answer("report", *c)
        (group,) = found["groups"]
        assert (group["agent"], group["verified"], group["calls"]) == ("x-agent crawler", False, 5)
        assert (group["spend"], group["refused"], group["would_refuse"]) == ({"USD": "0.05"}, 0, 5)
        assert [(each["code"], each["calls"]) for each in found["would_refuse"]] == [("token_missing", 5)]
        proposed = answer("report", "--propose", *c)
        words = shlex.split(proposed["proposals"][0]["command"])[1:]
        token = answer(*words)["token"]
        patch = subprocess.run(["patch", "-p0", gateway.file.name], input=proposed["config_diff"], text=True,
                               cwd=gateway.file.parent, check=True, capture_output=True)  # fmt: skip
        assert "patching file" in patch.stdout
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.ask("GET", "/items/1").status == 401, "the gateway enforces", 20)
        for _ in range(5):
            assert gateway.ask("GET", "/items/9", token=token).status == 200
        assert problem(gateway.ask("GET", "/items/9", token=token))["code"] == "budget_exhausted"
        assert problem(gateway.ask("GET", "/other", token=token))["code"] == "caveat_refused"
