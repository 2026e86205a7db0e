"""`[payment]` in the config: what is sold and to whom, and what is wrong with it, each with its line."""

from fractions import Fraction
from pathlib import Path

import pytest

from tolsey.config import Config, load, problems
from tolsey.config_payment import Payment
from tolsey.l402.offers import Offer
from tolsey.token.caveats import RateCaveat
from tolsey.units import Amount

ENV = {"NODE_SECRET": "0a1b-sesame", "EMPTY": ""}
UPSTREAM = '[[upstream]]\nname = "u"\nurl = "http://u.example"\n'
ROUTE = UPSTREAM + '[[route]]\npath = "/a"\nmethods = ["GET"]\nupstream = "u"\n'
OFFER = '[[payment.offer]]\nname = "hour"\nbudget = "100 sat"\n'
FAKE = '[payment]\nbackend = "fake"\n'
LND = '[payment]\nbackend = "lnd"\nurl = "https://n.example"\nsecret = "${NODE_SECRET}"\n'


def read(folder: Path, text: str) -> Config:
    file = folder / "tolsey.toml"
    file.write_text(text)
    return load(file, ENV)


def payment(folder: Path, text: str) -> Payment:
    found = read(folder, text).payment
    assert found is not None
    return found


def test_without_the_section_nothing_is_sold(tmp_path: Path) -> None:
    config = read(tmp_path, ROUTE + 'price = "1 sat"')
    assert config.payment is None
    assert config.routes[0].offers == ()


def test_the_defaults(tmp_path: Path) -> None:
    found = payment(tmp_path, FAKE + OFFER)
    assert found.challenges == RateCaveat(10, "minute")
    assert (found.timeout, found.invoice_expiry, found.aperture, found.default) == (5.0, 600, False, ())
    assert found.offers == (Offer("hour", None, Amount(100 * 10**9, "sat"), None, 3600 * 10**9),)


def test_offers_know_their_routes(tmp_path: Path) -> None:
    text = f"""{LND}offers = ["hour"]
rates = {{ USD = "1600.5 sat" }}
{OFFER}[[payment.offer]]
name = "call"
{ROUTE}price = "1 sat"
[[route]]
path = "/b/*"
methods = ["POST"]
upstream = "u"
price = "0.5 USD"
offers = ["call"]
[[route]]
path = "/c"
methods = ["GET"]
upstream = "u"
price = "2 sat"
offers = ["call", "hour"]
[[route]]
path = "/d"
methods = ["GET"]
upstream = "u"
mode = "public"
"""
    config = read(tmp_path, text)
    assert config.payment is not None
    assert [route.offers for route in config.routes] == [("hour",), ("call",), ("call", "hour"), ()]
    assert [(o.name, o.scopes, o.methods) for o in config.payment.offers] == [
        ("hour", ("/a", "/c"), ("GET", "HEAD")),
        ("call", ("/b/*", "/c"), ("POST", "GET", "HEAD")),
    ]
    assert config.payment.rates == {"USD": Fraction(16005, 10)}
    assert config.payment.secret.reveal() == "0a1b-sesame"
    assert "sesame" not in repr(config)


SOLD = ROUTE + 'price = "1 sat"\noffers = ["hour"]\n'
BAD = [
    ('[payment]\nbackend = "lndx"\n' + OFFER, "payment.backend", 'must be "lnd" or'),
    ("[payment]\n" + OFFER, "payment.backend", "is missing"),
    ('[server]\nhost = "0.0.0.0"\n' + FAKE + OFFER, "payment.backend", "gives everything away"),
    (FAKE + 'url = "http://n"\n' + OFFER, "payment.url", "not for the fake"),
    (FAKE, "payment.offer", "is missing"),
    ('[payment]\nbackend = "lnd"\nsecret = "x"\n' + OFFER, "payment.url", "is missing"),
    ('[payment]\nbackend = "lnd"\nurl = "http://n"\n' + OFFER, "payment.secret", "is missing"),
    (LND.replace("NODE_SECRET", "EMPTY") + OFFER, "payment.secret", "EMPTY is not set"),
    (LND.replace("https://n", "http://u:sesame@n") + OFFER, "payment.url", "a user name or a password"),
    (LND.replace("https", "http") + 'certificate = "c"\n' + OFFER, "payment.certificate", "at https://"),
    (FAKE + 'offers = ["our"]\n' + OFFER, "payment.offers", 'did you mean "hour"?'),
    (FAKE + 'offers = ["hour", "hour"]\n' + OFFER, "payment.offers", "twice"),
    (FAKE + 'challenges = "many"\n' + OFFER, "payment.challenges", "is not a rate"),
    (FAKE + 'rates = { sat = "1 sat" }\n' + OFFER, "payment.rates.sat", "is not a unit that has a rate"),
    (FAKE + 'rates = { USD = "1 EUR" }\n' + OFFER, "payment.rates.USD", "how many sats"),
    (FAKE + 'rates = { USD = "0 sat" }\n' + OFFER, "payment.rates.USD", "how many sats"),
    (FAKE + "aperture = 1\n" + OFFER, "payment.aperture", "true or false"),
    (FAKE + "valid = 1\n" + OFFER, "payment.valid", "unknown key"),
    (FAKE + OFFER + OFFER, "payment.offer[1].name", "another offer"),
    (FAKE + OFFER.replace("hour", "An hour"), "payment.offer[0].name", "is not a name"),
    (FAKE + OFFER.replace("100", "0"), "payment.offer[0].budget", "above 0"),
    (FAKE + OFFER + 'price = "0.5 sat"', "payment.offer[0].price", "whole number of sats"),
    (FAKE + OFFER + 'price = "5 USD"', "payment.offer[0].price", "whole number of sats"),
    (FAKE + OFFER.replace("sat", "USD"), "payment.offer[0].price", "has one for USD"),
    (FAKE + '[[payment.offer]]\nname = "c"\ncalls = 3', "payment.offer[0].calls", "good for one call"),
    (SOLD, "route[0].offers", "needs [payment]"),
    (FAKE + OFFER + SOLD.replace("hour", "hours"), "route[0].offers", "no offer is called"),
    (FAKE + OFFER + SOLD.replace("1 sat", "1 USD"), "route[0].offers", "its budget is in sat, and the route's"),
    (FAKE + OFFER + ROUTE + 'mode = "public"\noffers = ["hour"]', "route[0].offers", "takes no payment"),
    (
        FAKE + '[[payment.offer]]\nname = "hour"\n' + SOLD.replace("1 sat", "1 USD"),
        "route[0].offers",
        "in USD, which has no rate",
    ),
    (
        FAKE + '[[payment.offer]]\nname = "hour"\n' + ROUTE + 'llm = "openai"\noffers = ["hour"]',
        "route[0].offers",
        "stands in its body",
    ),
]


