"""What an agent meets when a gateway refuses: one exception for each code of `errors.STATUSES`, named like it.

Nothing raises them by itself: `raise_for_refusal` does, given the response of
any HTTP library. The standard library alone.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Protocol

from tolsey import errors
from tolsey.errors import TolseyError

MAX_DOCUMENT: Final = 64 * 1024
"""The longest body, in bytes, that is looked at. A refusal has about one kilobyte; a caveat and a label have limits."""

_TYPE: Final = "urn:tolsey:problem:"
_NUMBER = re.compile(r"-?[0-9]{1,19}(?:\.[0-9]{1,9})?", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


class Refused(TolseyError):
    """A gateway refused a call. As it is, a code that this version does not know; else one of the classes below.

    `status`, `title`, `detail` and `code` are the document's. `label` and `prefix_id` name the Link or the account
    that refused, `caveat` is the caveat's text. `unit`, `limit`, `spent`, `held` and `remaining` are there when money
    or calls are short and may be shown, `resets_at` (RFC 3339) when a window ends that will help. `retry_after` is in
    seconds. What the document does not say is None.
    """

    def __init__(self, document: Mapping[str, Any], retry_after: int | None = None) -> None:
        super().__init__(_text(document, "detail") or "the gateway gave no reason")
        link = document.get("link")
        link = link if isinstance(link, dict) else {}
        self.code = document["code"]  # type: ignore[misc]  # the class's own, but of `Refused` itself
        self.status: int = document["status"]
        self.title = _text(document, "title")
        self.label = _text(link, "label")
        self.prefix_id = _text(link, "prefix_id")
        self.caveat = _text(document, "caveat")
        self.unit = _text(document, "unit")
        self.limit = _amount(document, "limit")
        self.spent = _amount(document, "spent")
        self.held = _amount(document, "held")
        self.remaining = _amount(document, "remaining")
        self.resets_at = _text(document, "resets_at")
        self.retry_after = retry_after
        self._document = document

    def __reduce__(self) -> tuple[type["Refused"], tuple[Mapping[str, Any], int | None]]:
        """Lets a worker process hand it to its parent."""
        return type(self), (self._document, self.retry_after)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" + (f" (caveat: {self.caveat})" if self.caveat else "")


class PathInvalid(Refused):
    """The path or the query is not in canonical form."""

    code = "path_invalid"


class CredentialsAmbiguous(Refused):
    """More than one credential was sent."""

    code = "credentials_ambiguous"


class RequestInvalid(Refused):
    """The request or the body of an LLM call cannot be read in one way."""

    code = "request_invalid"


class TokenMissing(Refused, errors.TokenMissing):
    """No token was sent."""

    code = "token_missing"


class TokenMalformed(Refused, errors.TokenMalformed):
    """The token cannot be read."""

    code = "token_malformed"


class TokenForged(Refused, errors.TokenForged):
    """The token is not genuine, or is another gateway's."""

    code = "token_forged"


class TokenExpired(Refused):
    """The token has expired."""

    code = "token_expired"


class BudgetExhausted(Refused):
    """A budget on the chain cannot pay; `label` says whose."""

    code = "budget_exhausted"


class CallsExhausted(Refused):
    """A `calls` caveat on the chain counts no further call."""

    code = "calls_exhausted"


class BudgetMissing(Refused):
    """The token has no budget in the price's unit."""

    code = "budget_missing"


class PaymentRequired(Refused):
    """The route takes money, and nothing was paid yet; `tolsey.pay` answers it."""

    code = "payment_required"


class TokenRevoked(Refused):
    """The token, or one that it came from, was revoked; `label` says whose."""

    code = "token_revoked"


class CaveatRefused(Refused):
    """A caveat does not allow this call."""

    code = "caveat_refused"


class CaveatUnknown(Refused):
    """A caveat is not understood, so that every call is refused."""

    code = "caveat_unknown"


class DischargeMissing(Refused, errors.DischargeMissing):
    """A third-party caveat has no discharge."""

    code = "discharge_missing"


class DischargeInvalid(Refused, errors.DischargeInvalid):
    """A discharge is not genuine, not bound, or not asked for."""

    code = "discharge_invalid"


class OriginRefused(Refused):
    """The request comes from a web page, or by a host name, that the endpoint does not know."""

    code = "origin_refused"


class RouteMissing(Refused):
    """No route has this path."""

    code = "route_missing"


class MethodNotAllowed(Refused):
    """The route has no such method."""

    code = "method_not_allowed"


class IdempotencyBusy(Refused):
    """The idempotency key is that of a call whose outcome is not there yet."""

    code = "idempotency_busy"


class BodyTooLarge(Refused):
    """The request body is larger than the route takes."""

    code = "body_too_large"


class IdempotencyMismatch(Refused):
    """The idempotency key was used for another request."""

    code = "idempotency_mismatch"


class Unpriceable(Refused):
    """The price of the call cannot be told."""

    code = "unpriceable"


class RateLimited(Refused):
    """The call comes too fast; `retry_after` says when the next may come."""

    code = "rate_limited"


class TooManyHolds(Refused):
    """Too many calls are open at this account."""

    code = "too_many_holds"


class HeadersTooLarge(Refused):
    """The request's headers are too large."""

    code = "headers_too_large"


class UpstreamFailed(Refused):
    """The upstream refused the connection or broke off."""

    code = "upstream_failed"


class Overloaded(Refused):
    """The gateway reads too many bodies at the moment; nothing was forwarded or charged."""

    code = "overloaded"


class PaymentUnavailable(Refused):
    """No invoice can be had at the moment; what was paid for goes on."""

    code = "payment_unavailable"


class LedgerUnavailable(Refused):
    """The ledger is down, full or was not free in time; nothing was forwarded or charged."""

    code = "ledger_unavailable"


class LedgerConflict(Refused):
    """The ledger has another account under this prefix id than the token says."""

    code = "ledger_conflict"


class UpstreamTimeout(Refused):
    """The upstream was late."""

    code = "upstream_timeout"


BY_CODE: Final[Mapping[str, type[Refused]]] = {kind.code: kind for kind in Refused.__subclasses__()}
"""The class of each code."""


class Response(Protocol):
    """What is needed of a response: those of httpx, httpx2 and requests have it, once their body was read."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, asked for by lower-case name."""

    @property
    def content(self) -> bytes:
        """The whole body."""


def raise_for_refusal(response: Response) -> None:
    """Raise the exception of a gateway's refusal; do nothing for any other response, also a failed one.

    The body of a streamed response must have been read. An SDK's own exception mostly has the response:
    `except openai.APIStatusError as error: raise_for_refusal(error.response)`.
    """
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/problem+json":
        return
    refused = read_refusal(response.content, response.headers.get("retry-after"))
    if refused is not None:
        raise refused


def read_refusal(body: bytes, retry_after: str | None = None) -> Refused | None:
    """The exception for a problem document and its `Retry-After`, not raised; None if it is not a gateway's refusal."""
    if len(body) > MAX_DOCUMENT:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or type(document.get("status")) is not int:
        return None
    code = document.get("code")
    if not isinstance(code, str) or document.get("type") != _TYPE + code:
        return None
    seconds = int(retry_after) if retry_after and _SECONDS.fullmatch(retry_after.strip()) else None
    return BY_CODE.get(code, Refused)(document, seconds)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None


def _amount(document: Mapping[str, Any], name: str) -> Decimal | None:
    value = _text(document, name)
    return Decimal(value) if value is not None and _NUMBER.fullmatch(value) else None
