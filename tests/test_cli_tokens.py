"""`attenuate`, `inspect` and `verify`: what a holder does offline, and what the gateway's keys say to it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import answer, environment, gateway, invoke, refusal, tolsey
from tests.tokens import article, ask, mint
from tolsey import Macaroon
from tolsey.cli.options import MAX_INPUT
from tolsey.token.macaroon import prefix_id

FUTURE = "2999-12-31"
TEAM = ("--label", "team-research-q2", "--budget", "10000 USD", "--scope", "/api/v1/*", "--expires", FUTURE)
SUBTASK = ("--label", "research-subtask-47", "--budget", "500 USD", "--scope", "/api/v1/search")
WORKER = ("--label", "search-worker-12", "--budget", "50 USD", "--scope", "/api/v1/search?source=arxiv")

TOKEN = mint("label = team n1", "budget = 10 USD").to_text()

WATCHED = """
import atexit, sys
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn")):
        raise RuntimeError(event)
    if event == "open" and isinstance(args[0], str) and args[0].startswith(sys.argv[1]):
        raise RuntimeError(f"open {args[0]}")
sys.addaudithook(watch)
atexit.register(lambda: print("loaded:", *sorted(sys.modules), file=sys.stderr))
sys.argv = ["tolsey", *sys.argv[2:]]
from tolsey.cli.main import main
main()
"""
"""Runs the program; a socket, a child process or a file in the given directory is the end of it."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return gateway(tmp_path / "g")


def chain(config: Path) -> tuple[str, str, str]:
    """The article's three tokens, each made from the one before on standard input."""
    team = answer("mint", "-c", str(config), *TEAM)["token"]
    subtask = answer("attenuate", "-", *SUBTASK, stdin=f"  {team}\n")["token"]
    worker = answer("attenuate", "-", *WORKER, stdin=subtask)["token"]
    return team, subtask, worker


def test_the_chain_of_the_article(config: Path) -> None:
    _, _, worker = chain(config)
    found = answer("inspect", worker)
    assert [(link["label"], link["caveats"]) for link in found["links"]] == [
        ("team-research-q2", ["scope = /api/v1/*", f"expires = {FUTURE}", "budget = 10000 USD"]),
        ("research-subtask-47", ["scope = /api/v1/search", "budget = 500 USD"]),
        ("search-worker-12", ["scope = /api/v1/search?source=arxiv", "budget = 50 USD"]),
    ]
    assert (found["budgets"], found["expires"]) == (["50 USD"], "3000-01-01T00:00:00Z")
    assert (found["verified"], found["problems"]) == (False, [])

    verified = answer("verify", worker, "-c", str(config))
    assert verified["verified"]
    assert [link["label"] for link in verified["links"]] == [None, *(link["label"] for link in found["links"])]
    accounts = verified["accounts"]
    assert [account["limit"] for account in accounts] == ["10000", "500", "50"]
    assert [account["parent"] for account in accounts] == [None, accounts[0]["id"], accounts[1]["id"]]
    assert accounts[2]["id"] == verified["prefix_id"] == found["prefix_id"]
    # Every prefix has its id: the identifier, then each caveat.
    caveats = verified["caveats"]
    assert [each["caveat"] for each in caveats] == [str(c) for c in Macaroon.deserialize(worker).caveats]
    assert len({verified["root_prefix_id"], *(each["prefix_id"] for each in caveats)}) == len(caveats) + 1


@pytest.mark.parametrize("command", [("attenuate", "--label", "child", "--budget", "1 USD"), ("inspect",)])
def test_holders_need_no_config_no_network_and_no_gateway(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), *command, "-", "--json"],
        input=TOKEN.encode(),
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
        timeout=30,
        check=False,
    )
    *said, loaded = done.stderr.decode().splitlines()
    assert (done.returncode, said) == (0, [])
    assert json.loads(done.stdout)["prefix_id"]
    modules = set(loaded.split())
    assert "tolsey.cli.tokens" in modules
    heavy = {"sqlite3", "asyncio", "httptools", "uvloop", "msgspec", "structlog", "rich", "ssl"}
    assert not modules & (
        heavy | {"tolsey.config", "tolsey.store", "tolsey.gateway", "tolsey.ledger", "tolsey.cli.serve"}
    )


def test_the_token_stands_alone_on_standard_output(tmp_path: Path) -> None:
    status, out, err = tolsey("attenuate", "-", *WORKER[:2], "--budget", "5 USD", stdin=f"\n {TOKEN}\r\n", cwd=tmp_path)
    token = out.removesuffix("\n")
    macaroon = Macaroon.deserialize(token)
    assert status == 0
    assert err == f"attenuated search-worker-12, prefix id {prefix_id(macaroon.signature)}\n"
    assert token == macaroon.to_text()
    assert [str(c).rpartition(" ")[0] for c in macaroon.caveats[2:]] == ["label = search-worker-12", "budget = 5"]
    assert list(tmp_path.iterdir()) == []


