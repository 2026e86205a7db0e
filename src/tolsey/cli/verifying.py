"""`tolsey verify`: whether a token is genuine, what it is charged to, and whether a call would be let through."""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Token, read_token
from tolsey.cli.output import CallRefused, UsageError, emit, printable, table, warn
from tolsey.cli.program import command, new_app
from tolsey.errors import LedgerMissing, Refusal
from tolsey.units import Amount, format_nano

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.token.chain import Account, Chain

app = new_app()


@command(
    app,
    "verify",
    examples=[
        "tolsey verify - < token.txt",
        'tolsey verify - --method GET --path "/api/v1/search?source=arxiv" < token.txt',
    ],
)
def verify(
    token: Token = None,
    file: ConfigFile = DEFAULT_CONFIG,
    method: Annotated[str | None, typer.Option("--method", help="Try a call with this method (GET).")] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="Try a call to this path, which may have a query.")
    ] = None,
    peer: Annotated[str, typer.Option("--peer", metavar="IP", help="The client's address for that call.")] = "",
    json: Json = False,
) -> None:
    """Say whether a token is genuine, and what it may do here.

    Shows its Links and caveats with their prefix ids, and the accounts that its calls are charged to; of a paid token
    also what it was sold for, and with `<macaroon>:<preimage>` whether it is paid. Says whether it is revoked; with
    --path, also whether a call would be cleared now, what it would cost, and which accounts would be charged: exit
    status 1 if it would be refused. Nothing is charged, and whether the money is there is not looked at.
    """
    from tolsey.cli.place import read_keyring
    from tolsey.token.chain import CAPABILITY, L402
    from tolsey.token.delegation import inspection
    from tolsey.token.l402 import check_preimage, read_credential, read_identifier
    from tolsey.token.macaroon import Macaroon
    from tolsey.token.verifier import Verifier

    if path is None and (method is not None or peer):
        raise UsageError("--method and --peer describe a call: they need --path")
    text, colon, _ = (whole := read_token(token)).partition(":")
    config, keyring = read_keyring(file)
    macaroon, *discharges = Macaroon.deserialize_all(text)
    kind = CAPABILITY if read_identifier(macaroon.identifier) is None else L402
    chain = Verifier(kind, partial(keyring.derived, kind), config.limits).verify(text)
    payment = chain.identifier.payment
    if payment is not None and colon:
        check_preimage(read_credential(whole).preimage, payment.hash)
    found = inspection(macaroon, discharges)
    caveats = [str(caveat) for caveat in macaroon.caveats]
    accounts = list(chain.accounts())
    data: dict[str, object] = {
        "verified": True,
        "key_id": chain.identifier.key_id,
        "prefix_id": chain.prefix_ids[-1],
        "root_prefix_id": chain.prefix_ids[0],
        "links": [{"label": e.label, "nonce": e.nonce, "prefix_id": e.prefix_id} for e in chain.links],
        "caveats": [{"caveat": t, "prefix_id": p} for t, p in zip(caveats, chain.prefix_ids[1:], strict=True)],
        "accounts": [_account(account) for account in accounts],
        "problems": list(found.problems),
        "payment": None if payment is None else {"hash": payment.hash, "sat": str(payment.sat), "proved": bool(colon)},
    }
    revoked = _revoked(config, chain)
    data["revoked"] = None if revoked is None else revoked.prefix_id
    outcome = None if path is None else _try(config, chain, revoked, method or "GET", path, peer)
    if isinstance(outcome, dict):
        data["call"] = outcome

    def human() -> None:
        _show(chain, caveats, accounts)
        if payment is not None:
            proof = "its preimage is right" if colon else "whether it was paid only its preimage can tell"
            print(f"It was sold for {payment.sat} sat, payment hash {payment.hash}; {proof}.")
        for problem in (*found.problems, *([] if revoked is None else [_words(revoked)])):
            warn(f"every call is refused: {problem}")
        if isinstance(outcome, dict):
            _show_call(outcome)

    emit(json, data, human)
    if isinstance(outcome, Refusal):
        raise CallRefused(outcome)


