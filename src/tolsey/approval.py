"""Asking for approval, for an agent whose token has an `approval` caveat::

    from tolsey.approval import approved

    token = approved(token, url="https://gateway.example:8402", method="POST", path="/v1/report", price="7 USD")
    ...  # make that call with the new token within five minutes, once

For a price below that of the caveat the gateway answers at once, and the token is good for calls up to it for ten
minutes. The standard library alone.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from tolsey.errors import TolseyError
from tolsey.refusals import read_refusal
from tolsey.token.macaroon import Macaroon
from tolsey.token.wire import bytes_to_text

MAX_ANSWER: Final = 64 * 1024
"""The longest answer that is read, in bytes."""


SECONDS: Final = 30.0
"""How long the gateway may take for each answer."""


class NotAnswered(TolseyError):
    """Nobody answered in the time that the caller would wait; the question may still be open."""

    code = "not_answered"


def approved(
    token: str,
    *,
    url: str,
    method: str,
    path: str,
    price: str,
    query: str = "",
    purpose: str = "",
    wait: float = 300.0,
) -> str:
    """The token with a discharge for one call of at most `price` ("7 USD"). Blocks up to `wait` seconds.

    `url` is the gateway's data port. Raises the exception of `tolsey.refusals` for what the gateway refuses, such as a
    call that somebody denied (`DischargeMissing`), `NotAnswered`, and OSError where the gateway cannot be reached.
    """
    end = time.monotonic() + wait
    body = {"method": method, "path": path, "query": query, "price": price, "purpose": purpose}
    answer = _ask(url.rstrip("/") + "/.tolsey/approvals", token, json.dumps(body).encode())
    while "discharge" not in answer:
        pause = float(answer["retry_after"])
        if time.monotonic() + pause > end:
            raise NotAnswered(f"nobody answered question {answer['approval']} within {wait:g} s")
        time.sleep(pause)
        answer = _ask(url.rstrip("/") + str(answer["poll"]), token, None)
    root = Macaroon.deserialize(token.strip())
    discharge = Macaroon.deserialize(str(answer["discharge"]))
    return bytes_to_text(root.serialize() + root.bind(discharge).serialize())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would send the token on to wherever it leads."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_NoRedirect)


def _ask(url: str, token: str, body: bytes | None) -> Mapping[str, Any]:
    headers = {"Authorization": f"Bearer {token.strip()}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - the caller's own gateway
    try:
        with _OPENER.open(request, timeout=SECONDS) as response:
            found: Mapping[str, Any] = json.loads(response.read(MAX_ANSWER))
            return found
    except urllib.error.HTTPError as error:
        with error:
            refused = read_refusal(error.read(MAX_ANSWER), error.headers.get("retry-after"))
        raise (refused or error) from None
