"""tolsey.toml: the defaults, what each key may be, and that every error has its line, its key and a plain text."""

import itertools
import string
import tomllib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tolsey.call import METHODS, parse_pattern
from tolsey.cli.template import TEMPLATE
from tolsey.config import MAX_FILE, MAX_ROUTES, Config, load, problems
from tolsey.config_lines import Key, dotted, locate
from tolsey.config_overlaps import meets
from tolsey.config_secrets import Secret
from tolsey.errors import ConfigError
from tolsey.pricing.tariff import Price
from tolsey.token.wire import Limits

ENV = {"SEARCH_API_KEY": "sk-sesame", "EMPTY": "", "LINES": "a\r\nX-Evil: 1", "WIDE": "ключ-sesame", "LONG": "x" * 8193}
UPSTREAM = '[[upstream]]\nname = "search"\nurl = "http://127.0.0.1:9000"\n'
ROUTE = '[[route]]\npath = "/a"\nmethods = ["GET"]\nupstream = "search"\n'

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tolsey.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8", newline="")
    return load(file, ENV)


def the_errors(file: Path, text: str) -> list[ConfigError]:
    file.write_text(text, encoding="utf-8", newline="")
    found = problems(file, ENV)
    with pytest.raises(ConfigError) as caught:
        load(file, ENV)
    assert (str(caught.value), type(caught.value)) == (str(found[0]), ConfigError)
    assert caught.value.__context__ is None
    return found


@pytest.mark.parametrize("text", ["", TEMPLATE, "route = []\nupstream = []\n[server]\n[ledger]\n[limits]"])
def test_the_defaults(file: Path, text: str) -> None:
    config = read(file, text)
    server = config.server
    assert (server.host, server.port, server.workers, server.mode) == ("127.0.0.1", 8402, 1, "enforce")
    assert (server.max_body, server.trusted_proxies, server.disclose) == (None, (), "chain")
    assert (config.admin.host, config.admin.port) == ("127.0.0.1", 8403)
    assert config.file == file
    assert config.keys == file.parent / "data/keys"
    ledger = config.ledger
    assert (ledger.path, ledger.durability, ledger.timeout) == (file.parent / "data/ledger.db", "full", 5.0)
    assert config.limits == Limits()
    assert (config.upstreams, config.routes, config.warnings) == ((), (), ())


def test_the_template_with_its_example(file: Path) -> None:
    lines = [line.removeprefix("# ") if "=" in line or "[[" in line else line for line in TEMPLATE.splitlines()]
    config = read(file, "\n".join(lines))
    upstream, route = config.upstreams[0], config.routes[0]
    assert (upstream.name, upstream.url, upstream.prefix) == ("search", "http://127.0.0.1:9000", "")
    assert (upstream.connect_timeout, upstream.timeout) == (5.0, 60.0)
    assert [(name, value.reveal()) for name, value in upstream.headers] == [("Authorization", "Bearer sk-sesame")]
    assert route.pattern.text == "/api/v1/search"
    assert (route.methods, route.upstream, route.mode) == (("GET",), "search", "enforce")
    assert (route.price, route.rules, route.max_body) == (Price("USD", 10_000_000), (), None)
    assert "sk-sesame" not in repr(config) + str(config) + f"{upstream.headers}"
    assert repr(config.upstreams[0].headers[0][1]) == "***"
    assert all(ord(char) < 128 and len(line) <= 120 for line in TEMPLATE.splitlines() for char in line)