def _account(account: "Account") -> dict[str, object]:
    limit = None if account.limit is None else format_nano(account.limit)
    return {"id": account.id, "parent": account.parent, "label": account.label, "unit": account.unit, "limit": limit}


def _revoked(config: "Config", chain: "Chain") -> Refusal | None:
    """Why the token is refused if it is revoked. Where no ledger was made yet, nothing is."""
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.ledger.revoking import refusal_of

    try:
        with snapshot_of(config) as snapshot:
            ids = frozenset(each.id for each in snapshot.revocations())
    except LedgerMissing:
        return None
    return refusal_of(chain, ids)


def _words(revoked: Refusal) -> str:
    return f"{revoked.detail} (prefix id {revoked.prefix_id})"


def _try(
    config: "Config", chain: "Chain", revoked: Refusal | None, method: str, target: str, peer: str
) -> dict[str, object] | Refusal:
    """What the gateway would decide about a call, without the money."""
    from tolsey.call import Call, path_fault, query_fault
    from tolsey.cli.assemble import routes_of
    from tolsey.gateway.routes import Mode
    from tolsey.l402.offers import is_for
    from tolsey.token.clearing import clear

    path, _, query = target.partition("?")
    bad = path_fault(path.encode("utf-8")) or query_fault(query.encode("utf-8"))
    if bad:
        return Refusal("path_invalid", f"the path is refused: {bad}")
    route = routes_of(config).match(method, path)
    if isinstance(route, Refusal):
        return route
    call: dict[str, object] = {"method": method, "path": path, "query": query, "upstream": route.upstream.name}
    call["mode"] = route.mode.value
    if route.mode is Mode.PUBLIC:
        return call | {"price": None, "charged": []}
    made = Call(method, path, query, peer, time.time_ns(), route.upstream.name)
    clearance = revoked or clear(chain, made)
    if isinstance(clearance, Refusal):
        return clearance
    if not is_for(chain, route.offers):
        return Refusal("caveat_refused", "what was paid for is not offered on this route")
    if route.tariff is None:
        return Refusal("unpriceable", "the route has no price")
    chosen = route.tariff.choose(made, ())
    if isinstance(chosen, Refusal):
        return chosen
    if chosen.price.llm is not None:
        price, shown = Amount(1, chosen.price.unit), "what its body asks for"
    else:
        quote = route.tariff.quote(chosen)
        if isinstance(quote, Refusal):
            return quote
        price, shown = quote.amount, str(quote.amount)
    charge = clearance.charge(price)
    if isinstance(charge, Refusal):
        return charge
    accounts = charge.accounts + charge.counters
    return call | {"price": shown, "charged": [account.id for account in accounts]}


def _show(chain: "Chain", caveats: list[str], accounts: "list[Account]") -> None:
    print(f"VERIFIED with key {chain.identifier.key_id}; {chain.identifier.minted} caveats are the minter's.")
    print()
    opening = {link.prefix_id: (str(n), link.label or "") for n, link in enumerate(chain.links) if n}
    rows = [("0", "", "(the identifier)", chain.prefix_ids[0])]
    for text, name in zip(caveats, chain.prefix_ids[1:], strict=True):
        rows.append((*opening.get(name, ("", "")), text, name))
    table(("link", "label", "caveat", "prefix id"), rows)
    print()
    if accounts:
        lines = [(a.label or "", _limit(a), a.unit, a.id, a.parent or "") for a in accounts]
        table(("charged to", "limit", "unit", "account", "below"), lines, right=("limit",))
    else:
        print("It has no budget: calls that cost something are refused.")


def _limit(account: "Account") -> str:
    if account.limit is None:
        return "-"
    return format_nano(account.limit) + ("" if account.period is None else f"/{account.period}")


def _show_call(call: dict[str, object]) -> None:
    charged = call["charged"]
    number = len(charged) if isinstance(charged, list) else 0
    print()
    if call["price"] is None:
        print(
            printable(f"CLEARED: {call['method']} {call['path']} is public, goes to {call['upstream']}, costs nothing.")
        )
        return
    cost = f"costs {call['price']}, charged to {number} accounts"
    print(printable(f"CLEARED: {call['method']} {call['path']} goes to {call['upstream']} and {cost}."))