@pytest.mark.parametrize(("text", "key", "message"), BAD)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, key: str, message: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(text)
    (error,) = problems(file, ENV)
    assert error.key == key, str(error)
    assert message in error.reason
    assert error.line is not None
    assert "sesame" not in str(error)


def test_routes_that_are_too_many_for_one_token(tmp_path: Path) -> None:
    routes = "".join(
        f'[[route]]\npath = "/{n}/{"x" * 90}"\nmethods = ["GET"]\nupstream = "u"\nprice = "1 sat"\noffers = ["hour"]\n'
        for n in range(12)
    )
    file = tmp_path / "tolsey.toml"
    file.write_text(FAKE + OFFER + UPSTREAM + routes)
    found = problems(file, ENV)
    assert all("too many for one token" in error.reason for error in found)
    assert [error.key for error in found] == ["route[10].offers", "route[11].offers"]


X402 = """[payment.x402]
facilitator = "https://f.example/x402"
network = "eip155:8453"
asset = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
pay_to = "0x5e5E5e5e5E5e5E5E5e5E5E5e5e5E5E5E5e5E5E5e"
"""


def test_the_defaults_of_x402(tmp_path: Path) -> None:
    found = payment(tmp_path, FAKE + OFFER + X402).x402
    assert found is not None
    assert (found.facilitator, found.secret.reveal(), found.timeout) == ("https://f.example/x402", "", 30.0)
    asset = found.asset
    assert (asset.network, asset.decimals, asset.unit, asset.name, asset.version) == (
        *("eip155:8453", 6, "USD", "USD Coin", "2"),
    )
    assert payment(tmp_path, FAKE + OFFER).x402 is None


def test_its_secret_is_from_the_environment(tmp_path: Path) -> None:
    found = payment(tmp_path, f'{FAKE}{OFFER}{X402}secret = "${{NODE_SECRET}}"\n').x402
    assert found is not None
    assert found.secret.reveal() == "0a1b-sesame"
    assert "sesame" not in repr(found)


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ('facilitator = "https://f.example/x402"\n', "", "payment.x402.facilitator", "missing"),
        ("https://f.example/x402", "ftp://f.example", "payment.x402.facilitator", "http://"),
        ('"eip155:8453"', '"base"', "payment.x402.network", "eip155:8453"),
        ('"eip155:8453"', '"solana:101"', "payment.x402.network", "EVM"),
        ("0x5e5E", "0x5e5", "payment.x402.pay_to", "40 hex digits"),
        ("0x5e5E5e5e5E5e5E5E5e5E5E5e5e5E5E5E5e5E5E5e", "0x" + "0" * 40, "payment.x402.pay_to", "nobody has"),
        ('pay_to = "', 'decimals = 19\npay_to = "', "payment.x402.decimals", "18"),
        ('pay_to = "', 'unit = "sat"\npay_to = "', "payment.x402.unit", "unit"),
        ('pay_to = "', 'name = ""\npay_to = "', "payment.x402.name", "64"),
        ('pay_to = "', 'secret = "${EMPTY}"\npay_to = "', "payment.x402.secret", "EMPTY"),
        ('pay_to = "', 'timeout = 121\npay_to = "', "payment.x402.timeout", "120"),
        ('pay_to = "', 'chain = 1\npay_to = "', "payment.x402.chain", ""),
    ],
)
def test_what_is_wrong_with_x402(tmp_path: Path, old: str, new: str, key: str, said: str) -> None:
    (tmp_path / "tolsey.toml").write_text(FAKE + OFFER + X402.replace(old, new))
    found = [problem for problem in problems(tmp_path / "tolsey.toml", ENV) if problem.key == key]
    assert len(found) == 1
    assert said in found[0].detail