def test_every_key(file: Path) -> None:
    config = read(
        file,
        """
[server]
host = "::"
port = 1
workers = 8
mode = "public"
max_body = 1000
trusted_proxies = ["10.0.0.0/8", "::1"]
disclose = "none"
[admin]
host = "10.0.0.1"
port = 65535
[keys]
path = "../k"
[ledger]
url = "sqlite:////var/lib/x.db"
durability = "normal"
timeout = 0.5
[limits]
token_bytes = 100
caveats = 1
caveat_bytes = 1
links = 2
accounts = 3
discharges = 0
[[upstream]]
name = "a.b-c_1"
url = "https://[::1]:8443/base/v1"
connect_timeout = 1
timeout = 2.5
[upstream.headers]
x-a = "${SEARCH_API_KEY}/${SEARCH_API_KEY} $5 {x}"
"X-B" = ""
[[route]]
path = "/x/*"
methods = ["*"]
upstream = "a.b-c_1"
[[route]]
path = "/y"
methods = ["POST", "GET"]
upstream = "a.b-c_1"
mode = "enforce"
price = "0 credit"
charge = "success"
max_body = 0
""",
    )
    server, upstream = config.server, config.upstreams[0]
    assert (server.host, server.port, server.workers, server.mode) == ("::", 1, 8, "public")
    assert (server.max_body, server.disclose) == (1000, "none")
    assert server.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert config.keys == file.parent.parent / "k"
    assert config.ledger.path == Path("/var/lib/x.db")
    assert (config.ledger.durability, config.ledger.timeout) == ("normal", 0.5)
    assert config.limits == Limits(100, 1, 1, 2, 3, 0)
    assert (upstream.url, upstream.prefix) == ("https://[::1]:8443/base/v1", "/base/v1")
    assert (upstream.connect_timeout, upstream.timeout) == (1.0, 2.5)
    assert dict(upstream.headers) == {"x-a": Secret("sk-sesame/sk-sesame $5 {x}"), "X-B": Secret("")}
    first, second = config.routes
    assert (first.methods, first.price, first.mode, first.max_body) == (METHODS, None, "public", 1000)
    assert (second.methods, second.price) == (("POST", "GET"), Price("credit", 0, free_on_failure=True))
    assert (second.mode, second.max_body, second.line) == ("enforce", 0, 38)


