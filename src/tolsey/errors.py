"""What can go wrong, in one place.

Two shapes, by who has to act:

* A **Refusal** is a value: the call was understood and is not allowed. `clear`, `quote` and `reserve` return it, the
  edge turns it into a problem document, observe mode writes it down.
* An **exception** means that there is nothing to decide about::

    TolseyError                 has a stable `code` and a `detail` that is safe to show
    ├── AmountInvalid           a text is not an amount              (amount_invalid)
    ├── PatternInvalid          a text is not a path pattern         (pattern_invalid)
    ├── CaveatInvalid           a text is not a caveat we know       (caveat_invalid)
    │   └── CaveatWider         a caveat is wider than its parent    (caveat_wider)
    ├── TokenError              the token cannot be used at all
    │   ├── TokenMissing        there is none                        (token_missing)
    │   ├── TokenMalformed      not a macaroon, or beyond a limit    (token_malformed)
    │   ├── TokenForged         the HMAC chain is broken             (token_forged)
    │   │   └── KeyUnknown      no key that is known began it        (token_forged)
    │   ├── DischargeMissing    a third-party caveat is unanswered   (discharge_missing)
    │   └── DischargeInvalid    a discharge is wrong or unused       (discharge_invalid)
    ├── ConfigError             has the file, line and key           (config_invalid)
    ├── KeyringError            the keyring cannot be used           (keyring_invalid)
    ├── LedgerUnavailable       full, down, locked: try again        (ledger_unavailable)
    │   ├── LedgerFull          the disk is full                     (ledger_unavailable)
    │   └── CommitUnknown       the answer to a commit was lost      (ledger_unavailable)
    ├── LedgerConflict          the ledger says otherwise            (ledger_conflict)
    └── LedgerRefused           this ledger must not be used         (ledger_refused)
        └── LedgerMissing       there is none                        (ledger_refused)

`STATUSES` is the closed list of codes that a caller of the gateway can meet (RULES.md C). What an agent makes of them
is in `refusals.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

STATUSES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "path_invalid": (400, "The path is not in canonical form"),
        "credentials_ambiguous": (400, "More than one credential"),
        "request_invalid": (400, "The request is not valid"),
        "token_missing": (401, "A token is needed"),
        "token_malformed": (401, "The token cannot be read"),
        "token_forged": (401, "The token is not genuine"),
        "token_expired": (401, "The token has expired"),
        "budget_exhausted": (402, "The budget is spent"),
        "calls_exhausted": (402, "The calls are used up"),
        "budget_missing": (402, "No budget in the price's unit"),
        "payment_required": (402, "A payment is needed"),
        "token_revoked": (403, "The token was revoked"),
        "caveat_refused": (403, "A caveat does not allow this call"),
        "caveat_unknown": (403, "A caveat is not understood"),
        "discharge_missing": (403, "A discharge is missing"),
        "discharge_invalid": (403, "A discharge is not valid"),
        "origin_refused": (403, "The request comes from elsewhere"),
        "route_missing": (404, "No such route"),
        "method_not_allowed": (405, "The route has no such method"),
        "idempotency_busy": (409, "The idempotency key is in use"),
        "body_too_large": (413, "The request body is too large"),
        "idempotency_mismatch": (422, "The idempotency key was used for another request"),
        "unpriceable": (422, "The call cannot be priced"),
        "rate_limited": (429, "Too fast"),
        "too_many_holds": (429, "Too many open holds"),
        "headers_too_large": (431, "The request headers are too large"),
        "upstream_failed": (502, "The upstream failed"),
        "overloaded": (503, "Too much at once"),
        "payment_unavailable": (503, "No payment can be taken"),
        "ledger_unavailable": (503, "The ledger is not available"),
        "ledger_conflict": (503, "The ledger disagrees with the token"),
        "upstream_timeout": (504, "The upstream was late"),
    }
)
"""code → (HTTP status, title). Nothing else is ever answered by the gateway itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not allowed.

    `code` is one of `STATUSES`. `link` and `prefix_id` name the Link that refused, `caveat` its caveat's text. The
    money members (nano-units, with their `unit`) are there when an account refused. `allow` are the methods of a route
    that has not this one. `detail` is one plain sentence.
    """

    code: str
    detail: str
    link: str | None = None
    prefix_id: str | None = None
    caveat: str | None = None
    unit: str | None = None
    limit: int | None = None
    spent: int | None = None
    held: int | None = None
    resets_at: str | None = None
    retry_after: int | None = None
    allow: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return STATUSES[self.code][0]

    @property
    def title(self) -> str:
        """The short text that goes with the code; the same for every occurrence."""
        return STATUSES[self.code][1]


class TolseyError(Exception):
    """The root of every error raised on purpose. `code` is stable; `str(error)` holds no secret."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class AmountInvalid(TolseyError, ValueError):
    """A text that is not an amount of money."""

    code = "amount_invalid"


class PatternInvalid(TolseyError, ValueError):
    """A text that is not a path pattern."""

    code = "pattern_invalid"


class CaveatInvalid(TolseyError, ValueError):
    """A text that is not a caveat we know."""

    code = "caveat_invalid"


class CaveatWider(CaveatInvalid):
    """A caveat that would allow more than its parent does. It could not take effect; writing it is a mistake."""

    code = "caveat_wider"


class TokenError(TolseyError):
    """A token that cannot be used at all. `link` and `prefix_id` name the Link at fault where there is one."""


class TokenMissing(TokenError):
    """There is no token where one is needed."""

    code = "token_missing"


class TokenMalformed(TokenError, ValueError):
    """Bytes or text that are not a macaroon, or beyond a limit."""

    code = "token_malformed"


class TokenForged(TokenError):
    """The HMAC chain does not end in the signature shown, or no key of ours began it."""

    code = "token_forged"


class KeyUnknown(TokenForged):
    """The token was begun with a key that is not known here: dropped since, another gateway's, or made up."""


class DischargeMissing(TokenError):
    """A third-party caveat without a discharge."""

    code = "discharge_missing"


class DischargeInvalid(TokenError):
    """A discharge that is not genuine, not bound to this token, or not asked for."""

    code = "discharge_invalid"


class ConfigError(TolseyError):
    """A config that cannot be used. `file`, `line` (1-based, or None) and `key` say where."""

    code = "config_invalid"

    def __init__(self, detail: str, *, file: str = "", line: int | None = None, key: str | None = None) -> None:
        place = file + (f":{line}" if line is not None else "")
        super().__init__(": ".join(part for part in (place, key, detail) if part))
        self.file, self.line, self.key, self.reason = file, line, key, detail


class KeyringError(TolseyError):
    """A keyring that is missing, open to others, or not one of ours."""

    code = "keyring_invalid"


class LedgerUnavailable(TolseyError):
    """The ledger is down, full or locked. Nothing was granted; the same call may succeed later."""

    code = "ledger_unavailable"


class LedgerFull(LedgerUnavailable):
    """The disk is full: grants stop, and settling goes on."""


class CommitUnknown(LedgerUnavailable):
    """Whether a group was kept is not known. `full` says whether it was for want of disk."""

    def __init__(self, detail: str, *, full: bool = False) -> None:
        super().__init__(detail)
        self.full = full


class LedgerConflict(TolseyError):
    """What the ledger holds under an id differs from what is asked for now."""

    code = "ledger_conflict"


class LedgerRefused(TolseyError):
    """A ledger that is empty, other or older than the one its keys were used with (RULES.md L1)."""

    code = "ledger_refused"


class LedgerMissing(LedgerRefused):
    """There is no ledger where one was said to be."""
