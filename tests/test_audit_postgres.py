"""The seal on PostgreSQL: a log for each gateway, and one for the operators, who write in turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.ledgers import purse
from tests.postgres import Gateways, Server, asking
from tolsey.audit.sealed import verify
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Grant, Kind, Open, Reserve, Settle
from tolsey.ledger.revoking import Revoke
from tolsey.store.checkpoints import AT_ONCE, take
from tolsey.store.postgres import PostgresLedger
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.reports import Checked, fsck
from tolsey.store.sealed_export import export_sealed
from tolsey.store.signing import SealKey, is_signed

ROOT = purse("root 100000 / a 50000")
KEY = SealKey(bytes(32))


@pytest.fixture
async def gateways(postgres: Server) -> AsyncIterator[Gateways]:
    found = Gateways(postgres.database())
    yield found
    await found.close()


async def work(ledger: PostgresLedger, name: str, calls: int) -> None:
    for number in range(calls):
        hold = f"{name}-{number}"
        await ledger.write([Reserve(hold, ROOT, 5, "GET /a")])
        await ledger.write([Settle(hold, 3, "200")])


async def operate(ledger: PostgresLedger, name: str, times: int) -> None:
    for number in range(times):
        await ledger.write([Grant(("root", "USD"), 1, f"granted by {name}")])
        await ledger.note(Kind.KEYS, f"{name} {number}")
        await ledger.revise(Revoke(f"{number:032x}", None, f"revoked by {name}"))


async def exported(gateways: Gateways) -> list[bytes]:
    snapshot = PostgresSnapshot(gateways.url)
    return await asyncio.to_thread(lambda: [line + b"\n" for line in export_sealed(snapshot, lambda done, total: None)])


async def checked(gateways: Gateways) -> Checked:
    return await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url), trusted=(KEY.public.hex(),))


async def test_two_gateways_and_those_who_change_things_by_hand(gateways: Gateways) -> None:
    workers = [await gateways.open(f"o{number}", seconds=30) for number in range(2)]
    operators = [await gateways.open(seconds=30) for _ in range(3)]
    await operators[0].write([Open(ROOT[0], "minted")])
    done = asyncio.gather(
        *(work(ledger, f"w{number}", 40) for number, ledger in enumerate(workers)),
        *(operate(ledger, f"c{number}", 10) for number, ledger in enumerate(operators)),
    )
    while not done.done():
        # Beside them, and by two at once, as the supervisors of two gateways do.
        await asyncio.gather(*(take(ledger, [KEY], AT_ONCE) for ledger in operators[1:]))
        await asyncio.sleep(0.02)
    await done
    await take(operators[0], [KEY], AT_ONCE)
    lines = await exported(gateways)
    verdict = verify(lines, [KEY.public.hex()], is_signed)
    assert (verdict.fault, verdict.logs, verdict.unsigned) == (None, 3, 0)
    assert verdict.entries == 2 * 80 + 1 + 3 * 20 + 10
    assert verdict.checkpoints > 1
    assert (await checked(gateways)).difference is None
    without = [line for line in lines if b'"log":2,' not in line or not line.startswith(b'{"entry"')]
    assert (verify(without, [KEY.public.hex()], is_signed).fault or "").startswith("log 2 is missing: checkpoint")


async def test_tampering_is_named(gateways: Gateways) -> None:
    ledger = await gateways.open("o1")
    await work(ledger, "w", 3)
    await take(ledger, [KEY], AT_ONCE)
    assert (await checked(gateways)).difference is None
    async with asking(gateways.url) as db:
        await db.execute("UPDATE entry SET note = 'x' WHERE place = 4")
    (found,) = {(await checked(gateways)).difference}
    assert found is not None
    assert found.startswith("the seal is broken at entry 4: entry 4 of log 1 was changed or inserted")


async def test_a_commit_whose_answer_is_lost(gateways: Gateways) -> None:
    """The head is read anew, so that the chain goes on from what was really written."""
    ledger = await gateways.open("o1")
    await work(ledger, "w", 2)
    async with asking(gateways.url) as db:
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    with contextlib.suppress(LedgerUnavailable):
        await work(ledger, "v", 1)
    await work(ledger, "u", 2)
    assert (await checked(gateways)).difference is None
