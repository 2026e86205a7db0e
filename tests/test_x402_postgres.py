"""Two gateways on one PostgreSQL database: a payment over x402 is settled and served once, whoever is asked."""

import shutil
from pathlib import Path

from tests import swarm
from tests.facilitators import facilitating, signed
from tests.gateways import lay_out
from tests.postgres import Server
from tests.reading import fsck
from tests.test_x402 import CONFIG, refused, required
from tests.upstreams import Upstream
from tolsey.store.postgres_snapshot import PostgresSnapshot


def test_a_payment_is_settled_and_served_once(tmp_path: Path, upstream: Upstream, postgres: Server) -> None:
    """At the same instant at both, at a facilitator that says yes to each copy; and once more at the other."""
    url = postgres.database()
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    with facilitating() as facilitator:
        config = f'{CONFIG}\n[ledger]\nurl = "{url}"\n'
        first = lay_out(one, config, port=upstream.port, facilitator=facilitator.port)
        with swarm.ending(first):
            first.begin()
            shutil.copytree(one / "data", other / "data")
            second = lay_out(other, config, port=upstream.port, facilitator=facilitator.port)
            with swarm.ending(second):
                second.begin()
                facilitator.idempotent = True
                header = signed(required(first, "/one/x402-two"))
                clients = [gateway.client() for gateway in (first, second) * 5]
                for client in clients:
                    client.ask("GET", "/one/x402-two", header)
                statuses = [client.answer().status for client in clients]
                for client in clients:
                    client.close()
                assert statuses.count(200) == 1
                assert set(statuses) <= {200, 402, 503}
                for gateway in (first, second):
                    refused(gateway.ask("GET", "/one/x402-two", header), "budget_exhausted")
        assert len(facilitator.moved) == 1
    assert sum(message.target == "/one/x402-two" for message in upstream.heard) == 1
    assert fsck(PostgresSnapshot(url)).difference is None
