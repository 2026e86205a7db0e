"""Write tolsey.json: our own tokens, byte for byte, with what they clear and refuse.

    python -m tests.vectors.generate

Keys and nonces are fixed. The verdicts below are written by hand from DESIGN.md and RULES.md; only bytes, signatures
and prefix ids are computed. verify.mjs computes those once more in JavaScript.
"""

import base64
import json
from pathlib import Path
from typing import Any

from tolsey import Macaroon
from tolsey.token.macaroon import derive_key, first_mac, mac_after, prefix_id
from tolsey.token.wire import bytes_to_text

HERE = Path(__file__).parent
ROOT_KEY = b"tolsey test vectors: root key"
THIRD_KEY = b"tolsey test vectors: key of the approver"
APPROVER = "https://approve.example"
SEARCH = {"method": "GET", "path": "/api/v1/search", "query": "source=arxiv&q=agents"}
AT = "2026-04-01T12:00:00Z"

TEAM = ["label = team-research-q2 8f3kQ2aLmN0x", "scope = /api/v1/*", "expires = 2026-06-30", "budget = 10000 USD"]
SUBTASK = ["label = research-subtask-47 b7Tq1zYw5RcE", "scope = /api/v1/search", "budget = 500 USD"]
WORKER = ["label = search-worker-12 Zk9vX3sPd6Gh", "scope = /api/v1/search?source=arxiv", "budget = 50 USD"]
EVERY_KIND = [
    "label = every kind of caveat nOnCe",
    "scope = /api/v1/*, /status",
    "method = GET, HEAD",
    "expires = 2026-06-30T18:00:00.000000001+02:00",
    "max-price = 0.05 USD",
    "depth = 1",
    "upstream = search-*",
    "peer = 10.0.0.0/8 2001:db8::/32",
    "purpose = Q2 literature review: ä, ≤, 語",
    "budget = 500.000000001 USD",
]


def call(
    want: str, price: str = "0.01 USD", charged: list[int] | None = None, caveat: int | None = None, **more: str
) -> dict[str, Any]:
    """One call and its verdict: `"cleared"` with the prefixes that are charged, or a code with a caveat's number."""
    about: dict[str, Any] = {"call": SEARCH | {"peer": "10.1.2.3", "now": AT, "upstream": "search-1"} | more}
    about |= {"price": price, "verdict": want}
    about |= {"charged": charged} if charged is not None else {}
    return about | ({"caveat": caveat} if caveat is not None else {})