def test_what_attenuate_prints_as_json() -> None:
    found = answer("attenuate", TOKEN, "--label", "a b", "--caveat", "method = GET", "--caveat", "depth = 0")
    macaroon = Macaroon.deserialize(found["token"])
    assert list(found) == ["token", "prefix_id", "label", "caveats"]
    assert found["label"] == "a b"
    assert found["prefix_id"] == prefix_id(macaroon.signature)
    assert found["caveats"] == [str(caveat) for caveat in macaroon.caveats]
    assert found["caveats"][2].startswith("label = a b ")
    assert found["caveats"][3:] == ["method = GET", "depth = 0"]


@pytest.mark.parametrize(
    ("args", "stdin", "env"),
    [((TOKEN,), "", {}), (("-",), TOKEN, {}), ((), "", {"TOLSEY_TOKEN": TOKEN}), ((f" {TOKEN}\n",), "", {})],
)
def test_where_a_token_may_come_from(args: tuple[str, ...], stdin: str, env: dict[str, str]) -> None:
    assert answer("inspect", *args, stdin=stdin, env=env)["identifier"].startswith("tolsey:1:k1:")


def test_alternatives_of_a_scope_are_one_caveat() -> None:
    found = answer("attenuate", TOKEN, "--label", "a", "--scope", "/a", "--scope", "/b/*")
    assert found["caveats"][-1] == "scope = /a /b/*"


def test_an_option_given_twice_is_refused_and_not_last_wins() -> None:
    found = refusal("attenuate", TOKEN, "--label", "a", "--budget", "1 USD", "--budget", "2 USD", status=2)
    assert found["detail"] == "--budget is given twice"


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("attenuate", TOKEN), 2, "usage"),
    (("attenuate", "--label", "a"), 2, "usage"),
    (("attenuate", TOKEN, "--label", "a", "--nope"), 2, "usage"),
    (("attenuate", TOKEN, TOKEN, "--label", "a"), 2, "usage"),
    (("attenuate", TOKEN, "--label", "\udcff"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", ""), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a\nbudget = 1 USD"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a" * 200), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "1e400 USD"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "-1 USD"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "NaN USD"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "0.0000000001 USD"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "1 DOGE"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", TOKEN), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--scope", "api"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--scope", TOKEN), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--expires", "tomorrow"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--caveat", "label = b c"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--caveat", "colour = red"), 1, "caveat_invalid"),
    (("attenuate", TOKEN, "--label", "a", "--budget", "11 USD"), 1, "caveat_wider"),
    (("attenuate", "", "--label", "a"), 1, "token_malformed"),
    (("attenuate", TOKEN[:-9], "--label", "a"), 1, "token_malformed"),
    (("attenuate", f"{TOKEN},{TOKEN}", "--label", "a"), 1, "token_malformed"),
    (("inspect",), 2, "usage"),
    (("inspect", "tolsey_!!"), 1, "token_malformed"),
    (("inspect", "A" * 100_000), 1, "token_malformed"),
    (("verify", TOKEN, "-c", "nowhere/tolsey.toml"), 1, "config_invalid"),
    (("verify", TOKEN, "--method", "GET"), 2, "usage"),
]


@pytest.mark.parametrize(("args", "status", "code"), BAD)
def test_bad_input_has_a_code_and_shows_no_token(args: tuple[str, ...], status: int, code: str) -> None:
    assert refusal(*args, status=status)["code"] == code
    _, out, err = invoke(*args)
    assert out == ""
    assert err.startswith("error: ")
    assert TOKEN not in err
    assert TOKEN[7:] not in err


@pytest.mark.parametrize(
    ("stdin", "detail"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "not base64"),
        (b"A" * (MAX_INPUT + 1), "more than 65536 bytes"),
        (b"A" * MAX_INPUT, "at most 8192 bytes"),
        (TOKEN.encode() + b"\n" + TOKEN.encode(), "not base64"),
    ],
)
def test_bad_standard_input(stdin: bytes, detail: str) -> None:
    found = refusal("inspect", "-", stdin=stdin)
    assert found["code"] == "token_malformed"
    assert detail in found["detail"]


