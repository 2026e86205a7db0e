"""No secret gets out: a gateway is made to fail in every way, and then every byte that it left anywhere is searched.

Secrets are the tokens, the MAC of each of their prefixes (whoever holds one can drop the caveats after it), the root
keys and what is derived from them, and what is configured for the upstreams.
"""

import asyncio
import json
import secrets
import sqlite3
import stat
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests import swarm
from tests.cli import tolsey
from tests.ports import free_port
from tests.swarm import Answer, Client, Gateway, Upstream
from tests.tokens import answer as approve
from tests.tokens import ask, text_of
from tolsey.errors import STATUSES
from tolsey.store.keyring import Keyring
from tolsey.token.chain import ADMIN, CAPABILITY, write_identifier
from tolsey.token.macaroon import Macaroon, derive_key, first_mac, mac_after

UPSTREAM_SECRET = "sk-" + secrets.token_urlsafe(24)
WRITTEN_SECRET = "sk-" + secrets.token_urlsafe(24)
WINDOW = 24
"""A run of so many characters of a token, wherever in it, counts as the token."""

SETTING = 'headers = { Authorization = "Bearer ${API_SECRET}", X-Secret = "${API_SECRET}" }\n'
MORE = """
[[upstream]]
name = "dead"
url = "http://127.0.0.1:{dead}"
{setting}
[[upstream]]
name = "late"
url = "http://127.0.0.1:{live}"
timeout = 0.3
{setting}
[[route]]
path = "/dead/*"
methods = ["GET"]
upstream = "dead"
price = "0.01 USD"
[[route]]
path = "/late/*"
methods = ["GET"]
upstream = "late"
price = "0.01 USD"
[[route]]
path = "/sats/*"
methods = ["GET"]
upstream = "api"
price = "1 sat"
[[route]]
path = "/small/*"
methods = ["POST"]
upstream = "api"
price = "0.01 USD"
max_body = 8
[[route]]
path = "/open/*"
methods = ["GET"]
mode = "public"
upstream = "api"
"""
NOT_PROVOKED = {
    "origin_refused", "overloaded", "unpriceable", "too_many_holds", "payment_required", "payment_unavailable",
}  # fmt: skip


# --- what is looked for


