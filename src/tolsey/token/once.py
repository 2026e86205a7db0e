"""`once`, the caveat that ties an approval to one call. It may only stand in a discharge."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tolsey.call import Call
from tolsey.errors import CaveatInvalid

APPROVAL_LABEL: Final = "(approval)"
"""What the account is called that counts an approved call."""

_ONCE = re.compile(r"([A-Za-z0-9_-]{22}) ([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Once:
    """Refuses every call but one, which it allows once: the ledger sees to that. `nonce` is the approval's, `call` the
    digest of the call.
    """

    nonce: str
    call: str

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why `call` is not the one that was approved, or None."""
        return None if call_digest(call.method, call.path, call.query) == self.call else "another call was approved"

    @property
    def account(self) -> str:
        """The id of the account that counts the call."""
        return sha256(f"once:{self.nonce}".encode("ascii")).hexdigest()[:32]


def call_digest(method: str, path: str, query: str) -> str:
    """What tells a call from others: the first 16 bytes of the SHA-256 of its method, path and query, in hex."""
    return sha256(f"{method} {path}?{query}".encode()).hexdigest()[:32]


def parse_once(value: str) -> Once:
    """Read a nonce of 22 characters of base64url and a digest. Raises `CaveatInvalid`."""
    match = _ONCE.fullmatch(value)
    if match is None:
        raise CaveatInvalid("once: the value is 22 characters of base64url and 32 of hex")
    return Once(match[1], match[2])
