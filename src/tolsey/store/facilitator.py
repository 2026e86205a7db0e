"""A facilitator of x402 behind HTTP. Needs httpx."""

from collections.abc import Mapping
from typing import Final, TypeVar

import httpx
import msgspec

from tolsey.store.settling import FacilitatorAway, Refused, Settled
from tolsey.token.x402 import VERSION, Authorization

MAX_ANSWER: Final = 64 * 1024
"""The longest answer that is read, in bytes."""

_SURE: Final = frozenset(
    {
        "insufficient_funds",
        "invalid_exact_evm_insufficient_balance",
        "invalid_exact_evm_payload_authorization_valid_after",
        "invalid_exact_evm_payload_authorization_valid_before",
        "invalid_exact_evm_payload_authorization_value_mismatch",
        "invalid_exact_evm_payload_recipient_mismatch",
        "invalid_exact_evm_payload_signature",
        "network_mismatch",
        "unsupported_scheme",
    }
)
"""The reasons for a refusal that are found before anything is sent to the network."""

_MAX_REASON: Final = 100


class _Verified(msgspec.Struct, rename="camel"):
    is_valid: bool
    invalid_reason: str | None = None


class _Settlement(msgspec.Struct, rename="camel"):
    success: bool
    transaction: str = ""
    network: str = ""
    error_reason: str | None = None


_T = TypeVar("_T", _Verified, _Settlement)


class HttpFacilitator:
    """One facilitator. `url` has no slash at its end, `secret` is a bearer token for it, or empty; `seconds` is how
    long it may take.
    """

    def __init__(self, url: str, secret: str, *, seconds: float) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {secret}"} if secret else {},
            timeout=seconds,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=4),
        )

    async def verify(self, authorization: Authorization, requirements: Mapping[str, object]) -> Refused | None:
        """Whether it could be settled now; None if so. Moves nothing. Raises `FacilitatorAway`."""
        found = await self._ask("/verify", authorization, requirements, _Verified)
        return None if found.is_valid else Refused(_short(found.invalid_reason), True)

    async def settle(self, authorization: Authorization, requirements: Mapping[str, object]) -> Settled | Refused:
        """Settle it. Raises `FacilitatorAway` where it is not known whether that was done."""
        found = await self._ask("/settle", authorization, requirements, _Settlement)
        if not found.success:
            reason = _short(found.error_reason)
            return Refused(reason, reason in _SURE and not found.transaction)
        if not found.transaction or found.network != requirements["network"]:
            raise FacilitatorAway("it says settled, without a transaction on the network that was asked for")
        return Settled(_short(found.transaction))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(
        self, path: str, authorization: Authorization, requirements: Mapping[str, object], kind: type[_T]
    ) -> _T:
        payload = {"x402Version": VERSION, "accepted": requirements, "payload": authorization.payload}
        body = {"x402Version": VERSION, "paymentPayload": payload, "paymentRequirements": requirements}
        answer = b""
        try:
            async with self._client.stream("POST", path, json=body) as response:
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > MAX_ANSWER:
                        raise FacilitatorAway("its answer is too long")
        except httpx.HTTPError as error:
            raise FacilitatorAway(f"it cannot be asked ({type(error).__name__})") from None
        if response.status_code != 200:
            raise FacilitatorAway(f"it answered {response.status_code}")
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError:
            raise FacilitatorAway("its answer is not what it is to be") from None


def _short(text: str | None) -> str:
    """A word of the facilitator's, fit to be shown and kept."""
    found = "".join(char for char in text or "" if char.isprintable() and char.isascii())[:_MAX_REASON]
    return found or "no reason given"
