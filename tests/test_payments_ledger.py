"""A payment opens one purse, once: in the rules, on one file with several workers, on PostgreSQL, and after all of it
was rolled up, moved or tampered with.
"""

import asyncio
import time
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, database, purse, unseal
from tests.postgres import Server
from tests.reading import difference_after, fsck, sign
from tests.tables import Player
from tolsey.ledger.events import Conflict, Granted, Open, Outcome, Pay, Reserve, Settle
from tolsey.store.postgres import PostgresLedger, open_postgres
from tolsey.store.rollup import roll_up
from tolsey.store.rollup_sqlite import SqliteRollable
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON, SECOND
from tolsey.token.chain import Account
from tolsey.units import MAX_NANO

ONE, OTHER = "1f" * 32, "2e" * 32
(BOUGHT,) = purse("bought 1000", unit="sat")
(SECOND_PURSE,) = purse("second 1000", unit="sat")


def bought(hash_: str = ONE, account: Account = BOUGHT, amount: int = 1000) -> Pay:
    return Pay(hash_, account, amount, "offer purse")


def test_a_payment_opens_one_purse_however_often_it_is_shown(player: Player) -> None:
    assert player.play(bought()) == Granted("bought", 1000, 1000)
    assert player.play(bought()) == Granted("bought", 1000, 1000)
    assert isinstance(player.play(bought(account=SECOND_PURSE)), Conflict)
    assert isinstance(player.play(bought(OTHER)), Conflict)
    assert player.play(Reserve("h1", (BOUGHT,), 600)) == Granted("h1", 600, 400)
    assert player.play(bought()) == Granted("bought", 1000, 400)


@pytest.mark.parametrize(
    "wrong",
    [
        bought(amount=0),
        bought(amount=MAX_NANO + 1),
        bought(account=purse("bought -", unit="sat")[0]),
        bought(account=purse("above 9 / bought 9", unit="sat")[1]),
        bought(account=BOUGHT._replace(limit=2000)),
    ],
)
def test_what_is_no_payment(player: Player, wrong: Pay) -> None:
    if wrong.account.limit == 2000:
        player.play(bought())
    assert isinstance(player.play(wrong), Conflict)


def test_an_account_that_was_opened_without_a_payment_is_not_bought(player: Player) -> None:
    player.play(Open(BOUGHT))
    assert isinstance(player.play(bought()), Conflict)


def spend(ledgers: Ledgers) -> None:
    one, other = ledgers.open("o1"), ledgers.open("o2")
    one.run([bought(), Reserve("h1", (BOUGHT,), 600), Settle("h1", 600)], NOON)
    other.run([bought(OTHER, SECOND_PURSE), Reserve("h2", (SECOND_PURSE,), 1)], NOON + SECOND)


@pytest.mark.parametrize(
    ("how", "statement", "said"),
    [
        ("another purse", "UPDATE entry SET leaf = 2 WHERE n = 1", "entry 4 pays for account second again"),
        ("no hash", "UPDATE entry SET hold = NULL WHERE n = 1", "entry 1 is a payment without a hash"),
        ("nothing paid", "UPDATE entry SET amount = 0 WHERE n = 1", "entry 1 is a payment without a hash, an amount"),
        ("paid again", "UPDATE entry SET leaf = 1 WHERE n = 4", "entry 4 pays for account bought, which was in use"),
    ],
)
def test_fsck_sees_a_payment_that_was_tampered_with(ledgers: Ledgers, how: str, statement: str, said: str) -> None:
    spend(ledgers)
    assert fsck(ledgers.path).difference is None
    assert said in difference_after(ledgers.open("o3"), statement), how


def test_the_unique_index_is_looked_at(ledgers: Ledgers) -> None:
    spend(ledgers)
    with database(ledgers.path) as db:
        db.execute("DROP INDEX entry_payment")
    assert fsck(ledgers.path).difference == "the schema was changed: index entry_payment is missing"


async def test_a_payment_is_never_rolled_up(ledgers: Ledgers) -> None:
    spend(ledgers)
    gone: list[bytes] = []
    await sign(ledgers.path, NOON + 9 * SECOND)
    rollable = SqliteRollable(ledgers.path)
    done = await roll_up(
        rollable,
        SqliteSnapshot(ledgers.path, lambda: NOON + 9 * SECOND),
        before=NOON + 5 * SECOND,
        note="",
        archive=gone.append,
        progress=lambda done, total: None,
    )
    await rollable.close()
    assert done is not None
    assert done.entries == 2
    assert fsck(ledgers.path).difference is None
    assert isinstance(ledgers.open("o3").run([bought(account=SECOND_PURSE)], NOON + 9 * SECOND)[0], Conflict)


def test_payments_are_listed_with_what_is_left(ledgers: Ledgers) -> None:
    spend(ledgers)
    with SqliteSnapshot(ledgers.path) as snapshot:
        first, second = snapshot.payments()
    assert (first.hash, first.paid, first.account, first.unit, first.limit, first.spent, first.calls, first.note) == (
        *(ONE, 1000, "bought", "sat", 1000, 600, 1, "offer purse"),
    )
    assert (second.hash, second.held) == (OTHER, 1)


async def test_two_gateways_use_a_payment_once(postgres: Server) -> None:
    """Both at the same instant, again and again: one purse, or two that were paid for."""
    url = postgres.database()
    ledgers: list[PostgresLedger] = []
    for number in range(2):
        ledger = await open_postgres(
            url, durability="normal", seconds=10, now=time.time_ns, new_id="it", create=number == 0
        )
        await ledger.register(f"o{number}")
        ledgers.append(ledger)
    for round_ in range(30):
        hash_ = f"{round_:064x}"
        mine, theirs = (Account(f"{round_} {number}", "sat", None, "p", 10) for number in range(2))
        events = [bought(hash_, mine, 10), bought(hash_, mine, 10), bought(hash_, theirs, 10)]

        async def pay(number: int, event: Pay) -> Outcome:
            return (await ledgers[number % 2].write([event]))[0]

        outcomes = await asyncio.gather(*(pay(number, event) for number, event in enumerate(events)))
        kinds = [isinstance(outcome, Granted) for outcome in outcomes]
        assert kinds in ([True, True, False], [False, False, True])
    for ledger in ledgers:
        await ledger.close()


def test_a_ledger_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        ledgers.open("o1").run([Open(SECOND_PURSE)], NOON)
        with database(ledgers.path) as db:
            db.execute("DROP INDEX entry_payment")
            db.execute("DROP TABLE question")
            db.execute("DROP TABLE revocation")
            db.execute("ALTER TABLE ledger DROP COLUMN revocations")
            unseal(db)
            db.execute("UPDATE ledger SET version = 4")
        assert ledgers.open("o2").run([bought()], NOON) == [Granted("bought", 1000, 1000)]
        assert fsck(ledgers.path).difference is None
