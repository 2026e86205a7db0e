"""The admin API of two gateways on one PostgreSQL database: a mint budget is one, whoever is asked."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import swarm
from tests.admins import Api, admin_token
from tests.gateways import lay_out
from tests.postgres import Server
from tests.upstreams import Upstream
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.reports import fsck

CONFIG = """
[server]
mode = "enforce"
[ledger]
url = "${LEDGER_URL}"
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
"""


def test_a_mint_budget_holds_across_gateways(tmp_path: Path, postgres: Server, upstream: Upstream) -> None:
    url = postgres.database()
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = lay_out(tmp_path / "one", CONFIG, port=upstream.port)
    other = lay_out(tmp_path / "other", CONFIG, port=upstream.port)
    with swarm.ending(one), swarm.ending(other):
        one.env["LEDGER_URL"] = other.env["LEDGER_URL"] = url
        one.begin()
        other.keys.write_bytes(one.keys.read_bytes())
        one.keys.with_suffix(".mark").replace(other.keys.with_suffix(".mark"))
        other.begin()
        token = admin_token(one, "label = both n", "mint-budget = 10 USD", "action = mint, trail, keys, rotate")
        with Api(one, token) as here, Api(other, token) as there, ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(api.post, "/mint", label="x", budget="1 USD") for api in (here, there) * 8]
            statuses = [future.result()[0] for future in asked]
            assert (statuses.count(201), statuses.count(402)) == (10, 6)
            assert [row["spent"] for row in here.get("/trail")["accounts"] if row["label"] == "both"] == ["10"]
            assert here.get("/trail") == there.get("/trail")
            assert there.post("/keys/rotate", kind="capability", reason="a note")[0] == 200
    snapshot = PostgresSnapshot(url)
    assert fsck(snapshot).difference is None
    with snapshot:
        noted = [entry.note for entry in snapshot.entries() if entry.kind == "keys"]
    assert [note.endswith(": a note") for note in noted] == [True]
