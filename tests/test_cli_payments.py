"""`tolsey fetch` and `tolsey payments`: a call is paid for, what was bought is listed, nothing secret is shown."""

import json
from pathlib import Path

import pytest

from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM
from tests.gateways import Gateway, until
from tests.payers import buy, text_of
from tests.test_payments import CONFIG as PAYMENTS

CONFIG = PAYMENTS


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"TOLSEY_WALLET": "fake", "TOLSEY_PURSES": str(tmp_path / "purses.json")}


def test_fetch_pays_once_and_payments_lists_it(gateway: Gateway, env: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{gateway.port}/search"
    status, out, err = tolsey("fetch", url, "--max", "1000sat", env=env)
    assert (status, out) == (0, "{}"), err
    assert "200, paid 1000 sat, 700 sat left" in err
    again = answer("fetch", url, "--max", "1 sat", "--method", "post", "--data", "x", "-H", "X-One: 1", env=env)
    assert again == {"status": 200, "paid_sat": "0", "cost": "300 sat", "remaining": "400 sat", "body": "{}"}

    def listed_spent() -> list[str]:
        return [each["spent"] for each in answer("payments", "-c", str(gateway.file))["payments"]]

    until(lambda: "600" in listed_spent(), "both calls are settled")
    listed = answer("payments", "-c", str(gateway.file))
    assert answer("report", "--payments", "-c", str(gateway.file)) == listed
    (row,) = [each for each in listed["payments"] if each["spent"] == "600"][-1:]
    assert (row["paid"], row["paid_unit"], row["limit"], row["unit"], row["label"], row["left"], row["calls"]) == (
        *("1000", "sat", "1000", "sat", "purse", "400", 2),
    )
    assert len(row["payment_hash"]) == 64
    status, out, err = invoke("payments", "-c", str(gateway.file))
    assert row["payment_hash"] in out
    assert "sat in all" in err


def test_sats_and_dollars_are_never_added_up(gateway: Gateway, env: dict[str, str]) -> None:
    before = answer("payments", "-c", str(gateway.file))
    answer("fetch", f"http://127.0.0.1:{gateway.port}/one/a", "--max", "32 sat", env=env)
    after = answer("payments", "-c", str(gateway.file))
    assert float(after["paid"]["sat"]) - float(before["paid"]["sat"]) == 32
    assert float(after["bought"]["USD"]) - float(before["bought"].get("USD", "0")) == pytest.approx(0.02)
    assert after["bought"].get("sat") == before["bought"].get("sat")


def test_fetch_hands_on_a_narrower_credential(gateway: Gateway, env: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{gateway.port}/search"
    status, out, err = tolsey("fetch", url, "--max", "1000sat", "--label", "helper", "--budget", "300 sat", env=env)
    assert status == 0, err
    child = gateway.ask("GET", "/search", f"Authorization: {out.strip()}")
    assert child.status == 200
    assert gateway.ask("GET", "/search", f"Authorization: {out.strip()}").status == 402
    (purse,) = json.loads(Path(env["TOLSEY_PURSES"]).read_text())["purses"]
    assert purse["macaroon"] not in out


@pytest.mark.parametrize(
    ("args", "wallet", "code", "status"),
    [
        (("--max", "999 sat"), "fake", "challenge_refused", 1),
        (("--max", "1 USD"), "fake", "usage", 2),
        (("--max", "1 sat"), "gold", "usage", 2),
        (("--max", "1 sat"), "lnd", "usage", 2),
        (("--max", "1 sat", "--budget", "1 sat"), "fake", "usage", 2),
        (("--max", "1 sat", "-H", "no colon"), "fake", "usage", 2),
    ],
)
def test_what_fetch_refuses(
    gateway: Gateway, env: dict[str, str], args: tuple[str, ...], wallet: str, code: str, status: int
) -> None:
    url = f"http://127.0.0.1:{gateway.port}/search"
    assert refusal("fetch", url, *args, env=env | {"TOLSEY_WALLET": wallet}, status=status)["code"] == code


def test_fetch_says_what_went_wrong(gateway: Gateway, env: dict[str, str]) -> None:
    base = f"http://127.0.0.1:{gateway.port}"
    status, _, err = invoke("fetch", f"{base}/nowhere", "--max", "1 sat", "--json", env=env)
    assert status == 1
    assert json.loads(err)["code"] == "fetch_failed"
    for url in ("http://127.0.0.1:9/", "ftp://x", "nonsense"):
        assert refusal("fetch", url, "--max", "1 sat", env=env)["code"] == "fetch_failed"
    token = gateway.token(budget="1 sat")
    header = f"Authorization: Bearer {token}"
    document = refusal("fetch", f"{base}/search", "--max", "1 sat", "-H", header, env=env)
    assert document["code"] == "budget_exhausted"
    assert token not in json.dumps(document)


def test_verify_knows_a_paid_token(gateway: Gateway) -> None:
    paid = buy(gateway)
    text, c = text_of(paid.macaroon), ("-c", str(gateway.file))
    found = answer("verify", f"{text}:{paid.preimage}", *c, "--path", "/search")
    assert (found["payment"]["sat"], found["payment"]["proved"]) == ("1000", True)
    assert (found["call"]["price"], found["accounts"][0]["limit"]) == ("300 sat", "1000")
    assert answer("verify", text, *c)["payment"]["proved"] is False
    assert "whether it was paid only its preimage can tell" in invoke("verify", text, *c)[1]
    for wrong, code in ((f"{text}:{'00' * 32}", "token_forged"), (f"{text}:ab", "token_malformed")):
        document = refusal("verify", wrong, *c)
        assert document["code"] == code
        assert text not in json.dumps(document)
    assert refusal("verify", text, *c, "--path", "/dear")["code"] == "caveat_refused"
    inspected = answer("inspect", text)
    assert inspected["identifier"] == f"L402, payment hash {found['payment']['hash']}"
    assert answer("verify", gateway.token(), *c)["payment"] is None


def test_nobody_has_paid_yet(c: tuple[str, str]) -> None:
    answer(*TEAM, *c)
    assert answer("payments", *c) == {"payments": [], "paid": {"sat": "0"}, "bought": {}, "spent": {}}
    assert invoke("payments", *c) == (0, "", "nobody has paid yet\n")


def test_a_key_for_paid_tokens_is_made_and_rotated(c: tuple[str, str]) -> None:
    first = answer("keys", "rotate", "--kind", "paid", *c)
    assert first["before"] is None
    second = answer("keys", "rotate", "--kind", "paid", *c)
    assert second["before"] == first["id"]
    status, out, err = invoke("keys", "rotate", "--kind", "paid", *c)
    assert (status, out[:24]) == (0, "the current paid key is ")
    assert f"tokens made with {second['id']} still verify" in err
    assert answer("keys", "drop", first["id"], *c)["kind"] == "paid"
    assert [key["kind"] for key in answer("keys", "list", *c)["keys"]].count("paid") == 2
