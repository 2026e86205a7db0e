"""TLS on both sides: the data port's certificate, how upstreams are known, and by what they know the gateway."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Authority
from tests.cli import answer, invoke
from tests.ends import Client
from tests.gateways import Gateway, lay_out, problem, serving, until
from tests.upstreams import OK, Upstream
from tolsey.config import problems

SERVER = '[server]\ntls = { certificate = "tls/server.pem", key = "tls/server.key" }\n'
ROUTE = """
[[route]]
path = "/*"
methods = ["*"]
upstream = "u"
price = "0.01 USD"
max_body = 100_000
"""
PLAIN = f'{SERVER}[[upstream]]\nname = "u"\nurl = "http://127.0.0.1:<port>"\n{ROUTE}'
MUTUAL = (
    '[server]\n[[upstream]]\nname = "u"\nurl = "https://127.0.0.1:<port>"\n'
    f'tls = {{ ca = "tls/ca.pem", certificate = "tls/client.pem", key = "tls/client.key" }}\n{ROUTE}'
)


def new_authority(folder: Path) -> Authority:
    found = Authority(folder / "tls")
    found.certify("server")
    found.certify("client", "gateway.test")
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return new_authority(tmp_path)


@pytest.fixture
def fresh(upstream: Upstream, authority: Authority, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose data port speaks TLS, for a test that changes it."""
    with serving(tmp_path, PLAIN, port=upstream.port) as running:
        yield running


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of `secure`."""
    return new_authority(tmp_path_factory.mktemp("secure"))


@pytest.fixture(scope="module")
def secure(upstream: Upstream, same: Authority) -> Iterator[Gateway]:
    """A gateway whose data port speaks TLS."""
    with serving(same.folder.parent, PLAIN, port=upstream.port) as running:
        yield running


def ask(gateway: Gateway, authority: Authority, token: str, target: str = "/x") -> int:
    with Client(gateway.port, tls=authority.known) as client:
        client.ask("GET", target, "Connection: close", token=token)
        return client.answer().status


# --- the data port


def test_calls_over_tls(secure: Gateway, same: Authority, upstream: Upstream) -> None:
    token = secure.token()
    assert f"https://127.0.0.1:{secure.port}" in secure.said()
    with httpx.Client(verify=same.known, base_url=f"https://127.0.0.1:{secure.port}") as client:
        for body in (b"", b"x" * 90_000):
            answered = client.post("/x", headers={"Authorization": f"Bearer {token}"}, content=body)
            assert (answered.status_code, answered.headers["tolsey-cost"]) == (200, "0.01 USD")
            assert (upstream.last()["x-forwarded-proto"], upstream.last().body) == ("https", body)
        balance = client.get("/.tolsey/balance", headers={"Authorization": f"Bearer {token}"})
    assert balance.json()["accounts"][0]["spent"] == "0.02"


def test_a_large_answer_to_a_slow_reader(secure: Gateway, same: Authority, upstream: Upstream) -> None:
    size = 8 * 1024 * 1024
    upstream.answers["/large"] = OK.replace(b"Length: 2\r\n\r\n{}", b"Length: %d\r\n\r\n" % size) + bytes(size)
    with Client(secure.port, tls=same.known) as client:
        client.ask("GET", "/large", token=secure.token())
        assert client.answer().body == bytes(size)


def test_what_is_offered_is_http_1_1_over_tls_1_2_or_later(secure: Gateway, same: Authority) -> None:
    context = ssl.create_default_context(cafile=same.file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Client(secure.port, tls=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        assert client.socket.version() == "TLSv1.3"


def test_a_refusal_reaches_a_client_that_is_still_talking(secure: Gateway, same: Authority) -> None:
    # Over TLS a connection cannot be half closed.
    with Client(secure.port, tls=same.known) as client:
        client.ask("POST", "/x", "Content-Length: 1000000", token=secure.token())
        client.say(bytes(10_000))
        assert problem(client.answer())["code"] == "body_too_large"
        assert client.is_left()


@pytest.mark.parametrize("said", [b"GET /x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05xxxxx", b""])
def test_what_is_no_tls_gets_no_answer(secure: Gateway, same: Authority, said: bytes) -> None:
    with Client(secure.port) as client:
        client.say(said)
        if said:
            assert client.is_left()
    assert ask(secure, same, secure.token()) == 200
    assert "Traceback" not in secure.said()


def test_another_certificate_is_taken_up(fresh: Gateway, authority: Authority, tmp_path: Path) -> None:
    token = fresh.token()
    with Client(fresh.port, tls=authority.known) as before:
        new = Authority(tmp_path / "new")
        certificate = new.certify("server")
        for file in (certificate, certificate.with_suffix(".key")):
            os.replace(shutil.copy(file, tmp_path), tmp_path / "tls" / file.name)
        until(lambda: "config reloaded" in fresh.said(), "the certificate is taken up")
        assert ask(fresh, new, token) == 200
        before.ask("GET", "/x", token=token)
        assert before.answer().status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(fresh.port, tls=authority.known)


def test_a_certificate_that_is_wrong_leaves_the_old_one(fresh: Gateway, authority: Authority, tmp_path: Path) -> None:
    certificate = Authority(tmp_path / "new").certify("server")
    os.replace(certificate, tmp_path / "tls/server.pem")
    until(lambda: "the new config is refused" in fresh.said(), "it is noticed")
    assert "server.tls: the files cannot be used: key values mismatch" in fresh.said()
    assert ask(fresh, authority, fresh.token()) == 200


def test_tls_begins_with_a_restart(fresh: Gateway, upstream: Upstream) -> None:
    fresh.reload(fresh.file.read_text().replace("tls =", "#"))
    assert "a change in [server] takes a restart" in fresh.said()


def test_an_idle_client_does_not_keep_it_from_stopping(fresh: Gateway, authority: Authority) -> None:
    assert fresh.process is not None
    with Client(fresh.port, tls=authority.known) as idle, Client(fresh.port):
        idle.ask("GET", "/x", token=fresh.token())
        assert idle.answer().status == 200
        fresh.process.terminate()
        assert fresh.ends(seconds=15) == 0
    fresh.begin()


# --- upstreams


@pytest.fixture
def mutual(authority: Authority) -> Iterator[Upstream]:
    """An upstream that wants to see a certificate."""
    with Upstream(authority.shows(authority.folder / "server.pem", asks=True)) as running:
        yield running


def test_an_upstream_that_knows_us(mutual: Upstream, authority: Authority, tmp_path: Path) -> None:
    with serving(tmp_path, MUTUAL, port=mutual.port) as gateway:
        token = gateway.token()
        assert [gateway.ask("GET", f"/{n}", token=token).status for n in range(3)] == [200] * 3
        gateway.stands(token, spent="0.03", calls=3)


@pytest.mark.parametrize(
    ("tls", "hosts", "spent"),
    [
        ('tls = { certificate = "tls/client.pem", key = "tls/client.key" }', (), "0"),
        ("tls = {}", (), "0"),
        ('tls = { ca = "tls/ca.pem" }', ("elsewhere.test",), "0"),
        # With TLS 1.3 a server looks at the client's certificate when the request is on its way.
        ('tls = { ca = "tls/ca.pem" }', (), "0.01"),
    ],
    ids=["an authority that is not known", "the system's authorities", "another name", "no certificate to show"],
)
def test_an_upstream_that_does_not_go_with_us(
    authority: Authority, tmp_path: Path, tls: str, hosts: tuple[str, ...], spent: str
) -> None:
    shown = authority.certify("shown", *hosts)
    config = MUTUAL.replace(MUTUAL[MUTUAL.index("tls =") : MUTUAL.index("\n[[route]]")], tls)
    with (
        Upstream(authority.shows(shown, asks=True)) as upstream,
        serving(tmp_path, config, port=upstream.port) as gateway,
    ):
        token = gateway.token()
        assert problem(gateway.ask("GET", "/x", token=token))["code"] == "upstream_failed"
        gateway.stands(token, spent=spent, calls=int(spent != "0"))
        assert upstream.heard == []


def test_the_doctor_says_why_an_upstream_is_not_known(mutual: Upstream, authority: Authority, tmp_path: Path) -> None:
    file = lay_out(tmp_path, MUTUAL, port=mutual.port).file
    found = [each for each in answer("doctor", "-c", str(file))["findings"] if each["check"] == "upstream"]
    assert [each["state"] for each in found] == ["ok"]
    file.write_text(file.read_text().replace('ca = "tls/ca.pem", ', ""))
    _, out, _ = invoke("doctor", "-c", str(file), "--json")
    assert "cannot be reached: self-signed certificate in certificate chain" in out


# --- the config


@pytest.mark.parametrize(
    ("tls", "key", "detail"),
    [
        ("{}", "server.tls.certificate", "is missing"),
        ('{ certificate = "tls/server.pem" }', "server.tls", "lack a certificate or a key"),
        ('{ certificate = "tls/none.pem" }', "server.tls", "No such file or directory: "),
        ('{ certificate = "tls/server.pem", key = "tls/client.key" }', "server.tls", "key values mismatch"),
        ('{ certificate = "tls/server.pem", key = "tls/locked.key" }', "server.tls", "the key has a password"),
        ('{ certificate = "tolsey.toml" }', "server.tls", "they are not PEM"),
        ('{ certificate = "tls/server.pem", ca = "tls/ca.pem" }', "server.tls.ca", "unknown key"),
        ('"tls/server.pem"', "server.tls", "must be a table, not a string"),
    ],
)
def test_files_that_cannot_be_shown(authority: Authority, tmp_path: Path, tls: str, key: str, detail: str) -> None:
    if "locked" in tls:
        locked = ["openssl", "pkey", "-aes256", "-passout", "pass:sesame", "-out", f"{authority.folder}/locked.key"]
        subprocess.run([*locked, "-in", f"{authority.folder}/server.key"], check=True)
    file = tmp_path / "tolsey.toml"
    file.write_text(f"[server]\ntls = {tls}\n")
    (found,) = problems(file, {})
    assert (found.key, found.line, detail in found.reason) == (key, 2, True), found


@pytest.mark.parametrize(
    ("url", "tls", "key", "detail"),
    [
        ("http://u.test", '{ ca = "tls/ca.pem" }', "upstream[0].tls", "is for an upstream at https://"),
        ("https://u.test", '{ key = "tls/client.key" }', "upstream[0].tls.key", "of no use without a certificate"),
        ("https://u.test", '{ ca = "tls/none.pem" }', "upstream[0].tls", "No such file or directory: "),
        ("https://u.test", '{ ca = "tls/client.key" }', "upstream[0].tls", "no certificate or crl found"),
    ],
)
def test_files_for_an_upstream(authority: Authority, tmp_path: Path, url: str, tls: str, key: str, detail: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(f'[[upstream]]\nname = "u"\nurl = "{url}"\ntls = {tls}\n')
    (found,) = problems(file, {})
    assert (found.key, found.line, detail in found.reason) == (key, 4, True), found


def test_a_command_that_calls_nobody_needs_no_certificate(tmp_path: Path) -> None:
    file = lay_out(tmp_path, PLAIN, port=1).file
    answer("mint", "-c", str(file), "--label", "a", "--budget", "1 USD")
