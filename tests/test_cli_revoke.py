"""`revoke`, `revoked` and `unrevoke`: what each says, in tables and in JSON, and to bad input."""

from pathlib import Path

import pytest

from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, child
from tests.ledgers import database
from tests.reading import fsck
from tolsey.cli.ledgers import user
from tolsey.token.macaroon import Macaroon

ID = "3fd873c6f5a0b7705dbe21ac6dff08fb"


@pytest.fixture
def token(c: tuple[str, str]) -> str:
    """A token of three Links, the last but one of which has an end."""
    minted = answer(*TEAM, *c)["token"]
    return child(child(minted, "a", "--expires", "2030-01-01"), "b", "--budget", "1 USD")


def test_a_token_on_standard_input(c: tuple[str, str], config: Path, token: str) -> None:
    links = chain_of(config, token).links
    found = answer("revoke", "-", "--reason", "found in a log", *c, stdin=f"\n{token}\n")
    since = found.pop("since")
    assert found == {
        "prefix_id": links[3].prefix_id,
        "until": "2030-01-02T00:00:00Z",
        "note": f"revoked by {user()}: found in a log",
        "entry": 2,
        "link": 3,
        "label": "b",
        "changed": True,
    }
    assert answer("revoked", *c) == {
        "revocations": [{name: found[name] for name in ("prefix_id", "until", "note", "entry")} | {"since": since}]
    }
    again = answer("revoke", "-", *c, stdin=token)
    assert again == found | {"since": since, "changed": False}
    assert fsck(book(config)).difference is None


def test_what_people_read(c: tuple[str, str], config: Path, token: str) -> None:
    links = chain_of(config, token).links
    assert invoke("revoked", *c) == (0, "", "nothing is revoked\n")
    _, out, err = invoke("revoke", token, "--link", "1", *c)
    said = f"revoked Link 1 (team), prefix id {links[1].prefix_id}"
    assert (out, err) == (f"{said}: all tokens that were or will be made from it are refused\n", "")
    _, out, _ = invoke("revoke", links[1].prefix_id, *c)
    assert out.startswith(f"prefix id {links[1].prefix_id} is revoked since 20")
    assert out.endswith(f": revoked by {user()}\n")
    invoke("revoke", "-", "--link", "3", "--reason", "x", *c, stdin=token)
    lines = [line.split("  ") for line in invoke("revoked", *c)[1].splitlines()]
    assert [line[0] for line in lines] == ["prefix id", links[1].prefix_id, links[3].prefix_id]
    assert [line[2].strip() for line in lines[1:]] == ["for ever", "2030-01-02T00:00:00Z"]
    assert lines[2][-1] == f"revoked by {user()}: x"
    assert invoke("unrevoke", links[1].prefix_id.upper(), "--reason", "wrong", *c) == (
        0,
        f"{links[1].prefix_id} is not revoked any more\n",
        "",
    )
    assert len(answer("revoked", *c)["revocations"]) == 1
    with database(book(config)) as db:
        kinds = db.execute("SELECT kind, note FROM entry ORDER BY n").fetchall()
    assert [kind for kind, _ in kinds] == ["open", "revoke", "revoke", "unrevoke"]
    assert kinds[-1][1] == f"taken back by {user()}: wrong"


def test_a_prefix_id_alone_is_kept_for_ever(c: tuple[str, str], token: str) -> None:
    found = answer("revoke", ID.upper(), *c)
    assert (found["prefix_id"], found["until"], found["link"], found["label"]) == (ID, None, None, None)


def test_what_is_over_is_not_listed(c: tuple[str, str], token: str) -> None:
    expired = child(child(token, "c", "--expires", "2020-01-01"), "d")
    assert answer("revoke", "-", *c, stdin=expired)["until"] == "2020-01-02T00:00:00Z"
    assert answer("revoked", *c) == {"revocations": []}


