"""`[payment]`, as `tolsey.toml` has it: which node draws invoices, what is offered, at which price."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Protocol

from tolsey import config_lines as lines
from tolsey.call import Pattern
from tolsey.config_lines import Table, one_of, seconds, shown, suggestion, whole
from tolsey.config_prices import amount
from tolsey.config_secrets import Secret, fill
from tolsey.config_x402 import X402, read_x402
from tolsey.errors import CaveatInvalid
from tolsey.l402.offers import SAT, Offer, terms_of
from tolsey.pricing.tariff import Price, Rule
from tolsey.token.caveats import MAX_CALLS, SECOND, RateCaveat, parse_caveat
from tolsey.units import UNITS, Amount

BACKENDS: Final = ("lnd", "cln", "phoenixd", "lnbits", "fake")
"""What may draw invoices. There is no default: `fake` is to be asked for by name."""

MAX_OFFERS: Final = 32
LONGEST_VALID: Final = 366 * 86_400
"""The longest time that a paid token may be good for, in seconds."""

LONGEST_INVOICE: Final = 86_400

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_SECRET = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Payment:
    """How strangers pay. `url` is the node's, `ca` the file of the certificate that it is trusted by; both are missing
    for the fake. `offers` have the scopes and methods of their routes; `default` names those of a route that says
    nothing. `rates` are sats for one of a unit; `challenges` is for each client, `timeout` of the node and
    `invoice_expiry` are in seconds. With `aperture` every refused credential is answered with 402, as Aperture does;
    with `mpp` a single call can also be paid for under the `Payment` scheme.
    """

    backend: str
    url: str
    secret: Secret
    ca: Path | None
    offers: tuple[Offer, ...]
    default: tuple[str, ...]
    rates: Mapping[str, Fraction]
    challenges: RateCaveat
    timeout: float
    invoice_expiry: int
    aperture: bool
    mpp: bool
    service: str
    x402: X402 | None = None


class Offering(Protocol):
    """A route, as far as offers are concerned."""

    @property
    def pattern(self) -> Pattern:
        """Its paths."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Its methods."""

    @property
    def price(self) -> Price | None:
        """What its calls cost, but for those of a rule."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What some of its calls cost."""

    @property
    def offers(self) -> tuple[str, ...]:
        """What it offers, by name."""


def read_payment(document: Table, base: Path, env: Mapping[str, str], *, sends: bool, host: str) -> Payment | None:
    """The `[payment]` of a config, None where it has none. `host` is what the data port listens on."""
    if not document.has("payment"):
        return None
    table = document.table("payment")
    backend = table.need("backend", one_of(*BACKENDS), "fake")
    fake = backend == "fake"
    url = "" if fake else table.need("url", lambda value: lines.http_url(value)[0], "")
    secret = Secret("") if fake else table.need("secret", _secret(env, sends), Secret(""))
    ca = None if fake else table.read("certificate", lines.file_in(base), None)
    if fake and table.good("backend") and host not in _LOOPBACK:
        table.complain("backend", f"the fake gives everything away: [server] host must be {_LOOPBACK[0]} with it")
    for key in ("url", "secret", "certificate") if fake else ():
        if table.has(key):
            table.complain(key, "is not for the fake backend, which has no node")
    if ca is not None and url.startswith("http:"):
        table.complain("certificate", "is for a node at https://")
    found = Payment(
        backend,
        url,
        secret,
        ca,
        (),
        table.each("offers", lines.text),
        _rates(table.table("rates")),
        table.read("challenges", _challenges, RateCaveat(10, "minute")),
        table.read("timeout", seconds(60), 5.0),
        table.read("invoice_expiry", whole(60, LONGEST_INVOICE), 600),
        table.read("aperture", lines.boolean, False),
        table.read("mpp", lines.boolean, False),
        table.read("service", _service, "Tolsey"),
        read_x402(table, env, sends=sends),
    )
    names: list[str] = []
    offers = tuple(_offer(each, names, found.rates) for each in table.tables("offer", MAX_OFFERS))
    if not offers and table.good("offer"):
        table.complain("offer", "is missing; write [[payment.offer]]")
    _check_names(table, found.default, names)
    table.done()
    return replace(found, offers=offers)


def read_offers(table: Table, mode: str, payment: Payment | None) -> tuple[str, ...]:
    """What a route offers: what it says itself, else what `[payment]` says of all routes that ask for a token."""
    named = table.each("offers", lines.text)
    if not table.has("offers"):
        return payment.default if payment is not None and mode == "enforce" else ()
    if payment is None:
        table.complain("offers", "needs [payment], which says how they are paid")
        return ()
    if mode == "public" and named:
        table.complain("offers", "a public route takes no payment")
    _check_names(table, named, [offer.name for offer in payment.offers])
    return named


def _check_names(table: Table, named: Sequence[str], names: Sequence[str]) -> None:
    """Complain of offers that there are not, and of one that is named twice."""
    for name in named:
        if name not in names:
            table.complain("offers", f"no offer is called {shown(name)}{suggestion(name, names)}")
    if len(set(named)) != len(named):
        table.complain("offers", "names an offer twice")


