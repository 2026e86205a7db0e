"""The passage of a call on a real socket: routes, credentials, each refusal and their order, what a response says."""

import json
from collections.abc import Iterator

import pytest

from tests.gateways import Gateway, child_of, problem, serving
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<one>"
[[upstream]]
name = "two"
url = "http://127.0.0.1:<two>/v2"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
[[route]]
path = "/any/special"
methods = ["GET", "PUT"]
upstream = "two"
price = "0.5 USD"
[[route]]
path = "/any/*"
methods = ["*"]
upstream = "one"
price = "0.01 USD"
[[route]]
path = "/free/*"
methods = ["GET"]
upstream = "one"
price = "0 USD"
[[route]]
path = "/open/*"
methods = ["GET"]
upstream = "one"
mode = "public"
[[route]]
path = "/sats"
methods = ["GET"]
upstream = "one"
price = "5 sat"
"""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
SEARCH = "/api/v1/search"


@pytest.fixture(scope="module")
def one() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def two() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(one: Upstream, two: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("passage"), CONFIG, one=one.port, two=two.port) as running:
        yield running


def test_a_call_is_forwarded_and_charged_to_every_budget_above_it(gateway: Gateway, one: Upstream) -> None:
    team = gateway.token("scope = /api/v1/*", budget="10000 USD")
    worker = child_of(team, "label = subtask n2", "budget = 500 USD", "label = worker n3", "budget = 50 USD")

    answer = gateway.ask("GET", f"{SEARCH}?source=arxiv&q=a", token=worker)

    assert one.last().line == f"GET {SEARCH}?source=arxiv&q=a HTTP/1.1"
    assert (answer.status, answer.body) == (200, b"{}")
    assert (answer["tolsey-cost"], answer["tolsey-remaining"]) == ("0.01 USD", "49.99 USD")
    gateway.stands(worker, spent="0.01", calls=1)
    assert [account["label"] for account in gateway.accounts(worker)] == ["team", "subtask", "worker"]
    entries = [entry for entry in gateway.entries() if entry.hold == answer["tolsey-hold"]]
    assert [(entry.kind, entry.amount) for entry in entries] == [("reserve", 10_000_000), ("settle", 10_000_000)]


def test_a_served_call_leaves_one_line_without_its_query(gateway: Gateway) -> None:
    answer = gateway.ask("GET", f"{SEARCH}?secret=1", token=gateway.token())
    line = gateway.line_of(answer["tolsey-hold"])
    assert (line["event"], line["method"], line["path"], line["upstream"]) == ("call", "GET", SEARCH, "one")
    assert (line["status"], line["cost"]) == (200, "0.01 USD")
    assert 0 < line["ms"] < 5000
    assert "secret" not in gateway.out.read_text()


def test_remaining_is_the_least_on_the_chain(gateway: Gateway) -> None:
    team = gateway.token(budget="0.05 USD")
    worker = child_of(team, "label = worker n2", "budget = 50 USD")
    assert gateway.ask("GET", SEARCH, token=worker)["tolsey-remaining"] == "0.04 USD"


def test_each_route_goes_to_its_upstream_and_the_first_that_fits_wins(
    gateway: Gateway, one: Upstream, two: Upstream
) -> None:
    token = gateway.token()

    with one.hears_nothing():
        assert gateway.ask("GET", "/any/special", token=token)["tolsey-cost"] == "0.5 USD"
        assert two.last().line == "GET /v2/any/special HTTP/1.1"
        assert gateway.ask("PUT", "/any/special", token=token, body=b"x")["tolsey-cost"] == "0.5 USD"
        assert two.last().line == "PUT /v2/any/special HTTP/1.1"
    with two.hears_nothing():
        assert gateway.ask("POST", "/any/special", token=token)["tolsey-cost"] == "0.01 USD"
        assert one.last().line == "POST /any/special HTTP/1.1"

    gateway.stands(token, spent="1.01", calls=3)


@pytest.mark.parametrize("target", ["/", "/nothing", "/api/v1/search/", "/API/v1/search", "/any", "/any/", "/.tolsey"])
def test_no_route(gateway: Gateway, target: str) -> None:
    answer = gateway.ask("GET", target, token=gateway.token())
    assert (answer.status, problem(answer)["code"]) == (404, "route_missing")


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", SEARCH, "GET, HEAD"),
        ("OPTIONS", SEARCH, "GET, HEAD"),
        ("get", SEARCH, "GET, HEAD"),
        ("BREW", SEARCH, "GET, HEAD"),
        ("TRACE", "/any/x", ", ".join(METHODS)),
        ("BREW", "/any/x", ", ".join(METHODS)),
        ("CONNECT", "/any/special", ", ".join(METHODS)),
    ],
)
def test_a_route_without_the_method(gateway: Gateway, one: Upstream, method: str, target: str, allow: str) -> None:
    token = gateway.token()
    with one.hears_nothing():
        answer = gateway.ask(method, target, token=token)
    if answer.body:
        assert (answer.status, answer["allow"], problem(answer)["code"]) == (405, allow, "method_not_allowed")
    else:
        # The HTTP parser of the server knows what a CONNECT looks like, and refuses this one itself.
        assert (answer.status, method) == (400, "CONNECT")
    gateway.stands(token, spent="0", calls=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_route_for_all(gateway: Gateway, one: Upstream, method: str) -> None:
    token = gateway.token()

    answer = gateway.ask(method, "/any/x", token=token)

    assert one.last().line == f"{method} /any/x HTTP/1.1"
    assert (answer.status, answer["tolsey-cost"]) == (200, "0.01 USD")
    gateway.stands(token, spent="0.01", calls=1)


def test_head_is_taken_by_a_get_route_at_its_price(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()

    answer = gateway.ask("HEAD", SEARCH, token=token)

    assert one.last().line == f"HEAD {SEARCH} HTTP/1.1"
    assert (answer.status, answer["content-length"], answer["tolsey-cost"]) == (200, "2", "0.01 USD")
    gateway.stands(token, spent="0.01", calls=1)


def test_head_needs_head_in_a_method_caveat(gateway: Gateway) -> None:
    assert gateway.ask("HEAD", SEARCH, token=gateway.token("method = GET")).status == 403
    assert gateway.ask("HEAD", SEARCH, token=gateway.token("method = GET, HEAD")).status == 200


def test_a_refused_head_has_no_body(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.ask("HEAD", SEARCH)
        assert client.answer(to_head=True).status == 401
        client.ask("GET", "/open/x")
        assert client.answer().body == b"{}"


# --- credentials


def test_a_token_comes_as_bearer_or_as_x_api_key(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()
    plain = token.removeprefix("tolsey_")
    for header in (
        f"Authorization: Bearer {token}",
        f"authorization: bEaReR   {token}",
        f"Authorization: Bearer {plain}",
        f"X-Api-Key: {token}",
        f"x-api-key:{plain}",
    ):
        assert gateway.ask("GET", SEARCH, header).status == 200
        assert "authorization" not in one.last()
        assert "x-api-key" not in one.last()
    gateway.stands(token, spent="0.05", calls=5)


def test_what_is_not_one_credential(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()
    bearer, key = f"Authorization: Bearer {token}", f"X-Api-Key: {token}"
    cases: dict[str, list[tuple[str, ...]]] = {
        "credentials_ambiguous": [(bearer, key), (bearer, bearer), (key, key), ("Authorization: Basic eDp4", key)],
        "token_missing": [
            (),
            ("Authorization: Basic eDp4",),
            (f"Authorization: {token}",),
            (f"Cookie: token={token}", f"Proxy-Authorization: Bearer {token}"),
        ],
        "token_malformed": [
            ("Authorization: Bearer",),
            ("X-Api-Key: tolsey_",),
            ("X-Api-Key: tolsey_!!!!",),
            (f"{bearer}==x",),
            ("X-Api-Key: " + "A" * 20_000,),
            ("X-Api-Key: \xe9",),
        ],
    }
    with one.hears_nothing():
        for code, requests in cases.items():
            for headers in requests:
                answer = gateway.ask("GET", f"{SEARCH}?token={token}", *headers)
                assert problem(answer)["code"] == code, headers
                if answer.status == 401:
                    challenge = "" if code == "token_missing" else ', error="invalid_token"'
                    assert answer["www-authenticate"] == f'Bearer realm="tolsey"{challenge}'
                else:
                    assert (answer.status, "www-authenticate" in answer) == (400, False)
    gateway.stands(token, spent="0", calls=0)


# --- what costs nothing


def test_a_free_route_needs_a_token_and_no_budget(gateway: Gateway, one: Upstream) -> None:
    entries = len(gateway.entries())

    answer = gateway.ask("GET", "/free/x", token=gateway.token(budget=None))

    assert one.last().line == "GET /free/x HTTP/1.1"
    assert (answer.status, answer["tolsey-cost"]) == (200, "0 USD")
    assert "tolsey-hold" not in answer
    assert "tolsey-remaining" not in answer
    assert len(gateway.entries()) == entries
    assert problem(gateway.ask("GET", "/free/x"))["code"] == "token_missing"
    assert problem(gateway.ask("GET", "/free/x", token=gateway.token("scope = /b")))["code"] == "caveat_refused"


def test_a_public_route_needs_nothing_and_charges_nobody(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token("scope = /elsewhere")
    entries = len(gateway.entries())
    for headers in ((), (f"Authorization: Bearer {token}",), (f"X-Api-Key: {token}", "Authorization: Bearer x")):
        answer = gateway.ask("GET", "/open/x", *headers)
        assert one.last().line == "GET /open/x HTTP/1.1"
        assert answer.status == 200
        assert not [name for name, _ in answer.headers if name.startswith("tolsey")]
    assert len(gateway.entries()) == entries


# --- /.tolsey/balance


def test_a_holder_reads_its_balance(gateway: Gateway, one: Upstream) -> None:
    team = gateway.token("expires = 2036-06-30", budget="1 USD")
    worker = child_of(team, "label = worker w", "expires = 2035-01-01T00:00:00Z", "budget = 0.5 USD")
    gateway.ask("GET", SEARCH, token=worker)
    gateway.stands(worker, spent="0.01", calls=1)

    with one.hears_nothing():
        answer = gateway.ask("GET", "/.tolsey/balance", f"X-Api-Key: {worker}")

    assert (answer.status, answer["content-type"], answer["cache-control"]) == (200, "application/json", "no-store")
    document = json.loads(answer.body)
    accounts = document["accounts"]
    assert (document["label"], document["expires"]) == ("worker", "2035-01-01T00:00:00Z")
    assert document["prefix_id"] == accounts[1].pop("id")
    assert accounts[1] == {
        "label": "worker",
        "unit": "USD",
        "limit": "0.5",
        "spent": "0.01",
        "held": "0",
        "remaining": "0.49",
        "period": None,
        "resets_at": None,
        "calls": 1,
    }
    assert (accounts[0]["label"], accounts[0]["limit"], accounts[0]["remaining"]) == ("team", "1", "0.99")


def test_a_balance_before_the_first_call(gateway: Gateway) -> None:
    assert gateway.accounts(gateway.token(budget=None)) == []
    (account,) = gateway.accounts(gateway.token())
    assert (account["limit"], account["spent"], account["calls"]) == ("10", "0", 0)


def test_a_balance_shows_what_is_held(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/any/talk", token=token)
        upstream = one.hear()
        gateway.stands(token, spent="0", held="0.01", calls=0)
        upstream.answers()
        assert client.answer().status == 200
    gateway.stands(token, spent="0.01", calls=1)


def test_a_balance_needs_a_token_that_verifies(gateway: Gateway) -> None:
    token = gateway.token()
    for headers, status, code in (
        ((), 401, "token_missing"),
        (("X-Api-Key: x!",), 401, "token_malformed"),
        ((f"X-Api-Key: {token[:-4]}AAAA",), 401, "token_forged"),
        ((f"X-Api-Key: {token}", f"X-Api-Key: {token}"), 400, "credentials_ambiguous"),
    ):
        answer = gateway.ask("GET", "/.tolsey/balance", *headers)
        assert (answer.status, problem(answer)["code"]) == (status, code)


def test_a_balance_is_shown_only_when_and_where_the_token_may_be(gateway: Gateway) -> None:
    """What the caveats say of calls is no matter here: a token for another path reads its balance all the same."""
    token = gateway.token()
    for caveat, status in (
        ("expires = 2020-01-01", 401),
        ("peer = 10.9.8.0/24", 403),
        ("scope = /nowhere", 200),
        ("method = DELETE", 200),
    ):
        assert gateway.ask("GET", "/.tolsey/balance", token=child_of(token, caveat)).status == status, caveat


def test_the_gateways_own_paths_are_never_routed(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()
    with one.hears_nothing():
        post = gateway.ask("POST", "/.tolsey/balance", token=token, body=b"x")
        assert (post.status, post["allow"], problem(post)["code"]) == (405, "GET, HEAD", "method_not_allowed")
        for path in ("/.tolsey/", "/.tolsey/x", "/.tolsey/balance/"):
            assert problem(gateway.ask("GET", path, token=token))["code"] == "route_missing"
        head = gateway.ask("HEAD", "/.tolsey/balance", token=token)
        assert (head.status, head["content-type"]) == (200, "application/json")


# --- the admin listener


def test_health_is_on_the_admin_port(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz"):
        answer = gateway.ask("GET", path, admin=True)
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
        assert gateway.ask("HEAD", path, admin=True).status == 200


def test_nothing_else_is_on_the_admin_port(gateway: Gateway, one: Upstream) -> None:
    token = gateway.token()
    with one.hears_nothing():
        for path in ("/healthz/", "/healthz/../readyz", "/.tolsey/balance", SEARCH, "/open/x", "/admin", "/docs"):
            assert gateway.ask("GET", path, token=token, admin=True).status == 404, path
        assert gateway.ask("POST", "/healthz", token=token, admin=True).status == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/admin", "/metrics", "/docs", "/.tolsey/healthz"])
def test_nothing_of_the_admin_port_is_on_the_data_port(gateway: Gateway, path: str) -> None:
    assert problem(gateway.ask("GET", path, token=gateway.token()))["code"] == "route_missing"
