"""Tallies: what is told apart, what is counted together, and what comes back from the ledger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledgers import Ledgers
from tolsey.call import parse_pattern
from tolsey.ledger.tallies import BUCKETS_MS, MAX_KEYS, MAX_STRANGERS, OTHER, Counts, Tallies, TallyKey, shape
from tolsey.ledger.windows import HOUR
from tolsey.store.contract import TALLIED_HOURS, TallyRow
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.tallies import TallyDamaged, tallies, tally_row
from tolsey.testing import NOON

KEY = TallyKey("observe", True, "team/worker", "team", "", "GET", "/a/*", "/a/*", "up", "", "", "USD", "")


def test_calls_under_one_key_are_added_up() -> None:
    found = Tallies()
    found.count(KEY, at=NOON, cost=5, failed=False, us=900, held=70)
    found.count(KEY, at=NOON, cost=7, failed=True, us=31_000_000, held=60)
    ((hour, key, counts),) = found.take()
    assert (hour, key) == (NOON // HOUR, KEY)
    assert (counts.calls, counts.errors, counts.cost, counts.dearest, counts.us) == (2, 1, 12, 7, 31_000_900)
    assert counts.held == 70
    assert counts.buckets == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.take() == []


@pytest.mark.parametrize(("us", "bucket"), [(0, 0), (1000, 0), (1001, 1), (30_000_000, 9), (30_000_001, 10)])
def test_a_bucket_ends_exactly(us: int, bucket: int) -> None:
    counts = Counts()
    counts.add(cost=0, failed=False, us=us)
    assert counts.buckets.index(1) == bucket


def test_what_is_taken_stands_as_of_the_whole_hour() -> None:
    found = Tallies()
    found.count(KEY, at=NOON, cost=1, failed=False, us=0)
    found.take()
    found.count(KEY, at=NOON + 1, cost=1, failed=False, us=0)
    assert found.take()[0][2].calls == 2
    found.count(KEY, at=NOON + HOUR, cost=1, failed=False, us=0)
    assert found.take()[0][2].calls == 1


def test_the_last_of_an_hour_are_taken_after_it() -> None:
    found = Tallies()
    found.count(KEY, at=NOON, cost=1, failed=False, us=0)
    found.count(KEY, at=NOON + HOUR, cost=2, failed=False, us=0)
    assert [(hour - NOON // HOUR, counts.cost) for hour, _, counts in found.take()] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(("verified", "most"), [(True, MAX_KEYS), (False, MAX_STRANGERS)])
def test_only_so_many_keys_are_told_apart(verified: bool, most: int) -> None:
    found = Tallies()
    for n in range(most + 50):
        found.count(KEY._replace(verified=verified, agent=f"agent {n}"), at=NOON, cost=1, failed=False, us=0)
    taken = found.take()
    assert len(taken) == most + 1
    assert [counts.calls for _, key, counts in taken if key.agent == OTHER] == [50]
    public = KEY._replace(verified=False, mode="public", agent="")
    found.count(public, at=NOON, cost=0, failed=False, us=0)
    assert found.take()[0][1] == (public._replace(agent=OTHER, team="", path=OTHER) if verified else public)
    found.count(KEY._replace(agent="a holder"), at=NOON, cost=1, failed=False, us=0)
    assert found.take()[0][1].agent == (OTHER if verified else "a holder")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"),
        ("/users/123/orders", "/users/*/orders"),
        ("/api/v1/search", "/api/v1/search"),
        ("/o/550e8400-e29b-41d4-a716-446655440000", "/o/*"),
        ("/o/3fd873c6f5a0b7705dbe21ac6dff08fb", "/o/*"),
        ("/v1/models/gpt-5", "/v1/models/gpt-5"),
        ("/files/" + "x" * 41, "/files/*"),
        ("/a*b/c", "/*/c"),
        ("/1/2/3/4/5/6/7/8/9", "/*/*/*/*/*/*/*/*/*"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/*"),
    ],
)
def test_the_shape_of_a_path(path: str, pattern: str) -> None:
    assert shape(path) == pattern


@given(st.lists(st.text("abc019-_.~*", min_size=1, max_size=50).filter(lambda s: s not in (".", "..")), min_size=1))
def test_a_shape_is_a_pattern_that_means_its_path(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    assert parse_pattern(shape(path)).matches_path(path)


def test_they_come_back_from_the_ledger(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    hour = NOON // HOUR
    counts = Counts(3, 1, 2**62, 5, 9, [1] * (len(BUCKETS_MS) + 1), 2**63 - 1)
    ledger.tally([tally_row("w1", hour, KEY, Counts(1)), tally_row("w2", hour, KEY, counts)])
    ledger.tally([tally_row("w1", hour, KEY, counts)])
    with SqliteSnapshot(ledgers.path) as snapshot:
        assert list(tallies(snapshot, hour, hour + 1)) == [(hour, KEY, counts)] * 2
        assert list(tallies(snapshot, hour + 1, hour + 9)) == list(tallies(snapshot, 0, hour)) == []


def test_old_ones_go(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    hour = NOON // HOUR
    for when in (hour - TALLIED_HOURS - 1, hour - TALLIED_HOURS, hour):
        ledger.tally([tally_row("w", when, KEY, Counts(1))])
    with SqliteSnapshot(ledgers.path) as snapshot:
        assert [row.hour for row in snapshot.tallies(0, hour + 1)] == [hour - TALLIED_HOURS, hour]


@pytest.mark.parametrize(
    ("key", "counts"),
    [("{}", "[0,0,0,0,0,[]]"), ("[1]", "[]"), (tally_row("", 0, KEY, Counts()).key, "[0,0,0,0,0,[1]]")],
)
def test_a_damaged_one_is_told(ledgers: Ledgers, key: str, counts: str) -> None:
    ledgers.open("o1").tally([TallyRow(5, "w", key, counts)])
    with SqliteSnapshot(ledgers.path) as snapshot, pytest.raises(TallyDamaged, match="of the hour 5"):
        list(tallies(snapshot, 0, 9))