def bind(payment: Payment, routes: Iterable[Offering], complain: Callable[[int, str], None]) -> Payment:
    """The same with the scopes and methods of each offer's routes. `complain` is told the number of a route, and what
    is wrong with what it offers.
    """
    bound = {offer.name: offer for offer in payment.offers}
    for number, route in enumerate(routes):
        prices = [price for price in (route.price, *(rule.price for rule in route.rules)) if price is not None]
        units = sorted({price.unit for price in prices})
        for name in route.offers:
            offer = bound.get(name)
            if offer is None:
                continue
            fault = _fault(offer, prices, units, payment.rates)
            if fault is not None:
                complain(number, f"offer {shown(name)}: {fault}")
            methods = dict.fromkeys((*offer.methods, *route.methods, *(["HEAD"] if "GET" in route.methods else [])))
            bound[name] = replace(offer, scopes=(*offer.scopes, route.pattern.text), methods=tuple(methods))
            if offer.budget is not None and terms_of(bound[name], payment.rates, now=0, grace=0) is None:
                complain(number, f"offer {shown(name)}: its routes are too many for one token: make two offers of it")
    return replace(payment, offers=tuple(bound.values()))


def _fault(offer: Offer, prices: Sequence[Price], units: Sequence[str], rates: Mapping[str, Fraction]) -> str | None:
    """Why an offer is not for a route with these prices."""
    if offer.budget is not None:
        strange = [unit for unit in units if unit != offer.budget.unit]
        return f"its budget is in {offer.budget.unit}, and the route's price in {strange[0]}" if strange else None
    if any(price.llm for price in prices):
        return "what an LLM call costs stands in its body, which is not read before it is paid for: offer a budget"
    if offer.price is None:
        strange = [unit for unit in units if unit != SAT and unit not in rates]
        return f"the route's price is in {strange[0]}, which has no rate in [payment.rates]" if strange else None
    return None


def _offer(table: Table, names: list[str], rates: Mapping[str, Fraction]) -> Offer:
    def new_name(value: object) -> str:
        name = lines.text(value)
        taken = name in names
        names.append(name)
        if taken:
            raise ValueError(f"another offer is called {shown(name)}")
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{shown(name)} is not a name: use small letters, digits and '-', at most 32")
        return name

    offer = Offer(
        name=table.need("name", new_name, ""),
        price=table.read("price", _sats, None),
        budget=table.read("budget", amount, None),
        calls=table.read("calls", whole(1, MAX_CALLS), None),
        valid=table.read("valid", whole(1, LONGEST_VALID), 3600) * SECOND,
    )
    if table.has("budget") and offer.budget is not None and not offer.budget.nano:
        table.complain("budget", "must be above 0")
    elif offer.budget is None and offer.calls is not None:
        table.complain("calls", "is for an offer with a budget; one without is good for one call")
    elif offer.budget is not None and offer.price is None and offer.budget.unit not in (SAT, *rates):
        table.complain(
            "price", f"is missing; it follows from the budget if [payment.rates] has one for {offer.budget.unit}"
        )
    table.done()
    return offer


def _sats(value: object) -> Amount:
    found = amount(value)
    if found.unit != SAT or not found.nano or found.nano % 1_000_000_000:
        raise ValueError('what is paid is a whole number of sats above 0, as in "1000 sat"')
    return found


def _rates(table: Table) -> dict[str, Fraction]:
    rates = {}
    for unit, value in table.items():
        try:
            if unit not in UNITS or unit in (SAT, "call"):
                raise ValueError(f"{shown(unit)} is not a unit that has a rate{suggestion(unit, sorted(UNITS))}")
            found = amount(value)
            if found.unit != SAT or not found.nano:
                raise ValueError('a rate says how many sats one of the unit costs: USD = "1600 sat"')
            rates[unit] = Fraction(found.nano, 1_000_000_000)
        except ValueError as error:
            table.complain(unit, str(error))
    return rates


def _challenges(value: object) -> RateCaveat:
    text = lines.text(value)
    try:
        found = parse_caveat(f"rate = {text}".encode())
    except CaveatInvalid:
        found = None
    if not isinstance(found, RateCaveat):
        raise ValueError(f'{shown(text)} is not a rate, as in "10/minute"')
    return found


def _secret(env: Mapping[str, str], sends: bool) -> Callable[[object], Secret]:
    def parse(value: object) -> Secret:
        filled = fill(lines.text(value), env) if sends else "-"
        if _SECRET.fullmatch(filled) is None:
            raise ValueError("is empty, or holds a character that no credential of a node has")
        return Secret(filled)

    return parse


def _service(value: object) -> str:
    text = lines.text(value)
    if not 0 < len(text) <= 128 or not text.isprintable():
        raise ValueError("must be a name of at most 128 printable characters")
    return text
