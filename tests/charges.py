"""pympp's client of the `Payment` scheme, with somebody to pay the invoices: for Lightning it brings nobody."""

import asyncio
from collections.abc import Callable

import mpp as pympp
from mpp.methods import Method
from mpp.runtime import ClientMethod, CredentialParams
from pydantic import BaseModel


class Model(BaseModel, extra="allow"):
    """Whatever is asked for, and whatever is paid with."""


def charge(pay: Callable[[str], str], paid: list[pympp.Challenge]) -> ClientMethod:
    """A method that has `pay` pay an invoice and return the preimage; each challenge is added to `paid`."""

    async def create(params: CredentialParams) -> str:
        challenge = params.challenge
        paid.append(challenge)
        preimage = await asyncio.to_thread(pay, challenge.request["methodDetails"]["invoice"])
        return pympp.Credential(challenge.to_echo(), {"preimage": preimage}).to_authorization()

    method = Method(name="lightning", intent="charge", request_model=Model, payload_model=Model)
    return ClientMethod(method=method, create_credential=create)
