"""`[[oidc]]` and `[[mint_policy]]` in the config: who is believed, and who may mint, and what is wrong with it."""

from pathlib import Path

import pytest

from tolsey.admin.policy import Minting, MintPolicy, Provider
from tolsey.config import load, problems

OIDC = '[[oidc]]\nname = "corp"\nissuer = "https://id.example"\naudience = "tolsey"\n'
POLICY = OIDC + '[[mint_policy]]\nname = "p"\nprovider = "corp"\nclaims = { sub = "*" }\nbudget = "1 USD"\n'
WHOLE = POLICY + 'scope = "/a"\nlifetime = "1h"\n'


def test_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text("")
    assert load(file, {}).minting == Minting()
    file.write_text(
        f"{WHOLE}label = '{{sub}}-*'\nactions = ['mint', 'trail']\n[[oidc]]\nname = 'b'\nissuer = 'http://localhost:1'\n"
        "audience = 'x'\nshown = 'email'\ncertificate = 'ca.pem'\n"
    )
    found = load(file, {}).minting
    assert found.providers == (
        Provider("corp", "https://id.example", "tolsey", "sub", None),
        Provider("b", "http://localhost:1", "x", "email", tmp_path / "ca.pem"),
    )
    caveats = ("mint-budget = 1 USD", "mint-scope = /a", "mint-lifetime = 1h", "action = mint, trail")
    assert found.policies == (MintPolicy("p", "corp", (("sub", ("*",)),), caveats, "{sub}-*"),)


WRONG = [
    ('[[oidc]]\nname = "Corp"', 2, "oidc[0].name", "is not a name"),
    ('[[oidc]]\nname = "corp"', 1, "oidc[0].issuer", "is missing"),
    (OIDC.replace("https", "http"), 3, "oidc[0].issuer", "must be the URL of a provider"),
    (OIDC.replace("https://id.example", "https://id.example?x"), 3, "oidc[0].issuer", "must be the URL of a provider"),
    (OIDC.replace('"tolsey"', '""'), 4, "oidc[0].audience", "must be a text without spaces"),
    (OIDC + OIDC.replace("example", "test"), 6, "oidc[1].name", 'another one is called "corp"'),
    (OIDC + OIDC.replace("corp", "b"), 7, "oidc[1].issuer", "another provider has this issuer"),
    (OIDC + "clientid = 'x'", 5, "oidc[0].clientid", "unknown key"),
    (OIDC + "secret = 'x'", 5, "oidc[0].secret", "needs `login`"),
    (OIDC + "login = 'http://tolsey.example'", 5, "oidc[0].login", "where browsers find the dashboard"),
    (OIDC + "login = 'https://tolsey.example/x'", 5, "oidc[0].login", "without a path"),
    (POLICY, 5, "mint_policy[0].scope", "is missing"),
    (POLICY, 5, "mint_policy[0].lifetime", "is missing"),
    (
        WHOLE.replace('provider = "corp"', 'provider = "crop"'),
        7,
        "mint_policy[0].provider",
        'no [[oidc]] is called "crop"',
    ),
    (WHOLE.replace('{ sub = "*" }', "{}"), 8, "mint_policy[0].claims", "names no claim"),
    (WHOLE.replace('claims = { sub = "*" }\n', ""), 5, "mint_policy[0].claims", "is missing: whom it is for"),
    (WHOLE.replace('{ sub = "*" }', "{ sub = 7 }"), 8, "mint_policy[0].claims.sub", "must be a string"),
    (WHOLE.replace('{ sub = "*" }', "{ sub = [] }"), 8, "mint_policy[0].claims.sub", "is empty"),
    (WHOLE.replace('{ sub = "*" }', "{ sub = '' }"), 8, "mint_policy[0].claims.sub", "is empty"),
    (WHOLE.replace("1 USD", "1"), 9, "mint_policy[0].budget", "is not an amount"),
    (WHOLE.replace("/a", "a"), 10, "mint_policy[0].scope", "is not a pattern"),
    (WHOLE.replace("1h", "1"), 11, "mint_policy[0].lifetime", "is no length of time"),
    (WHOLE + "label = '<x>'", 12, "mint_policy[0].label", "is not a name with"),
    (WHOLE + "label = '{sub'", 12, "mint_policy[0].label", "is not a name with"),
    (WHOLE + "actions = ['mnt']", 12, "mint_policy[0].actions[0]", 'must be "approvals" or "approve"'),
    (WHOLE + "actions = 'mint'", 12, "mint_policy[0].actions", "must be an array"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), WRONG)
def test_what_is_wrong(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    file = tmp_path / "tolsey.toml"
    file.write_text(text)
    found = {error.key: error for error in problems(file, {})}
    assert key in found, found
    assert found[key].line == line
    assert message in str(found[key])
