"""What in `tolsey.toml` is about people and workloads that mint by policy: `[[oidc]]` and `[[mint_policy]]`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tolsey import config_lines as lines
from tolsey.admin.policy import Minting, MintPolicy, Provider, is_safe, placeholders
from tolsey.config_lines import Table, shown, suggestion
from tolsey.config_secrets import fill
from tolsey.errors import CaveatInvalid
from tolsey.token.admin_caveats import ACTIONS, parse_admin_caveat

MAX_PROVIDERS: Final = 16
MAX_POLICIES: Final = 256
MAX_CLAIMS: Final = 16

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_TEXT = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)


def read_minting(document: Table, base: Path, env: Mapping[str, str], *, sends: bool) -> Minting:
    """Read every `[[oidc]]` and every `[[mint_policy]]`; relative paths are relative to `base`. Without `sends` no
    secret is looked at.
    """
    providers = _providers(document, base, env, sends)
    return Minting(providers, _policies(document, providers))


def _providers(document: Table, base: Path, env: Mapping[str, str], sends: bool) -> tuple[Provider, ...]:
    def secret(value: object) -> str:
        return fill(lines.text(value), env) if sends else ""

    found: list[Provider] = []
    for table in document.tables("oidc", MAX_PROVIDERS):
        provider = Provider(
            name=table.need("name", _new([each.name for each in found]), ""),
            issuer=table.need("issuer", _issuer, ""),
            audience=table.need("audience", _text, ""),
            shown=table.read("shown", _text, "sub"),
            ca=table.read("certificate", lines.file_in(base), None),
            login=table.read("login", _dashboard, None),
            secret=table.read("secret", secret, ""),
        )
        if table.has("secret") and provider.login is None:
            table.complain("secret", "is shown by those who log in: it needs `login`")
        table.done()
        if provider.issuer and provider.issuer in [each.issuer for each in found]:
            table.complain("issuer", "another provider has this issuer")
        found.append(provider)
    return tuple(found)


def _policies(document: Table, providers: Sequence[Provider]) -> tuple[MintPolicy, ...]:
    found: list[MintPolicy] = []
    for table in document.tables("mint_policy", MAX_POLICIES):
        found.append(_policy(table, [each.name for each in found], [each.name for each in providers]))
    return tuple(found)


def _policy(table: Table, taken: Sequence[str], providers: Sequence[str]) -> MintPolicy:
    def known(value: object) -> str:
        name = lines.text(value)
        if name not in providers:
            raise ValueError(f"no [[oidc]] is called {shown(name)}{suggestion(name, providers)}")
        return name

    name = table.need("name", _new(taken), "")
    provider = table.need("provider", known, "")
    claims = _claims(table)
    # The budget first: its account then stays the same whatever else of the policy changes.
    caveats = [
        table.need("budget", _caveat("mint-budget"), ""),
        table.need("scope", _caveat("mint-scope"), ""),
        table.need("lifetime", _caveat("mint-lifetime"), ""),
    ]
    actions = table.each("actions", lines.one_of(*ACTIONS))
    caveats.append(f"action = {', '.join(actions or ('mint',))}")
    label = table.read("label", _label, None)
    table.done()
    return MintPolicy(name, provider, claims, tuple(caveats), label)


def _claims(table: Table) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not table.has("claims"):
        table.complain("claims", 'is missing: whom it is for, as in { groups = "research" }, or { sub = "*" } for all')
    claims = table.table("claims")
    found = []
    for name, value in claims.items()[:MAX_CLAIMS]:
        try:
            values = value if isinstance(value, list) else [value]
            texts = tuple(lines.text(each) for each in values)
            if not texts or not all(texts):
                raise ValueError("is empty")
            found.append((name, texts))
        except ValueError as error:
            claims.complain(name, str(error))
    if table.has("claims") and table.good("claims") and not claims.items():
        table.complain("claims", 'names no claim; { sub = "*" } is everybody that the provider knows')
    return tuple(found)


def _new(taken: Sequence[str]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        name = lines.text(value)
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{shown(name)} is not a name: use lower-case letters, digits and '-', at most 32")
        if name in taken:
            raise ValueError(f"another one is called {shown(name)}")
        return name

    return parse


def _text(value: object) -> str:
    text = lines.text(value)
    if _TEXT.fullmatch(text) is None:
        raise ValueError("must be a text without spaces, at most 512 characters")
    return text


def _issuer(value: object) -> str:
    issuer = _text(value)
    if not is_safe(issuer) or "?" in issuer or "#" in issuer:
        raise ValueError('must be the URL of a provider, "https://id.example", as its tokens have it in `iss`')
    return issuer


def _dashboard(value: object) -> str:
    url = _text(value).rstrip("/")
    if not is_safe(url) or urlsplit(url).path or "?" in url or "#" in url:
        raise ValueError('must be where browsers find the dashboard, "https://tolsey.example", without a path')
    return url


def _caveat(name: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = f"{name} = {lines.text(value)}"
        try:
            parse_admin_caveat(text.encode("utf-8"))
        except CaveatInvalid as error:
            raise ValueError(error.detail.removeprefix(f"{name}: ")) from None
        return text

    return parse


def _label(value: object) -> str:
    text = lines.text(value)
    _caveat("mint-label")(placeholders(text))
    return text
