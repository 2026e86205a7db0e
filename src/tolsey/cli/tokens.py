"""`tolsey attenuate` and `tolsey inspect`: what a holder can do with a token alone, offline.

Nothing here may import the config, the keyring, the ledger or the gateway.
"""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from tolsey import Inspection, Macaroon
from tolsey import attenuate as attenuate_token
from tolsey import inspect as inspect_token
from tolsey.cli.options import Budget, Caveats, Expires, Json, Label, Scopes, Token, one_scope, read_token
from tolsey.cli.output import emit, printable, say, table, warn
from tolsey.cli.program import command, new_app
from tolsey.token.caveats import parse_expiry
from tolsey.token.macaroon import prefix_id

app = new_app()


@command(
    app,
    "attenuate",
    examples=[
        'tolsey attenuate - --label search-worker-12 --budget "50 USD" < token.txt',
        'CHILD=$(tolsey attenuate --label reader --scope "/api/v1/*" --caveat "method = GET")',
    ],
)
def attenuate(
    label: Label,
    token: Token = None,
    budget: Budget = None,
    scope: Scopes = None,
    expires: Expires = None,
    caveat: Caveats = None,
    approval: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help='Somebody has to say yes to a call: "above 5 USD" or "always".'),
    ] = None,
    approver: Annotated[
        str | None,
        typer.Option(envvar="TOLSEY_APPROVER", help="The gateway that asks them, as its `tolsey approver` prints it."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a narrower token for a sub-agent, offline.

    Needs no config, no key and no network: the gateway learns of the new token when it is first used. The token is
    printed on standard output, and nothing else is.
    """
    text = attenuate_token(
        read_token(token),
        label=label,
        budget=budget,
        scope=one_scope(scope),
        expires=expires,
        caveats=caveat or (),
        approval=approval,
        approver=approver,
    )
    show_token("attenuated", Macaroon.deserialize(text), label, json)


def show_token(how: str, macaroon: Macaroon, label: str, json: bool) -> None:
    """Print a new token alone on standard output, and a line about it on standard error."""
    name = prefix_id(macaroon.signature)
    texts = [str(caveat) for caveat in macaroon.caveats]
    text = macaroon.to_text()

    def human() -> None:
        say(f"{how} {label}, prefix id {name}")
        found = inspect_token(text)
        if found.expires and parse_expiry(found.expires) <= time.time_ns():
            warn(f"it has expired already, on {found.expires}")
        print(text)

    emit(json, {"token": text, "prefix_id": name, "label": label, "caveats": texts}, human)


@command(app, "inspect", examples=["tolsey inspect - < token.txt", "tolsey inspect --json"])
def inspect(token: Token = None, json: Json = False) -> None:
    """Show what a token says, offline: Links, caveats, their sum.

    This verifies nothing. Only the gateway has the key: `tolsey verify` there says whether a token is genuine, and
    shows the prefix ids of its earlier Links.
    """
    found = inspect_token(read_token(token))
    emit(json, asdict(found), lambda: _show(found))


def _show(found: Inspection) -> None:
    print("UNVERIFIED: this is what the token says; only its gateway can tell whether it is genuine.")
    print()
    rows = []
    first = 1 if found.links and found.links[0].label is not None else 0
    for number, link in enumerate(found.links, first):
        name = link.label or "(before the first label)"
        for at, text in enumerate(link.caveats or ("",)):
            rows.append(("" if at else str(number), "" if at else name, text))
    table(("link", "label", "caveat"), rows or [("", "", "no caveats")])
    print()
    expires = found.expires or "never"
    if found.expires and parse_expiry(found.expires) <= time.time_ns():
        expires += " (that is over)"
    both = " and "
    for name, value in (
        ("may spend", ", ".join(found.budgets) or "no limit of its own"),
        ("calls", ", ".join(found.calls)),
        ("rate", ", ".join(found.rates)),
        ("for a call", ", ".join(found.max_prices)),
        ("may call", both.join(found.scope) or "every path"),
        ("methods", both.join(found.method) or "all"),
        ("expires", expires),
        ("needs approval by", ", ".join(found.third_parties)),
        ("discharges sent", str(found.discharges) if found.discharges or found.third_parties else ""),
        ("identifier", found.identifier),
        ("prefix id", f"{found.prefix_id} (earlier ones are known to the gateway alone)"),
    ):
        if value:
            print(f"{name + ':':<19}{printable(value)}")
    for problem in found.problems:
        warn(f"the gateway will refuse every call: {problem}")