def encodings(secret: bytes) -> Iterator[bytes]:
    """A secret as it could stand in a text or a file: raw, hex, escaped, base64 at each of the three alignments."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    for shift in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(shift) + secret)[(shift * 8 + 5) // 6 : (shift + len(secret)) * 8 // 6]


class Needles:
    """Every secret of the test, in every form."""

    def __init__(self, keyring: Keyring) -> None:
        self._forms: dict[bytes, str] = {}
        self._keys: dict[str, bytes] = {}
        for kind in (CAPABILITY, ADMIN):
            key_id, key = keyring.current(kind)
            self._keys[key_id] = derive_key(key)
            self.add(f"the root key of {kind}", *encodings(key), *encodings(derive_key(key)))
            self.text(f"the root key of {kind}", urlsafe_b64encode(key).decode().rstrip("="))

    def add(self, name: str, *forms: bytes) -> None:
        for form in forms:
            self._forms.setdefault(form, name)

    def text(self, name: str, text: str) -> str:
        """Look for each piece of this text. Returns it."""
        data = text.encode()
        self.add(name, *(data[at : at + WINDOW] for at in range(0, len(data) - WINDOW, WINDOW)), data[-WINDOW:])
        return text

    def token(self, name: str, token: str) -> str:
        """Look for the token, and for the MAC of each of its prefixes. Returns it."""
        self.text(name, token.removeprefix("tolsey_"))
        for macaroon in Macaroon.deserialize_all(token):
            self.add(f"the signature of {name}", *encodings(macaroon.signature))
            words = macaroon.identifier.decode("latin-1").split(":")
            if len(words) == 5 and words[2] in self._keys:
                mac = first_mac(self._keys[words[2]], macaroon.identifier)
                for caveat in macaroon.caveats:
                    self.add(f"a prefix of {name}", *encodings(mac))
                    mac = mac_after(mac, caveat)
        return token

    def leaks(self, haystack: bytes) -> list[str]:
        """What is in there."""
        return [f"{name}: {form!r}" for form, name in self._forms.items() if form in haystack]


# --- the ways to fail


class Trouble:
    """Provokes every kind of refusal and error, and keeps what came back."""

    def __init__(self, gateway: Gateway, needles: Needles) -> None:
        self.gateway = gateway
        self.needles = needles
        self.answers: list[Answer] = []
        self.said: list[bytes] = []
        self.root = self.minted("the root", "label = team n1", "budget = 5 USD")

    def minted(self, name: str, *caveats: str) -> str:
        return self.needles.token(name, self.gateway.mint(*caveats))

    def child(self, name: str, *caveats: str) -> str:
        return self.needles.token(
            name, Macaroon.deserialize(self.root).attenuate(f"label = {name} n", *caveats).to_text()
        )

    async def raw(self, head: str, *lines: str, body: str = "", port: int | None = None) -> Answer:
        """One request; a token goes to where `lines` put it."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        async with Client(self.gateway.port if port is None else port) as client:
            answer = await client.send("\r\n".join([f"{head} HTTP/1.1", "Host: x", *lines, f"{length}\r\n{body}"]))
        self.answers.append(answer)
        return answer

    async def get(self, token: str, path: str = "/api/v1/x") -> int:
        return (await self.raw(f"GET {path}", f"Authorization: Bearer {token}")).status

    async def every_place(self) -> None:
        """A genuine token where it belongs, and everywhere else."""
        token = self.child("in its place")
        bare = token.removeprefix("tolsey_")
        assert await self.get(token) == await self.get(bare) == 200
        assert (await self.raw("GET /api/v1/x", f"X-Api-Key: {token}")).status == 200
        assert (await self.raw("GET /open/x", f"Authorization: Bearer {token}")).status == 200
        assert (await self.raw("GET /open/x", f"X-Api-Key: {bare}")).status == 200
        both = await self.raw("GET /api/v1/x", f"Authorization: Bearer {token}", f"X-Api-Key: {token}")
        twice = await self.raw("GET /api/v1/x", f"Authorization: Bearer {token}", f"Authorization: Bearer {token}")
        assert both.status == twice.status == 400
        for scheme in ("L402 ", "Basic ", "", "Bearer", "Bearer Bearer "):
            lines = f"Authorization: {scheme}{token}:{secrets.token_hex(32)}"
            assert (await self.raw("GET /api/v1/x", lines)).status == 401
        for head in (f"GET /api/v1/x?token={token}", "GET /api/v1/x", "POST /api/v1/x"):
            assert (await self.raw(head, f"Cookie: token={token}", body=f"token={token}")).status == 401
        assert (await self.raw(f"GET /open/x?token={token}")).status == 200
        assert await self.get(token, f"/nowhere/{token}") == 404
        assert await self.get(token, f"/api/v1//{token}") == 400
        assert (await self.raw("GET /api/v1/x", "no header", f"Authorization: Bearer {token}")).status == 400
        await self.raw("GET /api/v1/x", *[f"X-{n}: {token * 20}" for n in range(40)])

    async def broken_tokens(self) -> None:
        """What cannot be read, or is not genuine."""
        token = self.child("to be broken", "scope = /api/v1/*")
        macaroon = Macaroon.deserialize(token)
        wider = Macaroon(macaroon.location, macaroon.identifier, macaroon.caveats[:-1], macaroon.signature)
        key_id, key = Keyring.open(self.gateway.keys).current(ADMIN)
        admin = Macaroon.mint(
            root_key=key, identifier=write_identifier(ADMIN, key_id, secrets.token_urlsafe(16), 0), location=""
        )
        stranger = Macaroon.mint(root_key=b"stranger", identifier=macaroon.identifier, location="")
        for name, text in (
            ("cut", token[:-9]),
            ("with a tail", f"{token}AAAA"),
            ("with a sign that is none", f"{token[:60]}!{token[60:]}"),
            ("too big", secrets.token_urlsafe(9000)),
            ("not a token", secrets.token_urlsafe(40)),
        ):
            assert await self.get(self.needles.text(name, text)) == 401
        for name, forged in (("widened", wider), ("an admin's", admin), ("a stranger's", stranger)):
            text = self.needles.token(name, forged.to_text())
            assert await self.get(text) == await self.get(text, "/.tolsey/balance") == 401
        for path in ("/healthz", "/readyz", "/metrics"):
            port = self.gateway.admin_port
            await self.raw(f"GET {path}", f"Authorization: Bearer {admin.to_text()}", port=port)
            await self.raw(f"GET {path}", f"Authorization: Bearer {token}", port=port)

    async def refused_tokens(self) -> None:
        """Genuine tokens that do not allow the call."""
        for caveat, status in (
            ("expires = 2020-01-01", 401),
            ("colour = red", 403),
            ("scope = /elsewhere", 403),
            ("method = POST", 403),
            ("peer = 10.0.0.0/8", 403),
            ("max-price = 0.001 USD", 403),
            ("budget = 0 USD", 402),
            ("budget = 5 sat", 402),
        ):
            assert await self.get(self.child("refused", caveat)) == status, caveat
        assert await self.get(self.root, "/sats/x") == 402
        assert (await self.raw("DELETE /api/v1/x", f"Authorization: Bearer {self.root}")).status == 405
        assert (await self.raw("TRACE /api/v1/x", f"Authorization: Bearer {self.root}")).status == 405
        for lines in (("Upgrade: websocket", "Connection: upgrade"), ("Expect: 100-continue",)):
            await self.raw("GET /api/v1/x", f"Authorization: Bearer {self.root}", *lines)
        asking = ask(Macaroon.deserialize(self.root))
        discharge = approve("expires = 2099-01-01")
        for name, text, status in (
            ("approved", text_of(asking, discharge), 200),
            ("not approved", text_of(asking), 403),
            ("not asked for", text_of(Macaroon.deserialize(self.root), discharge), 403),
            ("approved by another", text_of(asking, approve(key=b"another key")), 403),
            ("with commas", f"{asking.to_text()},{asking.bind(discharge).to_text()}", 200),
        ):
            for part in text.split(","):
                self.needles.token(name, part)
            assert await self.get(text) == status, name
        assert await self.get(self.root, "/.tolsey/balance") == 200
        await self.revoked_token()

    async def revoked_token(self) -> None:
        """A token that is given to `tolsey revoke`, on standard input, and then refused."""
        token = self.child("revoked", "label = revoked n")
        status, *said = await asyncio.to_thread(tolsey, "revoke", "-", "-c", str(self.gateway.file), stdin=token)
        assert status == 0
        assert self.needles.leaks("".join(said).encode()) == []
        async with asyncio.timeout(10):
            while await self.get(token) != 403:
                pass

    async def limits(self) -> None:
        """Counts, rates and idempotency keys."""
        money = ("label = team n1", "budget = 1 USD")
        assert await self.get(self.minted("counted", *money, "calls = 0")) == 402
        paced = self.minted("paced", *money, "rate = 1/day")
        assert [await self.get(paced), await self.get(paced)] == [200, 429]
        for path, status in (("/api/v1/x?status=0", 502), ("/api/v1/x?status=0", 409), ("/api/v1/x", 422)):
            lines = (f"Authorization: Bearer {self.root}", "Idempotency-Key: once")
            assert (await self.raw(f"GET {path}", *lines)).status == status

    async def upstream_troubles(self) -> None:
        for path, status in (
            ("/dead/x", 502),
            ("/late/x?ms=1000", 504),
            ("/api/v1/x?status=0", 502),
            ("/api/v1/x?status=500", 500),
        ):
            assert await self.get(self.root, path) == status
        for size in ("8", "9"):
            sized = await self.raw("POST /small/x", f"Authorization: Bearer {self.root}", body=self.root[: int(size)])
            assert sized.status == (200 if size == "8" else 413)

    async def ledger_troubles(self) -> None:
        known = self.child("known as another", "budget = 1 USD")
        assert await self.get(known) == 200
        with sqlite3.connect(self.gateway.ledger, isolation_level=None) as db:
            db.execute("UPDATE account SET label = 'changed' WHERE label = 'known as another'")
            async with asyncio.timeout(10):
                while await self.get(known) != 503:
                    pass  # A worker that has the account at hand does not look at its label again.
            db.execute("UPDATE account SET label = 'known as another' WHERE label = 'changed'")
            db.execute("BEGIN IMMEDIATE")
            assert await self.get(self.root) == 503
            db.execute("ROLLBACK")
        db.close()
        await swarm.until(lambda: not self.gateway.open_holds(), "the ledger is free again")

    async def killed_worker(self) -> None:
        flying = [asyncio.create_task(self.get(self.root, f"/api/v1/{n}?ms=300")) for n in range(16)]
        await swarm.until(lambda: self.gateway.open_holds() == 16, "all calls are in flight")
        self.list_processes()
        self.gateway.workers()[0].kill()
        await asyncio.gather(*flying)
        await swarm.until(lambda: "settled holds of dead workers" in self.gateway.said(), "its holds are settled")
        await swarm.until(lambda: len(self.gateway.workers()) == 2, "it is started again")

    def list_processes(self) -> None:
        """What `ps` shows of them."""
        for process in (
            *self.gateway.workers(),
            psutil.Process(self.gateway.process.pid if self.gateway.process else 0),
        ):
            self.said.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
            self.said.append(process.name().encode())

    async def reloads(self) -> None:
        """A config that is taken up, and wrong ones: one of them with a secret written into it."""
        file, good = self.gateway.file, self.gateway.file.read_text()
        written = (
            f'[[upstream]]\nname = "x"\nurl = "http://127.0.0.1:1"\nheaders = {{ X-Key = "{WRITTEN_SECRET}\\n" }}\n'
        )
        for number, (text, event) in enumerate(
            (
                (good + "# changed\n", "config reloaded"),
                (f"{good}{written}", "the old one goes on"),
                (f"{good}{written.replace('headers', 'header')}", "the old one goes on"),
                (f'{good}"{WRITTEN_SECRET}', "the old one goes on"),
                (good.replace("API_SECRET", "NO_SECRET"), "the old one goes on"),
                (good, "config reloaded"),
            )
        ):
            before = self.gateway.said().count(event)
            file.write_text(text)
            await swarm.until(lambda: self.gateway.said().count(event) > before, f"config {number}")  # noqa: B023 - awaited here
        assert await self.get(self.root) == 200

    async def starts_that_fail(self) -> None:
        """With the keyring open to others, damaged, or a variable not set."""
        keys, good = self.gateway.keys, self.gateway.keys.read_bytes()
        content = json.loads(good)
        content["keys"][0]["secret"] = content["keys"][0]["secret"][:-1] + "!"
        keys.chmod(0o644)
        await self._fails("others may use it")
        keys.chmod(0o600)
        for damaged in (good[:-20], json.dumps(content).encode()):
            keys.write_bytes(damaged)
            await self._fails("this is not a keyring")
        keys.write_bytes(good)
        self.gateway.env = {}
        await self._fails("API_SECRET is not set")

    async def _fails(self, message: str) -> None:
        self.gateway.launch()
        assert await self.gateway.ended() == 1
        assert message in self.gateway.said()


