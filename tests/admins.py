"""An admin in tests: a token, and a client of the admin API that holds it."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import httpx

from tests.gateways import Gateway
from tests.reading import entries
from tolsey.store.keyring import Keyring
from tolsey.token.chain import ADMIN, write_identifier
from tolsey.token.macaroon import Macaroon

Answer = tuple[int, dict[str, Any]]
"""A status and a JSON document."""

SECRET = "the-upstream's-own-key"
CONFIG = f"""
[server]
mode = "enforce"
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
headers = {{ Authorization = "Bearer {SECRET}" }}
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
[[route]]
path = "/api/v1/talk"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
"""
"""A gateway before one upstream, whose key must not show anywhere."""


def admin_token(gateway: Gateway, *caveats: str) -> str:
    """A token as `tolsey init` prints it, with these caveats appended."""
    key_id, secret = Keyring.open(gateway.keys).current(ADMIN)
    identifier = write_identifier(ADMIN, key_id, secrets.token_urlsafe(16), 1)
    root = Macaroon.mint(root_key=secret, identifier=identifier, location="tolsey")
    return root.attenuate(f"label = admin {secrets.token_urlsafe(9)}", *caveats).to_text()


class Api:
    """The admin API of a gateway, as the holder of a token sees it."""

    def __init__(self, gateway: Gateway, token: str) -> None:
        self.token = token
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.admin_port}/api",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=20,
        )

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """The document at a path, which is there."""
        status, document = checked(self.http.get(path, params=query))
        assert status == 200, document
        return document

    def post(self, path: str, **body: object) -> Answer:
        """The status and the document that a change is answered with."""
        return checked(self.http.post(path, json=body))

    def refused(self, method: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever httpx takes
        """The problem document of a request that is refused."""
        status, document = checked(self.http.request(method, path, **options))
        assert status >= 400, document
        return document


def checked(answer: httpx.Response) -> Answer:
    """An answer's status and document, which is a problem document exactly where the status says that it is one."""
    assert answer.headers["cache-control"] == "no-store"
    document: dict[str, Any] = answer.json()
    if answer.status_code < 400:
        assert answer.headers["content-type"] == "application/json"
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert document["status"] == answer.status_code
        assert document["type"] == f"urn:tolsey:problem:{document['code']}"
        assert document["title"]
        assert document["detail"]
    return answer.status_code, document


@contextlib.contextmanager
def api_of(gateway: Gateway, *caveats: str) -> Iterator[Api]:
    """The API for an admin token with these caveats appended."""
    with Api(gateway, admin_token(gateway, *caveats)) as api:
        yield api


def minted(api: Api, **body: object) -> dict[str, Any]:
    """What a request to mint is answered with, which is granted."""
    status, document = api.post("/mint", **{"label": "team", "budget": "10 USD"} | body)
    assert status == 201, document
    return document


def notes(gateway: Gateway, kind: str) -> list[str]:
    """The notes of the entries of a kind, oldest first."""
    return [entry.note for entry in entries(gateway.ledger) if entry.kind == kind]
