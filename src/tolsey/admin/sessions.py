"""Who is logged in on the dashboard: sessions in memory, gone when the gateway is started anew."""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tolsey.token.caveats import SECOND

MAX_SESSIONS: Final = 256
"""How many sessions there are at most; the one that was unused for longest gives way."""

IDLE_SECONDS: Final = 1800
LONGEST_SECONDS: Final = 12 * 3600
"""How long a session may be unused, and how long it lasts at most."""


@dataclass(slots=True)
class Session:
    """One log-in. `token` is the admin token, which is verified again for each page; `form` is what every form that
    changes something must hold, so that no other page can send one.
    """

    token: str
    form: str
    since: int
    used: int

    def is_form(self, sent: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(sent.encode("utf-8", "surrogatepass"), self.form.encode("ascii"))


class Sessions:
    """All of them, by the SHA-256 of their cookies. `now` is in nanoseconds since the epoch."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._found: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, token: str) -> str:
        """Log the holder of a token in; return the cookie."""
        cookie = secrets.token_urlsafe(32)
        now = self._now()
        self._found[_key(cookie)] = Session(token, secrets.token_urlsafe(32), now, now)
        while len(self._found) > MAX_SESSIONS:
            self._found.popitem(last=False)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, which is in use again; None for one that is over."""
        key = _key(cookie)
        found = self._found.get(key)
        if found is None:
            return None
        now = self._now()
        if now - found.used > IDLE_SECONDS * SECOND or now - found.since > LONGEST_SECONDS * SECOND:
            del self._found[key]
            return None
        found.used = now
        self._found.move_to_end(key)
        return found

    def close(self, cookie: str) -> None:
        """Log out."""
        self._found.pop(_key(cookie), None)


def _key(cookie: str) -> bytes:
    return sha256(cookie.encode("utf-8", "surrogatepass")).digest()