@pytest.mark.parametrize("args", [(TOKEN, TOKEN), ("--label", TOKEN, "-", "-"), (f"--nope={TOKEN}",)])
def test_the_real_program_ends_with_2_and_one_message(tmp_path: Path, args: tuple[str, ...]) -> None:
    status, out, err = tolsey("attenuate", *args, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.splitlines()[1:] == ["See: tolsey attenuate --help"]
    assert TOKEN not in err


def test_inspect_says_unverified_in_plain_sight() -> None:
    status, out, err = invoke("inspect", article().to_text())
    assert (status, err) == (0, "")
    assert out.startswith("UNVERIFIED")
    assert "known to the gateway alone" in out
    for text in ("1     team-research-q2", "3     search-worker-12", "50 USD", "source=arxiv", "(that is over)"):
        assert text in out


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_hostile_token_cannot_steer_the_terminal(config: Path, command: str) -> None:
    team, _, _ = chain(config)
    hostile = Macaroon.deserialize(team).attenuate("\x1b[2Jlabel = x", "purpose = \u202eevil", b"\x9b31m\xff").to_text()
    _, out, err = invoke(command, hostile, *(("-c", str(config)) if command == "verify" else ()))
    assert not {"\x1b", "\u202e", "\x9b"} & set(out + err)
    assert "\\u202eevil" in out
    assert "refuse" in err


def test_what_inspect_knows_of_third_parties() -> None:
    found = answer("inspect", ask(mint("budget = 1 USD")).to_text())
    assert found["third_parties"] == ["https://approve.example"]
    assert (found["discharges"], found["links"][0]["label"]) == (0, None)


CALLS: list[tuple[tuple[str, ...], str]] = [
    (("--path", "/api/v1/search?source=arxiv"), ""),
    (("--path", "/api/v1/search?source=arxiv", "--method", "HEAD"), ""),
    (("--path", "/open"), ""),
    (("--path", "/api/v1/search"), "caveat_refused"),
    (("--path", "/api/v1/free"), "caveat_refused"),
    (("--path", "/api/v1/../search"), "path_invalid"),
    (("--path", "/suche?ä"), "path_invalid"),
    (("--path", "/elsewhere"), "route_missing"),
    (("--path", "/api/v1/search", "--method", "POST"), "method_not_allowed"),
    (("--path", "/api/v1/search", "--method", "get"), "method_not_allowed"),
]


@pytest.mark.parametrize(("args", "code"), CALLS)
def test_verify_tries_a_call(config: Path, args: tuple[str, ...], code: str) -> None:
    _, _, worker = chain(config)
    command = ("verify", "-", "-c", str(config), *args)
    if code:
        found = refusal(*command, stdin=worker)
        assert found["code"] == code
        if code == "caveat_refused":
            assert found["link"]["label"] in ("search-worker-12", "research-subtask-47")
            assert found["caveat"].startswith("scope = ")
            assert found["status"] == 403
        return
    call = answer(*command, stdin=worker)["call"]
    assert call["upstream"] == "search"
    public = args == ("--path", "/open")
    assert (call["price"], len(call["charged"])) == ((None, 0) if public else ("0.01 USD", 3))


def test_an_argument_that_is_not_utf_8(config: Path) -> None:
    team, _, _ = chain(config)
    assert refusal("verify", team, "-c", str(config), "--path", "/\udcff", status=2)["code"] == "usage"


def test_verify_looks_at_the_clock_and_the_peer(config: Path) -> None:
    path = ("-c", str(config), "--path", "/api/v1/search")
    old = answer("mint", "-c", str(config), "--label", "old", "--budget", "1 USD", "--expires", "2020-01-01")["token"]
    assert refusal("verify", old, *path)["code"] == "token_expired"
    near = answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD", "--caveat", "peer = 10.0.0.0/8")[
        "token"
    ]
    assert refusal("verify", near, *path)["code"] == "caveat_refused"
    assert answer("verify", near, *path, "--peer", "10.1.2.3")["call"]["price"] == "0.01 USD"


def test_verify_shows_the_refusal_to_people_too(config: Path) -> None:
    _, _, worker = chain(config)
    status, out, err = invoke("verify", worker, "-c", str(config), "--path", "/api/v1/search")
    assert status == 1
    assert out.startswith("VERIFIED")
    assert err.startswith(
        "error: refused, caveat_refused: the query parameter 'source' is missing (Link search-worker-12"
    )
    status, out, err = invoke("verify", worker, "-c", str(config), "--path", "/api/v1/search?source=arxiv")
    assert (status, err) == (0, "")
    assert out.endswith("goes to search and costs 0.01 USD, charged to 3 accounts.\n")


def other_key(config: Path, token: str) -> str:
    return mint("label = team n1", "budget = 10 USD").to_text()


def broken(config: Path, token: str) -> str:
    macaroon = Macaroon.deserialize(token)
    return Macaroon("", macaroon.identifier, macaroon.caveats[:-1], macaroon.signature).to_text()


def of_an_admin(config: Path, token: str) -> str:
    found: str = answer("keys", "rotate", "--kind", "admin", "-c", str(config))["admin_token"]
    return found


@pytest.mark.parametrize("forge", [other_key, broken, of_an_admin])
def test_verify_refuses_what_is_not_genuine(config: Path, forge: Callable[[Path, str], str]) -> None:
    team, _, _ = chain(config)
    assert refusal("verify", "-", "-c", str(config), stdin=forge(config, team))["code"] == "token_forged"