@pytest.mark.slow
async def test_no_secret_is_in_anything_that_the_gateway_leaves(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(
            tmp_path,
            upstream.port,
            timeout=0.5,
            upstream_more=SETTING,
            more=MORE.format(dead=free_port(), live=upstream.port, setting=SETTING),
        )
        gateway.env = {"API_SECRET": UPSTREAM_SECRET}
        needles = Needles(Keyring.open(gateway.keys))
        trouble = Trouble(gateway, needles)
        async with swarm.serving(gateway):
            await trouble.every_place()
            await trouble.broken_tokens()
            await trouble.refused_tokens()
            await trouble.limits()
            await trouble.upstream_troubles()
            await trouble.ledger_troubles()
            await trouble.killed_worker()
            await trouble.reloads()
            trouble.list_processes()
            assert_modes(gateway)
            assert_nothing_leaked(gateway, upstream, trouble)
            await gateway.stop()
            await trouble.starts_that_fail()
        assert_nothing_leaked(gateway, upstream, trouble)
        assert_modes(gateway)
        codes = {json.loads(a.body)["code"] for a in trouble.answers if "problem" in a.headers.get("content-type", "")}
        assert STATUSES.keys() - codes == NOT_PROVOKED


def assert_nothing_leaked(gateway: Gateway, upstream: Upstream, trouble: Trouble) -> None:
    needles = trouble.needles
    assert needles.leaks(gateway.keys.read_bytes()), "what is looked for is found where it is"
    went_up = "\n".join(head.partition("\r\n")[2] for head in upstream.heads()).encode("latin-1")
    assert UPSTREAM_SECRET.encode() in went_up
    assert needles.leaks(went_up.replace(UPSTREAM_SECRET.encode(), b"")) == [], "a token never reaches the upstream"

    for name in ("UPSTREAM_SECRET", "WRITTEN_SECRET"):
        needles.text(name, globals()[name])
    left = {"stdout": gateway.out.read_bytes(), "stderr": gateway.err.read_bytes(), "ps": b"\n".join(trouble.said)}
    for number, answer in enumerate(trouble.answers):
        left[f"answer {number}"] = repr(answer.headers).encode() + answer.body
    for path in gateway.ledger.parent.rglob("*"):
        # A file that replaces another is renamed over it while this looks.
        with suppress(FileNotFoundError):
            if path.is_file() and path != gateway.keys:
                left[path.name] = path.read_bytes()
    assert {"ledger.db", "keys.mark", "keys.lock"} <= left.keys()
    assert len(left["stdout"]) > 1000
    assert len(left["stderr"]) > 1000
    for name, content in left.items():
        assert needles.leaks(content) == [], name


def assert_modes(gateway: Gateway) -> None:
    """Nobody else may read anything of it, whatever the umask was."""
    data = gateway.ledger.parent
    modes = {}
    for path in (data, *data.rglob("*")):
        # A file that replaces another is renamed over it while this looks.
        with suppress(FileNotFoundError):
            modes[path] = path.stat().st_mode
    assert {gateway.ledger, gateway.keys} <= modes.keys()
    for path, mode in modes.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), f"{path} has mode {mode:o}"
