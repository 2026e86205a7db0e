"""Foreign macaroon libraries as a second opinion: pymacaroons, npm `macaroon`, and Debian's libmacaroons.

Each is driven through the same few verbs, binary in and binary out. A test whose tool is not on this machine is
skipped; where CI=true it fails instead.
"""

import base64
import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn, Protocol

import pymacaroons
import pytest
from pymacaroons.serializers.binary_serializer import BinarySerializer

from tests.tokens import v1
from tolsey import Macaroon

JS = Path(__file__).parent / "js"


def missing(what: str) -> NoReturn:
    """Skip for want of a tool, or fail where CI must have it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI=true")
    pytest.skip(what)


@cache
def node(folder: Path = JS) -> str:
    """Return the path of node, with what the lock file of `folder` names installed there."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        missing("node and npm are not on the PATH (Debian: nodejs, npm)")
    if not (folder / "node_modules" / ".package-lock.json").exists():
        command = [npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            missing(f"npm ci failed: {done.stderr.strip()[-300:]}")
    return found


def run_node(script: Path, data: str) -> str:
    """Run a script with `data` on its standard input; return what it printed."""
    done = subprocess.run([node(), str(script)], input=data, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Library(Protocol):
    """What every macaroon library can do. Its binary is v1 or v2; it reads ours."""

    def mint(self, key: bytes, identifier: bytes, location: str, caveats: Sequence[bytes] = ()) -> bytes:
        """Make a macaroon."""

    def attenuate(self, binary: bytes, caveats: Sequence[bytes]) -> bytes:
        """Append first-party caveats."""

    def ask(self, binary: bytes, location: str, key: bytes, identifier: bytes) -> bytes:
        """Append a third-party caveat, with a random nonce."""

    def bind(self, binary: bytes, discharge: bytes) -> bytes:
        """Bind a discharge."""

    def verify(self, binary: bytes, key: bytes, discharges: Sequence[bytes] = ()) -> bool:
        """Whether the HMACs are intact, every caveat being satisfied."""


class PyMacaroons:
    """PyPI's pymacaroons 0.13.0, in v2."""

    version: int = pymacaroons.MACAROON_V2

    def _read(self, binary: bytes) -> pymacaroons.Macaroon:
        return pymacaroons.Macaroon.deserialize(base64.urlsafe_b64encode(binary).decode())

    def _write(self, macaroon: pymacaroons.Macaroon) -> bytes:
        macaroon._version = self.version
        binary: bytes = BinarySerializer().serialize_raw(macaroon)
        return binary

    def mint(self, key: bytes, identifier: bytes, location: str, caveats: Sequence[bytes] = ()) -> bytes:
        made = pymacaroons.Macaroon(location=location, identifier=identifier, key=key, version=self.version)
        for caveat in caveats:
            made.add_first_party_caveat(caveat)
        return self._write(made)

    def attenuate(self, binary: bytes, caveats: Sequence[bytes]) -> bytes:
        made = self._read(binary)
        for caveat in caveats:
            made.add_first_party_caveat(caveat)
        return self._write(made)

    def ask(self, binary: bytes, location: str, key: bytes, identifier: bytes) -> bytes:
        made = self._read(binary)
        made.add_third_party_caveat(location, key, identifier)
        return self._write(made)

    def bind(self, binary: bytes, discharge: bytes) -> bytes:
        return self._write(self._read(binary).prepare_for_request(self._read(discharge)))

    def verify(self, binary: bytes, key: bytes, discharges: Sequence[bytes] = ()) -> bool:
        judge = pymacaroons.Verifier()
        judge.satisfy_general(lambda _: True)
        try:
            return bool(judge.verify(self._read(binary), key, [self._read(d) for d in discharges]))
        except (
            pymacaroons.exceptions.MacaroonInvalidSignatureException,
            pymacaroons.exceptions.MacaroonUnmetCaveatException,
        ):
            return False


class PyMacaroonsV1(PyMacaroons):
    """The same in v1."""

    version: int = pymacaroons.MACAROON_V1


class NpmMacaroon:
    """npm's `macaroon` 3.0.4, in v2."""

    def _call(self, operation: str, **arguments: object) -> str | bool:
        def plain(value: object) -> object:
            if isinstance(value, bytes):
                return base64.b64encode(value).decode()
            return [plain(item) for item in value] if isinstance(value, list | tuple) else value

        request = {"operation": operation} | {name: plain(value) for name, value in arguments.items()}
        answers: list[str | bool] = json.loads(run_node(JS / "macaroon.mjs", json.dumps([request])))
        return answers[0]

    def _make(self, operation: str, **arguments: object) -> bytes:
        return base64.b64decode(str(self._call(operation, **arguments)))

    def mint(self, key: bytes, identifier: bytes, location: str, caveats: Sequence[bytes] = ()) -> bytes:
        return self._make("mint", key=key, identifier=identifier, location=location, caveats=[*caveats])

    def attenuate(self, binary: bytes, caveats: Sequence[bytes]) -> bytes:
        return self._make("attenuate", binary=binary, caveats=[*caveats])

    def ask(self, binary: bytes, location: str, key: bytes, identifier: bytes) -> bytes:
        return self._make("ask", binary=binary, location=location, key=key, identifier=identifier)

    def bind(self, binary: bytes, discharge: bytes) -> bytes:
        return self._make("bind", binary=binary, discharge=discharge)

    def verify(self, binary: bytes, key: bytes, discharges: Sequence[bytes] = ()) -> bool:
        return self._call("verify", binary=binary, key=key, discharges=[*discharges]) is True


class LibMacaroons:
    """Debian's libmacaroons 0.3.0, which reads and writes v1 text only; ours is rewritten to v1 before it sees it."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("macaroons")
        if name is None:
            missing("libmacaroons.so.0 is not on this machine (Debian: libmacaroons0)")
        self._library = ctypes.CDLL(name)

    def _make(self, function: str, *arguments: bytes | int) -> int:
        """Call a function whose last argument is an error code and which returns a macaroon."""
        entry, error = self._library[function], ctypes.c_int(0)
        entry.restype = ctypes.c_void_p
        given = [
            part
            for argument in arguments
            for part in (
                (ctypes.c_char_p(argument), ctypes.c_size_t(len(argument)))
                if isinstance(argument, bytes)
                else (ctypes.c_void_p(argument),)
            )
        ]
        made: int | None = entry(*given, ctypes.byref(error))
        assert made is not None, f"{function}: error {error.value}"
        return made

    def _read(self, binary: bytes) -> int:
        data = v1(Macaroon.deserialize(binary)) if binary[:1] == b"\x02" else binary
        text, error = base64.urlsafe_b64encode(data).rstrip(b"="), ctypes.c_int(0)
        self._library.macaroon_deserialize.restype = ctypes.c_void_p
        made: int | None = self._library.macaroon_deserialize(ctypes.c_char_p(text), ctypes.byref(error))
        assert made is not None, f"macaroon_deserialize: error {error.value}"
        return made

    def _write(self, macaroon: int) -> bytes:
        pointer, error = ctypes.c_void_p(macaroon), ctypes.c_int(0)
        self._library.macaroon_serialize_size_hint.restype = ctypes.c_size_t
        size = self._library.macaroon_serialize_size_hint(pointer)
        out = ctypes.create_string_buffer(size)
        failed = self._library.macaroon_serialize(pointer, out, ctypes.c_size_t(size), ctypes.byref(error))
        assert failed == 0, f"macaroon_serialize: error {error.value}"
        return base64.urlsafe_b64decode(out.value + b"=" * (-len(out.value) % 4))

    def mint(self, key: bytes, identifier: bytes, location: str, caveats: Sequence[bytes] = ()) -> bytes:
        made = self._make("macaroon_create", location.encode(), key, identifier)
        for caveat in caveats:
            made = self._make("macaroon_add_first_party_caveat", made, caveat)
        return self._write(made)

    def attenuate(self, binary: bytes, caveats: Sequence[bytes]) -> bytes:
        made = self._read(binary)
        for caveat in caveats:
            made = self._make("macaroon_add_first_party_caveat", made, caveat)
        return self._write(made)

    def ask(self, binary: bytes, location: str, key: bytes, identifier: bytes) -> bytes:
        made = self._read(binary)
        return self._write(self._make("macaroon_add_third_party_caveat", made, location.encode(), key, identifier))

    def bind(self, binary: bytes, discharge: bytes) -> bytes:
        return self._write(self._make("macaroon_prepare_for_request", self._read(binary), self._read(discharge)))

    def verify(self, binary: bytes, key: bytes, discharges: Sequence[bytes] = ()) -> bool:
        library, error = self._library, ctypes.c_int(0)
        library.macaroon_verifier_create.restype = ctypes.c_void_p
        judge = ctypes.c_void_p(library.macaroon_verifier_create())
        for macaroon in (binary, *discharges):
            for caveat in Macaroon.deserialize(macaroon).caveats:
                exact = ctypes.c_char_p(caveat.cid), ctypes.c_size_t(len(caveat.cid))
                library.macaroon_verifier_satisfy_exact(judge, *exact, ctypes.byref(error))
        sent = (ctypes.c_void_p * len(discharges))(*[self._read(d) for d in discharges])
        secret = ctypes.c_char_p(key), ctypes.c_size_t(len(key))
        count = ctypes.c_size_t(len(discharges))
        root = ctypes.c_void_p(self._read(binary))
        return bool(library.macaroon_verify(judge, root, *secret, sent, count, ctypes.byref(error)) == 0)


@cache
def library(name: str) -> Library:
    """One of the libraries, by name; skips or fails where it is not on this machine."""
    libraries: dict[str, type[Library]] = {
        "pymacaroons": PyMacaroons,
        "pymacaroons v1": PyMacaroonsV1,
        "npm macaroon": NpmMacaroon,
        "libmacaroons": LibMacaroons,
    }
    return libraries[name]()


LIBRARIES = ("pymacaroons", "pymacaroons v1", "npm macaroon", "libmacaroons")