def test_a_token_with_a_third_party_caveat_needs_no_discharge(c: tuple[str, str], config: Path, token: str) -> None:
    asking = Macaroon.deserialize(token).attenuate_third_party(
        location="https://a.example", key=b"k", identifier=b"i", nonce=bytes(24)
    )
    assert refusal("verify", "-", *c, stdin=asking.to_text())["code"] == "discharge_missing"
    assert answer("revoke", "-", *c, stdin=asking.to_text())["label"] == "b"


def test_an_admin_token(tmp_path: Path) -> None:
    found = answer("init", str(tmp_path / "g"))
    c = ("-c", str(tmp_path / "g/tolsey.toml"))
    answer(*TEAM, *c)
    assert answer("revoke", "-", *c, stdin=found["admin_token"])["label"] == "admin"


@pytest.mark.parametrize(
    ("words", "stdin", "code", "status"),
    [
        (("revoke",), "", "usage", 2),
        (("revoke", "-"), "", "token_malformed", 1),
        (("revoke", "-"), "no token", "token_malformed", 1),
        (("revoke", ID[:-1]), "", "token_malformed", 1),
        (("revoke", f"{ID}0"), "", "token_malformed", 1),
        (("revoke", "-", "--link", "4"), "TOKEN", "link_unknown", 1),
        (("revoke", "-", "--link", "-1"), "TOKEN", "link_unknown", 1),
        (("revoke", "-", "--link", "x"), "TOKEN", "usage", 2),
        (("revoke", ID, "--link", "1"), "", "usage", 2),
        (("revoke", ID, "--reason", " "), "", "usage", 2),
        (("revoke", "-"), "FORGED", "token_forged", 1),
        (("revoke", "-"), "FOREIGN", "token_forged", 1),
        (("unrevoke", ID), "", "usage", 2),
        (("unrevoke", ID, "--reason", "x"), "", "revocation_unknown", 1),
        (("unrevoke", "x", "--reason", "x"), "", "usage", 2),
    ],
    ids=str,
)
def test_bad_input(
    c: tuple[str, str], config: Path, token: str, words: tuple[str, ...], stdin: str, code: str, status: int
) -> None:
    forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    foreign = Macaroon.mint(root_key=b"k", identifier=b"somebody else's").to_text()
    given = {"TOKEN": token, "FORGED": forged, "FOREIGN": foreign}.get(stdin, stdin)
    assert refusal(*words, *c, stdin=given, status=status)["code"] == code
    assert answer("revoked", *c) == {"revocations": []}


def test_a_ledger_must_be_there(c: tuple[str, str]) -> None:
    assert refusal("revoke", ID, *c)["code"] == "ledger_refused"
    assert refusal("revoked", *c)["code"] == "ledger_refused"


def test_a_reason_cannot_steer_a_terminal(c: tuple[str, str], token: str) -> None:
    invoke("revoke", ID, "--reason", "\x1b[2J\u202egone", *c)
    for words in (("revoked",), ("revoke", ID)):
        assert "\\x1b[2J\\u202egone" in invoke(*words, *c)[1]


def test_no_token_is_printed(c: tuple[str, str], token: str) -> None:
    for words in (("revoke", token), ("revoke", token[:-3])):
        status, out, err = tolsey(*words, *c)
        assert status == (0 if words[1] == token else 1)
        assert token[10:40] not in out + err


def test_verify_says_so(c: tuple[str, str], config: Path, token: str) -> None:
    grandchild = child(token, "c")
    assert answer("verify", "-", *c, stdin=grandchild)["revoked"] is None
    found = answer("revoke", "-", *c, stdin=token)
    assert answer("verify", "-", *c, stdin=grandchild)["revoked"] == found["prefix_id"]
    status, out, err = invoke("verify", "-", *c, stdin=grandchild)
    assert (status, out.splitlines()[0].split()[0]) == (0, "VERIFIED")
    assert f"every call is refused: the token of b was revoked (prefix id {found['prefix_id']})" in err
    assert refusal("verify", "-", "--path", "/api/v1/search", *c, stdin=grandchild)["code"] == "token_revoked"
    assert answer("verify", "-", "--path", "/open", *c, stdin=grandchild)["call"]["mode"] == "public"
