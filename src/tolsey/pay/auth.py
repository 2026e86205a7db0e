"""An httpx auth that pays: 402 is answered from a remembered purse, or by a payment within what may be spent."""

import asyncio
import base64
import binascii
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import NamedTuple

import httpx

from tolsey.call import Call
from tolsey.errors import TokenMalformed
from tolsey.pay.errors import ChallengeRefused, PaymentFailed
from tolsey.pay.purses import Pending, Purse, Purses
from tolsey.pay.wallets import Wallet, origin_of
from tolsey.refusals import raise_for_refusal
from tolsey.token.bolt11 import InvoiceInvalid, fits, read_invoice
from tolsey.token.l402 import Challenge, read_challenges, read_identifier
from tolsey.token.macaroon import Macaroon
from tolsey.units import NANO, parse_amount


class _Wanted(NamedTuple):
    """A purse is wanted for a call; `refused` is the one that was tried."""

    origin: str
    call: Call
    challenge: Challenge
    refused: Purse | None


_Flow = Generator[httpx.Request | _Wanted, httpx.Response | Purse, None]


class L402Auth(httpx.Auth):
    """Pays for calls, at most `max` in all ("100 sat") for the life of this object; fees come on top, within 5 % and at
    least 10 sat a payment. `purses` remembers what was paid for. For threads and for tasks.

    A request that has an Authorization of its own is left alone, but for a refusal for want of money, which is raised
    as the `tolsey.refusals.Refused` of its code. Other errors are `ChallengeRefused`, `PaymentFailed` and
    `PaymentUnknown`.
    """

    requires_request_body = True

    def __init__(self, wallet: Wallet, *, max: str, purses: Purses | None = None) -> None:  # noqa: A002 - as in the CLI
        amount = parse_amount(max)
        if amount.unit != "sat":
            raise ValueError("what may be spent is in sat")
        self._left = amount.nano * 1000 // NANO
        self._wallet = wallet
        self._purses = purses or Purses()
        self._lock = threading.Lock()
        self._counted: set[str] = set()

    @property
    def left_msat(self) -> int:
        """What may still be spent, in thousandths of a sat."""
        return self._left

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send, pay, send again."""
        flow = self._flow(request)
        step = next(flow)
        while True:
            answer: httpx.Response | Purse
            if isinstance(step, _Wanted):
                answer = self._purse(step)
            else:
                answer = yield step
                if answer.status_code == 402:
                    answer.read()
            try:
                step = flow.send(answer)
            except StopIteration:
                return

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The same for tasks; the payment is made in a thread."""
        flow = self._flow(request)
        step = next(flow)
        while True:
            answer: httpx.Response | Purse
            if isinstance(step, _Wanted):
                answer = await asyncio.to_thread(self._purse, step)
            else:
                answer = yield step
                if answer.status_code == 402:
                    await answer.aread()
            try:
                step = flow.send(answer)
            except StopIteration:
                return

    def _flow(self, request: httpx.Request) -> _Flow:
        own = "authorization" in request.headers
        url = request.url
        origin = origin_of(str(url))
        path, _, query = url.raw_path.decode("ascii").partition("?")
        call = Call(request.method, path, query, "", time.time_ns())
        purse = None if own else self._purses.find(origin, call)
        if purse is not None:
            request.headers["Authorization"] = purse.authorization
        response = yield request
        if not isinstance(response, httpx.Response) or response.status_code not in (401, 402):
            return
        challenges = [] if own else read_challenges(response.headers.get_list("www-authenticate"))
        if response.status_code == 402 and not challenges:
            raise_for_refusal(response)
        if purse is not None:
            self._purses.drop(purse)
        if not challenges:
            return
        bought = yield _Wanted(origin, call, challenges[0], purse)
        if isinstance(bought, Purse):
            request.headers["Authorization"] = bought.authorization
            yield request

    def _purse(self, wanted: _Wanted) -> Purse:
        """A purse for a call: one that somebody else has bought meanwhile, or a new one. Blocks."""
        with self._lock:
            found = self._purses.find(wanted.origin, wanted.call)
            if found is not None and found != wanted.refused:
                return found
            pending = self._purses.pending(wanted.origin)
            if pending is not None:
                # Whether it was paid is not known: nothing else is paid before that is.
                with contextlib.suppress(PaymentFailed):
                    bought = self._pay(pending)
                    if bought.allows(wanted.call):
                        return bought
            return self._pay(self._check(wanted))

    def _check(self, wanted: _Wanted) -> Pending:
        """What is about to be paid. Raises `ChallengeRefused`."""
        challenge = wanted.challenge
        try:
            invoice = read_invoice(challenge.invoice)
            macaroon = Macaroon.deserialize(challenge.macaroon)
        except (InvoiceInvalid, TokenMalformed) as error:
            raise ChallengeRefused(f"the challenge cannot be read: {error.detail}") from None
        payment = read_identifier(macaroon.identifier)
        bound = macaroon.identifier[2:34] if payment is None else bytes.fromhex(payment.hash)
        if macaroon.identifier[:2] != b"\0\0" or bound != invoice.payment_hash:
            raise ChallengeRefused("the invoice is not for the token: its preimage would open nothing")
        if invoice.msat is None:
            raise ChallengeRefused("the invoice names no amount")
        if invoice.msat > self._left:
            raise ChallengeRefused(f"the invoice is over {invoice.msat} msat, and {self._left} msat may be spent")
        if invoice.expires <= time.time():
            raise ChallengeRefused("the invoice has expired")
        return Pending(wanted.origin, _standard(challenge.macaroon), challenge.invoice, invoice.msat)

    def _pay(self, pending: Pending) -> Purse:
        if pending.invoice not in self._counted:
            if pending.msat > self._left:
                raise ChallengeRefused(
                    f"an invoice over {pending.msat} msat is still to be paid, and {self._left} msat may be spent"
                )
            self._left -= pending.msat
            self._counted.add(pending.invoice)
        self._purses.begin(pending)
        try:
            preimage = self._wallet.pay(pending.invoice, pending.origin)
        except PaymentFailed:
            self._left += pending.msat
            self._counted.discard(pending.invoice)
            self._purses.end(pending, None)
            raise
        if not fits(preimage, read_invoice(pending.invoice)):
            raise ChallengeRefused("the wallet's preimage is not that of the invoice")
        purse = Purse(pending.origin, pending.macaroon, preimage.hex(), pending.msat)
        self._purses.end(pending, purse)
        return purse


def _standard(text: str) -> str:
    """A macaroon in the one base64 that all servers read."""
    try:
        return base64.b64encode(Macaroon.deserialize(text).serialize()).decode("ascii")
    except (TokenMalformed, binascii.Error):
        return text
