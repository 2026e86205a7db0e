"""Payers for tests: a challenge is read off an answer, paid at the fake backend, and the credential made of it."""

import base64
import json
from typing import NamedTuple

from tests.ends import Message
from tests.gateways import Gateway, problem
from tolsey.token import l402
from tolsey.token.l402 import Challenge
from tolsey.token.macaroon import Macaroon

PURSE = """
[payment]
backend = "fake"
offers = ["purse"]
challenges = "1000/minute"
<more>
[payment.rates]
USD = "1600 sat"
[[payment.offer]]
name = "purse"
price = "1000 sat"
budget = "1000 sat"
[[payment.offer]]
name = "call"
"""


class Paid(NamedTuple):
    """A paid token."""

    macaroon: Macaroon
    preimage: str

    @property
    def header(self) -> str:
        """The line of a request that presents it."""
        return f"Authorization: L402 {text_of(self.macaroon)}:{self.preimage}"

    def child(self, *caveats: str) -> "Paid":
        """What a holder of it hands on."""
        return Paid(self.macaroon.attenuate(*caveats), self.preimage)


def text_of(macaroon: Macaroon) -> str:
    """A macaroon as a paid token's holder sends it."""
    return base64.b64encode(macaroon.serialize()).decode()


def challenge_of(answer: Message) -> Challenge:
    """The one challenge of an answer."""
    assert answer.status == 402, answer
    (found,) = l402.read_challenges(answer.all("www-authenticate"))
    return found


def preimage_of(gateway: Gateway, challenge: Challenge) -> str:
    """Pay, and get the proof."""
    answer = gateway.ask("POST", "/.tolsey/fake/pay", body=challenge.invoice.encode())
    assert answer.status == 200, answer
    found: str = json.loads(answer.body)["preimage"]
    return found


def buy(gateway: Gateway, target: str = "/search", *, method: str = "GET") -> Paid:
    """Ask for something without a token, and pay for it."""
    answer = gateway.ask(method, target)
    assert problem(answer)["code"] == "payment_required"
    challenge = challenge_of(answer)
    return Paid(Macaroon.deserialize(challenge.macaroon), preimage_of(gateway, challenge))
