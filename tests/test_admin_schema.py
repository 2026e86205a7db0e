"""The admin API is what its OpenAPI document says, tried by schemathesis: what it makes up, valid or not, is answered
as documented, never with a 5xx, and nothing is open that the document says is closed.
"""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.admins import admin_token
from tests.gateways import Gateway
from tolsey.admin.problems import CODES
from tolsey.token.admin_caveats import ACTIONS

EXAMPLES = 12
"""How many requests are made up for each operation."""

UNSURE = [positive_data_acceptance, negative_data_rejection]
"""Amounts and caveats have grammars that the document does not hold, and any value of a query is a text. What must be
refused is in test_admin_input.py.
"""

CONFIG = """
[server]
mode = "enforce"
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_is_as_described(gateway: Gateway, mode: GenerationMode) -> None:
    # Not keys: the keyring has room for a few hundred.
    token = admin_token(gateway, f"action = {' '.join(action for action in ACTIONS if action != 'rotate')}")
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{gateway.admin_port}/api/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
        def answers_as_described(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, excluded_checks=[*UNSURE])

        answers_as_described()
        tried += 1
    assert tried >= len(ACTIONS) - 4


def test_the_document(gateway: Gateway) -> None:
    document = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/api/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(ACTIONS) + 1
    for operation in operations:
        assert operation["security"] == [{"admin token": []}]
        assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}
        assert operation["description"]
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(CODES)
