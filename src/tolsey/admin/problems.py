"""What the admin API answers when it refuses: RFC 9457 problem documents with codes from a closed list."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tolsey.errors import STATUSES, Refusal, TolseyError
from tolsey.gateway import problems

CODES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        **{
            code: STATUSES[code]
            for code in (
                *("request_invalid", "credentials_ambiguous", "token_missing", "token_malformed", "token_forged"),
                *(
                    "token_expired",
                    "token_revoked",
                    "budget_exhausted",
                    "caveat_refused",
                    "caveat_unknown",
                    "discharge_missing",
                ),
                *("discharge_invalid", "route_missing", "method_not_allowed", "body_too_large", "rate_limited"),
                *("headers_too_large", "ledger_unavailable", "ledger_conflict"),
            )
        },
        "policy_missing": (403, "No mint policy fits"),
        "account_unknown": (404, "No such account"),
        "hold_unknown": (404, "No such hold"),
        "key_unknown": (404, "No such key"),
        "link_unknown": (404, "The token has no such Link"),
        "revocation_unknown": (404, "Not revoked"),
        "question_unknown": (404, "No such question is open"),
        "grant_refused": (409, "This cannot be granted"),
        "hold_refused": (409, "This cannot be done with the hold"),
        "key_in_use": (409, "The key is the current one"),
        "amount_invalid": (422, "The amount cannot be read"),
        "caveat_invalid": (422, "The caveat cannot be read"),
        "caveat_wider": (422, "The caveat is wider than its parent"),
        "pattern_invalid": (422, "The pattern cannot be read"),
        "internal_error": (500, "Something went wrong"),
        "identity_unavailable": (503, "The provider's keys cannot be had"),
        "keyring_invalid": (503, "The keyring cannot be used"),
        "ledger_refused": (503, "This ledger must not be used"),
        "tally_damaged": (503, "The tallies cannot be read"),
    }
)
"""code → (HTTP status, title). Nothing else is answered."""

MAX_FAULTS: Final = 8
"""How many faults of one request are named."""


class Refused(Exception):
    """An answer that is a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class Wrong(TolseyError):
    """A request that was understood and cannot be met, under a code of `CODES`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.wrong = code


def answer(code: str, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> Response:
    """The answer for a code. The detail must hold no secret."""
    status, title = CODES[code]
    if code in STATUSES:
        refusal = Refusal(code, detail, allow=tuple((headers or {}).get("allow", "").split(", ")))
        return of_refusal(refusal, members)
    document = {"type": f"urn:tolsey:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    body = msgspec.json.encode({**document, **members})
    more = {"retry-after": str(problems.RETRY_AFTER_SECONDS)} if status == 503 else {}
    return Response(body, status, {"cache-control": "no-store", **more}, "application/problem+json")


def of_refusal(refusal: Refusal, members: Mapping[str, object] | None = None) -> Response:
    """A refusal as an answer."""
    status, headers, body = problems.response(refusal, members)
    found = {name.decode("ascii"): value.decode("ascii") for name, value in headers}
    del found["content-length"]
    return Response(body, status, found)


def install(app: FastAPI) -> None:
    """Have everything that goes wrong in `app` answered like this."""

    async def refused(_: Request, error: Exception) -> Response:
        return of_refusal(error.refusal) if isinstance(error, Refused) else await broken(_, error)

    async def wrong(_: Request, error: Exception) -> Response:
        if not isinstance(error, TolseyError):
            return await broken(_, error)
        code = error.wrong if isinstance(error, Wrong) else error.code
        return answer(code, error.detail) if code in CODES else await broken(_, error)

    async def invalid(_: Request, error: Exception) -> Response:
        # What was sent is not repeated: it may be a secret.
        faults = error.errors()[:MAX_FAULTS] if isinstance(error, RequestValidationError) else []
        named = [{"at": ".".join(map(str, fault["loc"]))[:128], "fault": str(fault["msg"])[:256]} for fault in faults]
        said = "; ".join(f"{fault['at']}: {fault['fault']}" for fault in named)
        return answer("request_invalid", said or "the request cannot be read", faults=named)

    async def of_http(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status == 404:
            return answer("route_missing", "there is no such path")
        if status == 405:
            return answer("method_not_allowed", "this path has other methods", getattr(error, "headers", None) or {})
        return answer("request_invalid", "the request cannot be read")

    async def broken(_: Request, _error: Exception) -> Response:
        return answer("internal_error", "the gateway's log says what went wrong")

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(TolseyError, wrong)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, broken)
