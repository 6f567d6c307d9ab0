"""Calls to providers: bounded in time and size, tried again where that may help, failures in our words."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import httpx

from brolly.ai.models import Target
from brolly.ai.wire import BrokenAnswer, Call, Object
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.engines.outgoing import CONNECT_SECONDS, Forbidden

ATTEMPTS = 3
LONGEST_WAIT = 8.0
"""A provider that asks for more patience is answered with what else there is, or its wait is handed on."""
LARGEST_ANSWER = 32 * 1024 * 1024
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_REFUSED_HERE = {400, 405, 411, 413, 415, 422}


class UpstreamError(AppError):
    """A provider's failure. ``elsewhere`` says whether another model may do better."""

    def __init__(self, code: str, message: str, *, elsewhere: bool = True, **more: Any) -> None:
        super().__init__(code, message, **more)
        self.elsewhere = elsewhere


@asynccontextmanager
async def opened(deps: Deps, target: Target, call: Call) -> AsyncGenerator[httpx.Response]:
    """The provider's answer with status 200, its body still to come; closed with the block, read or not."""
    response = await _open(deps, target, call)
    try:
        yield response
    finally:
        with anyio.move_on_after(2, shield=True):
            await response.aclose()


async def _open(deps: Deps, target: Target, call: Call) -> httpx.Response:
    content = json.dumps(call.body).encode()
    for attempt in range(1, ATTEMPTS + 1):
        last = attempt == ATTEMPTS
        try:
            response = await _send(deps, target, call, content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError) as error:
            if last:
                raise told(target, error) from None
            await anyio.sleep(_pause(attempt, None))
            continue
        except httpx.HTTPError as error:
            raise told(target, error) from None
        if response.status_code == 200:
            return response
        wait = _wanted(response)
        refusal = await _refusal(target, response, wait)
        if last or response.status_code not in _AGAIN or (wait or 0) > LONGEST_WAIT:
            raise refusal
        await anyio.sleep(_pause(attempt, wait))
    raise AssertionError("not reached")


async def _send(deps: Deps, target: Target, call: Call, content: bytes) -> httpx.Response:
    provider = target.provider
    client = deps.outgoing.guarded if provider.owned else deps.outgoing.trusted
    seconds = float(deps.settings.ai_timeout)
    request = client.build_request(
        "POST",
        provider.base_url + call.path,
        content=content,
        # Packed answers could unpack to any size.
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **call.headers},
        timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds), pool=CONNECT_SECONDS),
    )
    return await client.send(request, stream=True)


def _pause(attempt: int, wanted: float | None) -> float:
    if wanted is not None:
        return wanted
    return 0.25 * 2**attempt * (0.5 + random.random())  # noqa: S311


def _wanted(response: httpx.Response) -> float | None:
    """The seconds of Retry-After, in either of its forms."""
    given = response.headers.get("retry-after-ms")
    try:
        if given is not None:
            return max(0.0, float(given) / 1000)
        given = response.headers.get("retry-after")
        if given is None:
            return None
        if given.replace(".", "", 1).isdigit():
            return float(given)
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


async def body_of(response: httpx.Response) -> bytes:
    """The whole body; raises ``BrokenAnswer`` when it is longer than any that makes sense."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise BrokenAnswer(f"it is longer than {LARGEST_ANSWER} bytes")
    return bytes(body)


async def json_of(response: httpx.Response) -> Object:
    """The body as an object."""
    try:
        value: Any = json.loads(await body_of(response))
    except (ValueError, RecursionError):
        raise BrokenAnswer(f"it is not JSON but {response.headers.get('content-type', 'of no type')}") from None
    if not isinstance(value, dict):
        raise BrokenAnswer("it is not an object")
    return cast(Object, value)


async def _refusal(target: Target, response: httpx.Response, wait: float | None) -> UpstreamError:
    """What a status other than 200 means; closes the response."""
    status, name = response.status_code, target.provider.name
    said = ""
    try:
        with anyio.fail_after(5):
            said = _message(await body_of(response))
    except (httpx.HTTPError, TimeoutError, BrokenAnswer):
        pass
    finally:
        with anyio.move_on_after(2, shield=True):
            await response.aclose()
    if target.provider.key:
        said = said.replace(target.provider.key, "***")
    says = f": {said}" if said else ""
    if status in (401, 402, 403):
        # Its words may hold a part of the key.
        return UpstreamError(
            "MODEL_UNAVAILABLE",
            f"{name} refuses the key with which it is called (status {status}).",
            remediation="Give a key that is valid with manage_ai update_config byokKey, or let the operator correct "
            "BROLLY_AI_PROVIDERS.",
        )
    if status == 404:
        return UpstreamError("MODEL_NOT_FOUND", f"{name} has no model {target.model[:200]!r}{says}")
    if status == 429:
        seconds = None if wait is None else max(1, round(wait))
        return UpstreamError(
            "QUOTA_RATE_LIMIT",
            f"{name} takes no more calls at the moment{says}",
            remediation="Wait for the number of seconds in Retry-After, or set fallbackModels with manage_ai "
            "update_config.",
            retry_after=seconds or 10,
        )
    if status in _REFUSED_HERE:
        return UpstreamError(
            "VALIDATION_INVALID_SCHEMA",
            f"{name} refuses the request{says}",
            elsewhere=False,
            remediation="Correct the request as the message says, then repeat manage_ai chat.",
            details={"provider": name, "status": status},
        )
    return UpstreamError("MODEL_UNAVAILABLE", f"{name} answered with status {status}{says}")


def _message(body: bytes) -> str:
    """The provider's own words for what was wrong; none of a page made for people."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, list) and value:
        # Google's, where a stream was asked for.
        value = cast(list[Any], value)[0]
    error: Any = cast(Object, value).get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = cast(Object, error).get("message")
    return "".join(c if c.isprintable() else " " for c in error[:500]) if isinstance(error, str) else ""


def told(target: Target, error: Exception) -> UpstreamError:
    """What went wrong on the way, in our words."""
    name = target.provider.name
    if isinstance(error, Forbidden):
        return UpstreamError(
            "MODEL_UNAVAILABLE",
            f"The address of {name} may not be called: {error}.",
            remediation="Give a public https address with manage_ai update_config byokBaseUrl, or let the operator set "
            "BROLLY_ALLOW_PRIVATE_NETWORK.",
        )
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return UpstreamError("MODEL_TIMEOUT", f"{name} did not answer in time.")
    if isinstance(error, httpx.RemoteProtocolError):
        return UpstreamError("MODEL_BROKEN_ANSWER", f"The answer of {name} ended in the middle.")
    if isinstance(error, BrokenAnswer):
        return UpstreamError("MODEL_BROKEN_ANSWER", f"The answer of {name} cannot be read: {error}.")
    return UpstreamError("MODEL_UNAVAILABLE", f"{name} could not be reached ({type(error).__name__}).")