def tokens() -> list[dict[str, Any]]:
    """The tokens as they are meant: what the minter wrote, what was appended, and what becomes of calls."""
    ask = {"location": APPROVER, "key": THIRD_KEY.decode(), "identifier": "approval 2026-04-01/17", "nonce": "00" * 24}
    approve = {k: ask[k] for k in ("location", "key", "identifier")}
    return [
        {
            "name": "the article: the team's token",
            "minted": TEAM,
            "calls": [
                call("cleared", charged=[4]),
                call("cleared", path="/api/v1/ingest", method="POST", query="", charged=[4]),
                call("caveat_refused", path="/api/v2/search", caveat=2),
                call("cleared", now="2026-06-30T23:59:59.999999999Z", charged=[4]),
                call("token_expired", now="2026-07-01T00:00:00Z", caveat=3),
                call("budget_missing", price="1 sat"),
                call("cleared", price="0 USD", charged=[]),
            ],
        },
        {
            "name": "the article: the subtask's token",
            "minted": TEAM,
            "appended": SUBTASK,
            "calls": [
                call("cleared", charged=[4, 7]),
                call("cleared", query="source=pubmed", charged=[4, 7]),
                call("caveat_refused", path="/api/v1/ingest", caveat=6),
            ],
        },
        {
            "name": "the article: the worker's token",
            "minted": TEAM,
            "appended": SUBTASK + WORKER,
            "calls": [
                call("cleared", charged=[4, 7, 10]),
                call("caveat_refused", query="source=pubmed", caveat=9),
                call("caveat_refused", query="source=arxiv&source=pubmed", caveat=9),
                call("caveat_refused", query="", caveat=9),
            ],
        },
        {
            "name": "the article: the worker tries to widen",
            "minted": TEAM,
            "appended": [*SUBTASK, *WORKER, "scope = /api/v1/*", "expires = 2030-01-01", "budget = 10000 USD"],
            "calls": [
                call("cleared", charged=[4, 7, 10, 13]),
                call("caveat_refused", query="source=pubmed", caveat=9),
                call("token_expired", now="2026-07-01T00:00:00Z", caveat=3),
            ],
        },
        {
            "name": "every kind of caveat",
            "minted": EVERY_KIND,
            "calls": [
                call("cleared", charged=[10]),
                call("cleared", price="0.05 USD", charged=[10]),
                call("caveat_refused", price="0.050000001 USD", caveat=5),
                call("caveat_refused", method="POST", caveat=3),
                call("caveat_refused", upstream="ingest", caveat=7),
                call("caveat_refused", peer="192.0.2.1", caveat=8),
                call("cleared", peer="2001:db8::1", charged=[10]),
                call("cleared", peer="::ffff:10.9.9.9", charged=[10]),
                call("cleared", now="2026-06-30T16:00:00Z", charged=[10]),
                call("token_expired", now="2026-06-30T16:00:00.000000001Z", caveat=4),
            ],
        },
        {
            "name": "every kind of caveat, handed on once too often",
            "minted": EVERY_KIND,
            "appended": ["label = child a", "label = grandchild b"],
            "calls": [call("caveat_refused", caveat=6)],
        },
        {
            "name": "a caveat that nobody knows",
            "minted": TEAM,
            "appended": ["colour = blue"],
            "calls": [call("caveat_unknown", caveat=5)],
        },
        {
            "name": "a budget that a holder gave itself",
            "minted": ["label = free calls only x", "scope = /api/v1/*"],
            "appended": ["budget = 1000000 USD"],
            "calls": [call("budget_missing"), call("cleared", price="0 USD", charged=[])],
        },
        {
            "name": "two purses, and a Link without a budget",
            "minted": ["purpose = root", "budget = 100 USD", "budget = 5000 sat", "label = child a", "method = GET"],
            "appended": ["label = grandchild b", "budget = 10 sat"],
            "calls": [call("cleared", charged=[2, 4, 6]), call("cleared", price="3 sat", charged=[3, 4, 7])],
        },
        {
            "name": "an approval, discharged",
            "minted": TEAM,
            "appended": [ask, *SUBTASK],
            "discharges": [approve | {"caveats": ["expires = 2026-04-02T00:00:00Z", "max-price = 2 USD"]}],
            "calls": [
                call("cleared", price="2 USD", charged=[4, 8]),
                call("caveat_refused", price="2.01 USD"),
                call("token_expired", now="2026-04-02T00:00:00Z"),
            ],
        },
        {
            "name": "an approval that is missing",
            "minted": TEAM,
            "appended": [ask],
            "calls": [call("discharge_missing")],
        },
        {
            "name": "an approval with another key",
            "minted": TEAM,
            "appended": [ask],
            "discharges": [approve | {"key": "another key", "caveats": []}],
            "calls": [call("discharge_invalid")],
        },
        {
            "name": "an approval that nobody asked for",
            "minted": TEAM,
            "discharges": [approve | {"caveats": []}],
            "calls": [call("discharge_invalid")],
        },
    ]


def append(macaroon: Macaroon, caveat: str | dict[str, Any]) -> Macaroon:
    """Append a first-party caveat (text) or a third-party one."""
    if isinstance(caveat, str):
        return macaroon.attenuate(caveat)
    return macaroon.attenuate_third_party(
        location=caveat["location"],
        key=caveat["key"].encode(),
        identifier=caveat["identifier"].encode(),
        nonce=bytes.fromhex(caveat["nonce"]),
    )


def complete(number: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Add bytes, signature and prefix ids to what is meant."""
    nonce = base64.urlsafe_b64encode(number.to_bytes(16, "big")).rstrip(b"=").decode()
    identifier = f"tolsey:1:vectors:{nonce}:{len(spec['minted'])}".encode()
    made = Macaroon.mint(root_key=ROOT_KEY, identifier=identifier)
    for caveat in spec["minted"] + spec.get("appended", []):
        made = append(made, caveat)
    macs = [first_mac(derive_key(ROOT_KEY), identifier)]
    for written in made.caveats:
        macs.append(mac_after(macs[-1], written))
    sent = [made.serialize()]
    for answer in spec.get("discharges", []):
        discharge = Macaroon.mint(
            root_key=answer["key"].encode(), identifier=answer["identifier"].encode(), location=answer["location"]
        )
        sent.append(made.bind(discharge.attenuate(*answer["caveats"])).serialize())
    return {
        "name": spec["name"],
        "identifier": identifier.decode(),
        "minted": spec["minted"],
        "appended": spec.get("appended", []),
        "discharges": spec.get("discharges", []),
        "text": bytes_to_text(b"".join(sent)),
        "parts": [bytes_to_text(part) for part in sent],
        "signature": made.signature.hex(),
        "prefix_ids": [prefix_id(mac) for mac in macs],
        "calls": spec["calls"],
    }


def build() -> str:
    """The whole file."""
    about = (
        "Tokens of Tolsey, written by generate.py and checked by verify.mjs. `charged` and `caveat` count caveats from "
        "1; prefix_ids[n] names the prefix after n caveats; parts are the token and its discharges one by one. Times "
        "are RFC 3339."
    )
    document = {
        "about": about,
        "key_id": "vectors",
        "root_key": ROOT_KEY.decode(),
        "tokens": [complete(number, spec) for number, spec in enumerate(tokens(), 1)],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "tolsey.json").write_text(build(), "utf-8")