def test_paths_and_generation(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_text("[ledger]\nurl = 'sqlite:///x.db'\n[keys]\npath = '/k'")
    config = load(Path("tolsey.toml"), {})
    assert (config.file, config.ledger.path, config.keys) == (file, tmp_path / "x.db", Path("/k"))
    assert len(config.generation) == 12
    assert load(file, {}).generation == config.generation
    file.write_text(file.read_text() + "\n")
    assert load(file, {}).generation != config.generation


U = UPSTREAM + ROUTE + 'price = "1 USD"\n'
"""Seven lines and a half: an upstream in 1-3, a route in 4-8; what is appended begins in line 9."""


headers = (UPSTREAM + "headers = {{ {} }}").format
url = '[[upstream]]\nname = "a"\nurl = "{}"'.format


def route(text: str) -> str:
    """A route whose keys are `text`, from line 5 on."""
    return UPSTREAM + "[[route]]\n" + text


BAD: list[tuple[str, int | None, str | None, str]] = [
    # text, line, key, part of the message
    ("a = ", 1, None, "is not TOML: Invalid value"),
    ("[server]\nport = 1\nport = 2", 3, None, "Cannot overwrite"),
    ("[server]\nhost = 'x", 2, None, "is not TOML"),
    ("x = " + "[" * 5000, None, None, "nested too deep"),
    ("x = " + "1" * 5000, None, None, "a number is too long"),
    ("[server]\nprot = 1", 2, "server.prot", 'unknown key; did you mean "port"?'),
    ("[serve]\nport = 1", 1, "serve", 'unknown key; did you mean "server"?'),
    ("[zzz]", 1, "zzz", '"keys", "ledger", "seal", "limits", "telemetry", "observe", "upstream", "payment", "route"'),
    ("\n\n[server.quic]\nversion = 1", 3, "server.quic", "unknown key; known are"),
    ("server.\"a b\".'c' = 1", 1, 'server."a b"', "unknown key"),
    ("server = 1", 1, "server", "must be a table, not an integer; write [server]"),
    ("[[server]]\nport = 1", 1, "server", "must be a table, not an array; write [server]"),
    ("[upstream]\nname = 'a'", 1, "upstream", "must be an array of tables, not a table; write [[upstream]]"),
    ("route = [1]", 1, "route", "write [[route]]"),
    ("[server]\nport = 0", 2, "server.port", "must be from 1 to 65535"),
    ("[server]\nport = 8402.0", 2, "server.port", "integer from 1 to 65535, not a float"),
    ("[server]\n# x\nport = true", 3, "server.port", "not a boolean"),
    ("server = { host = '', port = 1 }", 1, "server.host", "not an address"),
    ("[server]\nhost = '[::1]'", 2, "server.host", "no brackets"),
    ("[server]\nworkers = 0", 2, "server.workers", "from 1 to 256"),
    ("[observe]\nagents = ['cookie']", 2, "observe.agents[0]", 'must be "header:NAME"'),
    ("[server]\nmode = 'x'", 2, "server.mode", 'must be "enforce" or "observe" or "public", not "x"'),
    ("[server]\nmax_body = -1", 2, "server.max_body", "from 0"),
    ("[server]\nmax_body = '1 GiB'", 2, "server.max_body", "not a string"),
    ("[server]\ndisclose = 'all'", 2, "server.disclose", 'must be "chain" or "none"'),
    ("[server]\ntrusted_proxies = '10.0.0.0/8'", 2, "server.trusted_proxies", "must be an array"),
    ("[server]\ntrusted_proxies = [\n'::1',\n1\n]", 4, "server.trusted_proxies[1]", "must be a string"),
    ("[server]\ntrusted_proxies = ['10.0.0.1/8']", 2, "server.trusted_proxies[0]", "is not a network"),
    ("[admin]\nport = 8402", 2, "admin.port", "needs one of its own"),
    ("[server]\nport = 8403\nhost='0.0.0.0'", 2, "server.port", "needs one of its own"),
    ("[keys]\npath = ''", 2, "keys.path", "not the path of a file"),
    ('[keys]\npath = "a\\u0000b"', 2, "keys.path", '"a\\u0000b" is not'),
    ("[keys]\npath = 'data/'", 2, "keys.path", "not the path of a file"),
    ("[keys]\npath = 1979-05-27 07:32:00", 2, "keys.path", "not a date"),
    ("[ledger]\nurl = 'mysql://u:sesame@h/d'", 2, "ledger.url", 'or with "postgresql://"'),
    ("[ledger]\nurl = 'sqlite://sesame'", 2, "ledger.url", 'must begin with "sqlite:///"'),
    ("[ledger]\nurl = 'sqlite:///:memory:'", 2, "ledger.url", "must name a file"),
    ("[ledger]\nurl = 'sqlite:///x?mode=ro'", 2, "ledger.url", "without options"),
    ("[ledger]\nurl = 'sqlite:///'", 2, "ledger.url", "not the path of a file"),
    ("[ledger]\ndurability = 'none'", 2, "ledger.durability", 'must be "full" or "normal"'),
    ("[ledger]\ntimeout = 0", 2, "ledger.timeout", "above 0"),
    ("[ledger]\ntimeout = nan", 2, "ledger.timeout", "above 0"),
    ("[ledger]\ntimeout = inf", 2, "ledger.timeout", "at most 3600"),
    ("[ledger]\ntimeout = '5 s'", 2, "ledger.timeout", "must be a number of seconds, not a string"),
    ("[limits]\ntoken_bytes = 8193", 2, "limits.token_bytes", "from 1 to 8192"),
    ("[limits]\nlinks = 0", 2, "limits.links", "from 1 to 32"),
    ("[limits]\ndischarges = 9", 2, "limits.discharges", "from 0 to 8"),
    ("[limits]\ncaveat = 1", 2, "limits.caveat", 'did you mean "caveats"?'),
    ("\n[[upstream]]\nurl = 'http://a'", 2, "upstream[0].name", "is missing"),
    ("[[upstream]]\nname = 'a b'\nurl = 'http://a'", 2, "upstream[0].name", "is not a name"),
    (UPSTREAM + UPSTREAM, 5, "upstream[1].name", "another upstream is called"),
    ("[[upstream]]\nname = 'a'", 1, "upstream[0].url", "is missing"),
    (url("ftp://a"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("a:9000"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("http://"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("http://a:65536"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("http://a b"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("http://[::g]"), 3, "upstream[0].url", 'must be "http://host"'),
    (url("http://[::1::]"), 3, "upstream[0].url", "not an IPv6 address"),
    (url("http://a/"), 3, "upstream[0].url", "may not end in '/'"),
    (url("http://a/b/../c"), 3, "upstream[0].url", "'..' segment"),
    (url("http://a/é"), 3, "upstream[0].url", "canonical"),
    (url("http://a?x=sesame"), 3, "upstream[0].url", "query"),
    (url("http://a#f"), 3, "upstream[0].url", "fragment"),
    (url("http://me:sesame@a"), 3, "upstream[0].url", "user name or a password"),
    (UPSTREAM + "timeout = 3601", 4, "upstream[0].timeout", "at most 3600"),
    (UPSTREAM + "conect_timeout = 1", 4, "upstream[0].conect_timeout", 'did you mean "connect_timeout"?'),
    (UPSTREAM + "headers = 1", 4, "upstream[0].headers", "must be a table, not an integer"),
    (headers('A = "${NOPE}"'), 4, "upstream[0].headers.A", "environment variable NOPE is not set"),
    (headers('A = "x${EMPTY}"'), 4, "upstream[0].headers.A", "environment variable EMPTY is not set"),
    (headers('A = "x ${sesame-x}"'), 4, "upstream[0].headers.A", "is written ${NAME}"),
    (headers('A = "x ${sesame"'), 4, "upstream[0].headers.A", "is written ${NAME}"),
    (headers('A = "${LINES}"'), 4, "upstream[0].headers.A", "line break"),
    (headers('A = "sesame\\n"'), 4, "upstream[0].headers.A", "line break"),
    (headers('A = "${WIDE}"'), 4, "upstream[0].headers.A", "a header cannot carry"),
    (headers('A = "${LONG}"'), 4, "upstream[0].headers.A", "longer than 8192"),
    (headers("A = 1"), 4, "upstream[0].headers.A", "must be a string"),
    (headers('"A b" = "x"'), 4, 'upstream[0].headers."A b"', "not a header name"),
    (headers('"A\\r\\n" = "x"'), 4, 'upstream[0].headers."A\\u000d\\u000a"', "not a header name"),
    (headers('HOST = "x"'), 4, "upstream[0].headers.HOST", "the gateway's own"),
    (headers('Content-length = "1"'), 4, "upstream[0].headers.Content-length", "the gateway's own"),
    (headers('Connection = "x"'), 4, "upstream[0].headers.Connection", "the gateway's own"),
    (headers('X-A = "1", x-a = "2"'), 4, "upstream[0].headers.x-a", "the same header is there as X-A"),
    (UPSTREAM + "[upstream.headers]\nTE='x'", 5, "upstream[0].headers.TE", "the gateway's own"),
    (route("methods=['GET']\nupstream='search'\nprice='1 USD'"), 4, "route[0].path", "is missing"),
    (route("path='/a?b=c'\nmethods=['GET']\nupstream='search'\nprice='1 USD'"), 5, "route[0].path", "no query part"),
    (route("path='a'\nmethods=['GET']\nupstream='search'\nprice='1 USD'"), 5, "route[0].path", "begin with '/'"),
    (route("path='/.tolsey/x'\nmethods=['GET']\nupstream='search'\nprice='1 USD'"), 5, "route[0].path", "own"),
    (route("path='/a'\nupstream='search'\nprice='1 USD'"), 4, "route[0].methods", 'is missing; write ["GET"]'),
    (route("path='/a'\nmethods=[]\nupstream='search'\nprice='1 USD'"), 6, "route[0].methods", "is missing"),
    (route("path='/a'\nmethods='GET'\nupstream='search'\nprice='1 USD'"), 6, "route[0].methods", "must be an array"),
    (U + ROUTE.replace('"GET"', '"GET","GET"') + "price='1 USD'", 11, "route[1].methods", "names a method twice"),
    (U + ROUTE.replace('"GET"', '"GET","*"') + "price='1 USD'", 11, "route[1].methods", "stands alone"),
    (U + ROUTE.replace('"GET"', '"GET",\n"get"') + "price='1 USD'", 12, "route[1].methods[1]", 'write "GET"'),
    (U + ROUTE.replace('"GET"', '"TRACE"') + "price='1 USD'", 11, "route[1].methods[0]", "never let through"),
    (U + ROUTE.replace('"GET"', '"PACTH"') + "price='1 USD'", 11, "route[1].methods[0]", 'did you mean "PATCH"?'),
    (U + ROUTE.replace('"search"', '"serch"') + "price='1 USD'", 12, "route[1].upstream", 'did you mean "search"?'),
    (ROUTE + "price = '1 USD'", 4, "route[0].upstream", 'no upstream is called "search"'),
    (UPSTREAM + ROUTE, 4, "route[0].price", "is missing; an enforce route has one"),
    (UPSTREAM + ROUTE + "price = 0.01", 8, "route[0].price", "must be a string, not a float"),
    (UPSTREAM + ROUTE + "price = '0.0000000001 USD'", 8, "route[0].price", "at most nine decimals"),
    (UPSTREAM + ROUTE + "price = '1e400 USD'", 8, "route[0].price", "not a plain decimal"),
    (UPSTREAM + ROUTE + "price = '1 usd'", 8, "route[0].price", "unknown unit 'usd'"),
    (UPSTREAM + ROUTE + "mode = 'public'\nprice = '1 USD'", 9, "route[0].price", "charges nobody"),
    ("server.mode = 'public'\n" + U, 9, "route[0].price", "charges nobody"),
    (UPSTREAM + ROUTE + "mode = 'watch'", 8, "route[0].mode", 'must be "enforce" or "observe"'),
    (U + "charge = 'never'", 9, "route[0].charge", 'must be "always" or "success"'),
    (U + "max_body = 1.5", 9, "route[0].max_body", "must be an integer"),
    (U + "prise = 1", 9, "route[0].prise", 'did you mean "price"?'),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), BAD)
def test_each_error_has_its_line_its_key_and_a_plain_text(
    file: Path, text: str, line: int | None, key: str | None, message: str
) -> None:
    found = the_errors(file, text)
    assert [(error.line, error.key) for error in found] == [(line, key)], [str(error) for error in found]
    assert message in found[0].reason
    assert str(found[0]).startswith(f"{file}:{line}: {key}: " if key else str(file))
    assert found[0].file == str(file)
    assert "sesame" not in str(found[0])


def test_all_errors_come_at_once_in_file_order(file: Path) -> None:
    text = '[server]\nport = 0\n[[route]]\nmethods = ["x", "y"]\n[[upstream]]\nnaem = "a"\n[admin]\nx = 1\n'
    assert [(error.line, error.key) for error in the_errors(file, text)] == [
        (2, "server.port"),
        (3, "route[0].price"),
        (3, "route[0].path"),
        (3, "route[0].upstream"),
        (4, "route[0].methods[0]"),
        (4, "route[0].methods[1]"),
        (5, "upstream[0].name"),
        (5, "upstream[0].url"),
        (6, "upstream[0].naem"),
        (8, "admin.x"),
    ]


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    def only(path: Path) -> ConfigError:
        (found,) = problems(path, {})
        return found

    assert "No such file" in only(file).reason
    assert "Is a directory" in only(tmp_path).reason
    assert "bad file name" in only(Path("a\0b")).reason
    file.write_bytes(b"# " + b"x" * MAX_FILE)
    assert "larger than 1048576 bytes" in only(file).reason
    file.write_bytes(b"\n\n# caf\xe9\n")
    assert (only(file).line, only(file).reason) == (3, "is not UTF-8")
    file.write_text(UPSTREAM + "[[route]]\n" * (MAX_ROUTES + 1))
    assert "at most 1000" in problems(file, {})[-1].reason
    file.write_bytes(b"[server]\r\nhost = 'x'\r\nport = 0\r\n")
    assert only(file).line == 3


OVERLAPS: list[tuple[list[tuple[str, str]], list[str]]] = [
    ([("/a", "GET"), ("/b", "GET"), ("/a", "POST")], []),
    ([("/a/b", "GET"), ("/a/*", "GET"), ("/*", "*")], []),
    ([("/a", "HEAD"), ("/a", "GET")], []),
    ([("/a/*", "GET"), ("/a/b", "GET")], ['route[1] "/a/b": it never matches: "/a/*" in line 4']),
    ([("/a", "GET"), ("/a", "HEAD")], ['route[1] "/a": it never matches: "/a" in line 4']),
    ([("/a", "*"), ("/a", "GET POST")], ['route[1] "/a": it never matches']),
    ([("/*", "GET"), ("/a", "GET POST")], ['route[1] "/a": GET never reaches it: "/*" in line 4']),
    ([("/*", "GET"), ("/a", "GET POST"), ("/a/*", "POST")], ['route[1] "/a": GET never reaches it']),
    ([("/a", "GET"), ("/a", "POST"), ("/a", "GET POST")], ["GET never reaches it", "it never matches"]),
    ([("/a/*", "GET"), ("/*/b", "GET")], ['route[1] "/*/b": some of its paths never reach it: "/a/*" in line 4']),
    ([("/a/*", "GET"), ("/*/b", "POST")], []),
]


@pytest.mark.parametrize(("routes", "warnings"), OVERLAPS)
def test_overlapping_routes_are_warned_about(file: Path, routes: list[tuple[str, str]], warnings: list[str]) -> None:
    text = UPSTREAM
    for path, methods in routes:
        text += f'[[route]]\npath = "{path}"\nmethods = {methods.split()}\nupstream = "search"\nprice = "1 USD"\n'
    found = read(file, text).warnings
    assert len(found) == len(warnings), found
    for got, want in zip(found, warnings, strict=True):
        assert want in got
        assert got.startswith("tolsey.toml:")


paths = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4).map(lambda s: "/" + "/".join(s))
EVERY_PATH = ["/" + "/".join(s) + end for n in range(6) for s in itertools.product("ab", repeat=n) for end in ("", "/")]


@given(one=paths, other=paths, tail=st.sampled_from(["", "/"]))
def test_meets_agrees_with_matching(one: str, other: str, tail: str) -> None:
    patterns = [parse_pattern(text) for text in (one, other + tail)]
    assert meets(*patterns) == any(all(p.matches_path(path) for p in patterns) for path in EVERY_PATH)


def every_key(value: object, key: Key = ()) -> Iterator[Key]:
    if key:
        yield key
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from every_key(item, (*key, name))


def test_lines_of_every_way_to_write_a_key() -> None:
    text = (
        'a.b = 1 # x = [\n"q\\u0041.[" = """\n]]""\\""""""\n\'l l\' = \'\'\'\n# no = 1\n\'\'\'\'\'\n'
        "e = [ # c\n 1, [\n'x,]'], {k.m = \"}\", n = [\n2]},\n]\n [ t . u ] \nv=1e5\n[[r]]\n[r.s]\nw=1\n"
        "[[r.z]]\n[[r]]\n[[r.z]]\n[[r.z]]\nd = 1979-05-27 07:32:00 # x\n[t]\nb = {}\n"
    )
    found = locate(text)
    assert set(every_key(tomllib.loads(text))) == set(found)
    lines = {dotted(key): line for key, line in found.items()}
    assert lines['"qA.["'] == 2
    assert (lines['"l l"'], lines["e"], lines["e[1]"], lines["e[1][0]"], lines["e[2].k.m"]) == (4, 7, 8, 9, 9)
    assert (lines["e[2].n[0]"], lines["t"], lines["t.u.v"], lines["t.b"]) == (10, 12, 13, 23)
    assert (lines["r"], lines["r[0].s.w"], lines["r[0].z[0]"], lines["r[1]"]) == (14, 16, 17, 18)
    assert (lines["r[1].z[1].d"], lines["r[1].z[0]"]) == (21, 19)


scalars = st.sampled_from(
    ["1", "true", '"#]}"', "'x'", '"""\n"\n"""', "''''''", "nan", "1979-05-27", '"\\""', "[]", "{}"]
)
names = st.sampled_from(["server", "port", "route", "upstream", "headers", "a", '"b c"', "'.'", "price", "methods"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",# x\n".join(items) + "\n]"),
        st.dictionaries(names, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{name} = {value}" for name, value in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
keys = st.lists(names, min_size=1, max_size=3).map(" . ".join)
statements = st.one_of(
    st.builds("{} = {}".format, keys, values),
    keys.map("[{}]".format),
    keys.map("[[ {} ]]".format),
    st.sampled_from(["", "# x = [", "  "]),
)
documents = st.lists(statements, max_size=8).map("\n".join)


@fuzz
@given(text=documents)
def test_the_locator_finds_every_key_that_tomllib_does(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(every_key(document)) == set(locate(text))


@fuzz
@given(text=st.one_of(documents, st.text(max_size=60), st.text(string.printable, max_size=60)))
@example(text="\ufeff")
@example(text="a = 0001-01-01T00:00:00+23:59")
def test_any_text_raises_only_config_errors(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", errors="replace", newline="")
    found = problems(file, {})
    if found:
        with pytest.raises(ConfigError):
            load(file, {})
    assert [error.line or 0 for error in found] == sorted(error.line or 0 for error in found)


@fuzz
@given(data=st.binary(max_size=80))
def test_any_bytes_raise_only_config_errors(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    problems(file, {})
