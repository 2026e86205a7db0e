"""An OpenID Connect provider for the tests: a real server with discovery and keys, which misbehaves when told."""

import base64
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

Answer = tuple[int, bytes]

AUDIENCE = "tolsey"


def encoded(data: bytes) -> str:
    """base64url, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def part(content: object) -> str:
    """A part of a JWT."""
    return encoded(json.dumps(content).encode())


class Issuer:
    """`asked` are the paths that were asked for, `forms` what was posted. `answers` has what a path is answered with
    instead: a status and a body, or a function that is called first, and may take its time. `person` are the claims
    of whoever comes with a browser, and agrees.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.person: dict[str, object] = {}
        self._codes: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.released = threading.Event()
        self.keys: dict[str, Key] = {"rsa": RSAKey.generate_key(2048), "ec": ECKey.generate_key("P-256")}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                if self.path.startswith("/authorize?"):
                    self.send_response(303)
                    self.send_header("Location", issuer.authorize(issuer.url + self.path, **issuer.person))
                    self.end_headers()
                    return
                found = issuer.answers.get(self.path) or issuer.normal(self.path)
                status, body = found() if callable(found) else found
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                issuer.asked.append(self.path)
                issuer.forms.append({**dict(parse_qsl(form)), "shown": self.headers.get("Authorization", "")})
                found = issuer.answers.get(self.path) or issuer.exchange(issuer.forms[-1])
                status, body = found() if callable(found) else found
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The issuer."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def normal(self, path: str) -> Answer:
        """What a path is answered with by a provider that is well."""
        if path == "/.well-known/openid-configuration":
            ends = {"jwks_uri": "/jwks", "authorization_endpoint": "/authorize", "token_endpoint": "/token"}
            return 200, json.dumps({"issuer": self.url, **{k: self.url + v for k, v in ends.items()}}).encode()
        if path == "/jwks":
            return 200, json.dumps({"keys": [self.public(name) for name in self.keys]}).encode()
        return 404, b""

    def authorize(self, url: str, **claims: object) -> str:
        """What becomes of a browser that was sent here and whose person agrees: where it is sent back to. The token for
        the code has these claims.
        """
        asked = dict(parse_qsl(urlsplit(url).query))
        assert url.startswith(f"{self.url}/authorize?")
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked, {"aud": asked["client_id"], "nonce": asked["nonce"], **claims}
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.url})}"

    def exchange(self, form: dict[str, str]) -> Answer:
        """What a code is exchanged for, once."""
        asked, claims = self._codes.pop(form.get("code", ""), ({}, {}))
        proof = encoded(sha256(form.get("code_verifier", "").encode()).digest())
        named = (asked.get("client_id"), asked.get("redirect_uri"), asked.get("code_challenge"))
        if named != (form["client_id"], form["redirect_uri"], proof):
            return 400, b'{"error": "invalid_grant"}'
        return 200, json.dumps({"id_token": self.token(**claims), "token_type": "Bearer"}).encode()

    def public(self, name: str) -> dict[str, Any]:
        """A key as the key set has it."""
        return {**self.keys[name].as_dict(private=False), "kid": name, "use": "sig"}

    def add(self, name: str) -> None:
        """A new key, from now on."""
        self.keys[name] = OKPKey.generate_key("Ed25519")

    def hang(self) -> Answer:
        """An answer that does not come until `released`."""
        self.released.wait(30)
        return 200, b"{}"

    def claims(self, **claims: object) -> dict[str, object]:
        """The claims of a token of Alice's, with others; None takes one out."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300}
        return {name: value for name, value in {**usual, **claims}.items() if value is not None}

    def token(
        self,
        key: str = "rsa",
        alg: str | None = None,
        header: dict[str, object] | None = None,
        **claims: Any,  # noqa: ANN401 - what a provider says may be anything
    ) -> str:
        """A token signed with a key of this provider."""
        names = {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}
        secret = self.keys[key]
        alg = alg or names[secret.key_type]
        whole = {"alg": alg, "kid": key, **(header or {})}
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, self.claims(**claims), secret, algorithms=[alg])

    def confused(self) -> str:
        """A token signed with HS256, the public key being the secret (RFC 8725, 2.1)."""
        rsa = self.keys["rsa"]
        assert isinstance(rsa, RSAKey)
        signed = f"{part({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{part(self.claims())}"
        return f"{signed}.{encoded(hmac.digest(rsa.as_pem(private=False), signed.encode(), 'sha256'))}"

    def close(self) -> None:
        """Stop, also what hangs."""
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
