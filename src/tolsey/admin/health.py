"""`/healthz`, `/readyz` and `/metrics`, for whoever watches over the gateway."""

from collections.abc import Callable
from typing import Any

import msgspec

Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]


class Health:
    """An ASGI application. `problems` returns why calls are not taken at the moment; empty when they are. `metrics`
    takes an `Accept` header and returns a page and its content type.
    """

    def __init__(self, problems: Callable[[], list[str]], metrics: Callable[[str], tuple[bytes, str]]) -> None:
        self._problems = problems
        self._metrics = metrics

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            return
        kind = "application/json"
        if scope["method"] in ("GET", "HEAD") and scope["path"] == "/metrics":
            accept = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
            status = 200
            body, kind = self._metrics(accept)
        else:
            status, body = self._answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", kind.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> tuple[int, bytes]:
        if method not in ("GET", "HEAD") or path not in ("/healthz", "/readyz"):
            return 404, msgspec.json.encode({"status": "not found"})
        problems = self._problems()
        if path == "/readyz" and problems:
            return 503, msgspec.json.encode({"status": "not ready", "problems": problems})
        return 200, msgspec.json.encode({"status": "ok"})
