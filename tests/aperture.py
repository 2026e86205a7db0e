"""The real Aperture, Lightning Labs' L402 proxy, in front of an upstream and with an lnd of the rig."""

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx

from tests.lightning_rig import Lnd, Program, build, wait
from tests.ports import free_port
from tolsey.pay import LndWallet
from tolsey.token.l402 import read_challenges
from tolsey.token.macaroon import Macaroon

PRICE_SAT: Final = 300

_CONFIG: Final = """
listenaddr: "127.0.0.1:{port}"
insecure: true
debuglevel: "info"
basedir: "{folder}"
dbbackend: "sqlite"
sqlite:
  databasefilename: "{folder}/aperture.db"
authenticator:
  network: "regtest"
  lndhost: "127.0.0.1:{rpc}"
  tlspath: "{node}/tls.cert"
  macdir: "{node}/data/chain/bitcoin/regtest"
services:
  - name: "search"
    hostregexp: ".*"
    pathregexp: "{paths}"
    address: "127.0.0.1:{upstream}"
    protocol: http
    auth: "on"
    price: {price}
"""


class Aperture:
    """One Aperture, which sells what lies at `paths`, a regular expression, such as `path`."""

    def __init__(
        self, folder: Path, node: Lnd, upstream: int, *, paths: str = "^/search", path: str = "/search"
    ) -> None:
        self.port = free_port()
        folder.mkdir()
        file = folder / "aperture.yaml"
        file.write_text(
            _CONFIG.format(
                port=self.port,
                folder=folder,
                rpc=node.rpc,
                node=node.folder,
                upstream=upstream,
                price=PRICE_SAT,
                paths=paths,
            )
        )
        self.program = Program(folder / "log", os.fspath(build() / "aperture"), f"--configfile={file}")
        try:
            wait("it answers", lambda: self.program.lives() and httpx.get(self.url + path).status_code == 402)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it."""
        self.program.stop()


Probe = Callable[[str, LndWallet], str]
"""Asks one of them, and says what came: statuses, and the schemes of the challenges."""


def _ask(url: str, authorization: str | None = None, *, method: str = "GET", path: str = "/search") -> str:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = httpx.request(method, url + path, headers=headers)
    schemes = [line.partition(" ")[0] for line in answer.headers.get_list("www-authenticate")]
    return " ".join([str(answer.status_code), *schemes])


def buy(url: str, wallet: LndWallet, path: str = "/search") -> tuple[Macaroon, str]:
    """Pay for a token: the token, and the preimage that proves it."""
    answer = httpx.get(url + path)
    (challenge,) = read_challenges(answer.headers.get_list("www-authenticate"))
    return Macaroon.deserialize(challenge.macaroon), wallet.pay(challenge.invoice, "").hex()


def presented(macaroon: Macaroon, preimage: str) -> str:
    """What is sent as `Authorization`."""
    return f"L402 {base64.b64encode(macaroon.serialize()).decode()}:{preimage}"


def _nobody(url: str, wallet: LndWallet) -> str:
    return _ask(url)


def _child(*caveats: str) -> Probe:
    def probe(url: str, wallet: LndWallet) -> str:
        macaroon, preimage = buy(url, wallet)
        return _ask(url, presented(macaroon.attenuate(*caveats), preimage))

    return probe


def _says(authorization: str) -> Probe:
    return lambda url, wallet: _ask(url, authorization)


def _other_preimage(url: str, wallet: LndWallet) -> str:
    (macaroon, _), (_, preimage) = buy(url, wallet), buy(url, wallet)
    return _ask(url, presented(macaroon, preimage))


def _until_dry(url: str, wallet: LndWallet) -> str:
    macaroon, preimage = buy(url, wallet)
    return ", ".join(_ask(url, presented(macaroon, preimage)) for _ in range(4))


PROBES: Final[Mapping[str, Probe]] = {
    "no token": _nobody,
    "an unknown scheme": _says("Basic YTpi"),
    "Bearer, no macaroon": _says("Bearer nonsense"),
    "L402, no macaroon": _says("L402 nonsense"),
    "another payment's preimage": _other_preimage,
    "a caveat that is not understood": _child("color = red"),
    "a child that has expired": _child("expires = 2020-01-01"),
    "a child for another path": _child("scope = /other"),
    "a paid token, four times": _until_dry,
}

_ALIKE: Final = "402 LSAT L402"

EXPECTED: Final[Mapping[str, list[str]]] = {
    "no token": [_ALIKE, "402 L402", _ALIKE],
    "an unknown scheme": [_ALIKE, "402 L402", _ALIKE],
    "Bearer, no macaroon": [_ALIKE, "401 Bearer", _ALIKE],
    "L402, no macaroon": [_ALIKE, "401 Bearer", _ALIKE],
    "another payment's preimage": [_ALIKE, "401 Bearer", _ALIKE],
    "a caveat that is not understood": ["200", "403", _ALIKE],
    "a child that has expired": ["200", "402 L402", _ALIKE],
    "a child for another path": ["200", "403", _ALIKE],
    "a paid token, four times": ["200, 200, 200, 200", "200, 200, 200, 402 L402", f"200, 200, 200, {_ALIKE}"],
}
"""Of Aperture, of a gateway, of one with `aperture = true`."""
