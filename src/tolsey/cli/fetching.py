"""`tolsey fetch`: one HTTP call, paid for where it must be."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from tolsey.cli.options import Json
from tolsey.cli.output import UsageError, emit, say
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.units import format_nano

if TYPE_CHECKING:
    import httpx

    from tolsey.pay import Purses, Wallet

app = new_app()

NANO_IN_MSAT: Final = 1_000_000
"""Nano-sats in a thousandth of a sat."""

HTTPX: Final = "this needs httpx: pip install 'tolsey[httpx]'"


class FetchFailed(TolseyError):
    """A call that was not answered, or not with success."""

    code: ClassVar[str] = "fetch_failed"


class HttpxMissing(TolseyError):
    """What speaks HTTP is not installed."""

    code: ClassVar[str] = "httpx_missing"


@command(
    app,
    "fetch",
    examples=[
        "TOLSEY_WALLET=fake tolsey fetch http://127.0.0.1:8402/api/v1/search --max 1000sat",
        'tolsey fetch https://api.example/search --max "100 sat" --label helper --budget "20 sat" > credential.txt',
    ],
)
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="What to call.")],
    most: Annotated[str, typer.Option("--max", metavar="AMOUNT", help='The most that is paid: "100 sat" or 100sat.')],
    method: Annotated[str, typer.Option("--method", "-X", metavar="METHOD", help="The method.")] = "GET",
    data: Annotated[str | None, typer.Option("--data", metavar="TEXT", help="The body; @FILE reads a file.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="A header.")] = None,
    purses: Annotated[
        Path, typer.Option("--purses", metavar="FILE", envvar="TOLSEY_PURSES", help="Where paid tokens are kept.")
    ] = Path("~/.tolsey/purses.json"),
    label: Annotated[
        str | None, typer.Option("--label", metavar="NAME", help="Print a narrower credential instead of the answer.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="AMOUNT", help="The most that one may spend.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a call, and pay for it if that is asked for.

    What was paid for is kept, and used again. The wallet is in the environment: TOLSEY_WALLET is lnd, cln, phoenixd or
    lnbits, or fake for a gateway's fake backend; TOLSEY_WALLET_URL, TOLSEY_WALLET_SECRET and TOLSEY_WALLET_CERTIFICATE
    are those of its node. With --label, what is printed is an Authorization header for a helper, made offline from the
    purse that paid.
    """
    try:
        import httpx

        from tolsey.pay import L402Auth, Purses
    except ImportError:
        raise HttpxMissing(HTTPX) from None

    if budget is not None and label is None:
        raise UsageError("--budget is for a narrower credential: give it a --label")
    amount = most.strip()
    amount = f"{amount.removesuffix('sat').strip()} sat" if amount.endswith("sat") else amount
    store = Purses(purses.expanduser())
    try:
        auth = L402Auth(_wallet(), max=amount, purses=store)
    except ValueError as error:
        raise UsageError(f"--max: {error}") from None
    before = auth.left_msat
    try:
        with httpx.Client(auth=auth, trust_env=False, timeout=120) as client:
            response = client.request(method.upper(), url, content=_body(data), headers=_headers(header or []))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"{url}: {type(error).__name__}: {error}") from None
    paid = format_nano((before - auth.left_msat) * NANO_IN_MSAT)
    if label is not None:
        _hand_on(store, response.request, label, budget, json)
        return
    answer = {
        "status": response.status_code,
        "paid_sat": paid,
        "cost": response.headers.get("tolsey-cost"),
        "remaining": response.headers.get("tolsey-remaining"),
        "body": response.text,
    }

    def human() -> None:
        left = f", {answer['remaining']} left" if answer["remaining"] else ""
        say(f"{response.status_code}, paid {paid} sat{left}")
        sys.stdout.buffer.write(response.content)

    emit(json, answer, human)
    if not response.is_success:
        raise FetchFailed(f"{url} answered {response.status_code}")


def _hand_on(store: "Purses", request: "httpx.Request", label: str, budget: str | None, json: bool) -> None:
    used = request.headers.get("authorization", "")
    purse = next((purse for purse in store.all() if purse.authorization == used), None)
    if purse is None:
        raise FetchFailed("the call was not paid from a purse, so there is none to hand on")
    child = purse.attenuate(label=label, budget=budget)
    emit(json, {"authorization": child.authorization, "label": label}, lambda: print(child.authorization))


def _wallet() -> "Wallet":
    from tolsey.pay.wallets import WALLETS, FakeWallet

    name = os.environ.get("TOLSEY_WALLET", "")
    if name == "fake":
        return FakeWallet()
    if name not in WALLETS:
        raise UsageError(f"TOLSEY_WALLET names the wallet: {', '.join(WALLETS)} or fake")
    url, secret = os.environ.get("TOLSEY_WALLET_URL"), os.environ.get("TOLSEY_WALLET_SECRET")
    if not url or not secret:
        raise UsageError("TOLSEY_WALLET_URL and TOLSEY_WALLET_SECRET say where the wallet's node is, and who asks")
    return WALLETS[name](url, secret, ca=os.environ.get("TOLSEY_WALLET_CERTIFICATE"))


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode("utf-8")


def _headers(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"--header {line[:32]!r}: write NAME: VALUE")
        found[name.strip()] = value.strip()
    return found
