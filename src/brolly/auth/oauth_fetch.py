"""Calls to sign-in providers: bounded in time and size, and not into the server's own network unless allowed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache

import anyio
import httpx2

from brolly.core.errors import AppError
from brolly.core.networks import is_public
from brolly.deps import Deps

SECONDS = 15
_CALL_SECONDS = 8
LARGEST = 512 * 1024
_ADDRESSES_TRIED = 3


class Forbidden(httpx2.TransportError):
    """The call would leave the public network, or would not be encrypted."""


class TooLarge(httpx2.TransportError):
    """The answer is longer than any that a provider has reason to give, or packed, so that its length is unknown."""


@cache
def _certificates() -> ssl.SSLContext:
    # Read from disk once: it takes tens of milliseconds.
    return httpx2.create_ssl_context()


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Looks the name up itself and calls the address that it judged: a second look-up could give another one."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._inner = httpx2.AsyncHTTPTransport(verify=_certificates(), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; ``Forbidden`` when it may not leave, ``TooLarge`` for an answer that is too long."""
        name = request.url.host
        if request.url.scheme != "https" and not (self._private and request.url.scheme == "http"):
            raise Forbidden(f"{request.url.scheme} is not https", request=request)
        request.headers["Accept-Encoding"] = "identity"
        failure: httpx2.TransportError | None = None
        for address in (await self._addresses(request, name))[:_ADDRESSES_TRIED]:
            call = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": name},
            )
            try:
                response = await self._inner.handle_async_request(call)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
                continue
            return await _bounded(request, response)
        raise failure or httpx2.ConnectError("the name has no address", request=request)

    async def _addresses(self, request: httpx2.Request, name: str) -> list[str]:
        try:
            found = await anyio.getaddrinfo(name, request.url.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpx2.ConnectError("the name was not found", request=request) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._private and not all(is_public(address) for address in addresses):
            raise Forbidden("the name leads into a network that is not public", request=request)
        return addresses

    async def aclose(self) -> None:
        """Close what is connected."""
        await self._inner.aclose()


async def _bounded(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """The answer with its whole body, read up to the limit."""
    try:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooLarge("the answer is packed", request=request)
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > LARGEST:
                raise TooLarge(f"the answer is longer than {LARGEST} bytes", request=request)
    finally:
        await response.aclose()
    kept = {k: v for k, v in response.headers.items() if k in ("content-type", "location")}
    return httpx2.Response(response.status_code, headers=kept, content=bytes(body), request=request)


def transport_of(deps: Deps) -> GuardedTransport:
    """What carries calls of this server to providers."""
    return GuardedTransport(deps.settings.allow_private_network)


TIMEOUT = httpx2.Timeout(_CALL_SECONDS)


@asynccontextmanager
async def conversation(provider: str) -> AsyncGenerator[None]:
    """Time for all calls of one sign-in together; what fails on the way there is said in our words."""
    try:
        with anyio.fail_after(SECONDS):
            yield
    except Forbidden as error:
        raise AppError(
            "OAUTH_PROVIDER_UNAVAILABLE",
            f"The addresses of {provider} may not be called: {error}.",
            remediation="Give public https addresses with manage_oauth update, or let the operator set "
            "BROLLY_ALLOW_PRIVATE_NETWORK for a provider in their own network.",
        ) from None
    except TimeoutError:
        raise unavailable(provider, "did not answer in time") from None
    except httpx2.HTTPStatusError as error:
        raise _status_error(provider, error.response.status_code) from None
    except TooLarge as error:
        raise unavailable(provider, f"gave an answer that was not read: {error}") from None
    except httpx2.TimeoutException:
        raise unavailable(provider, "did not answer in time") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise unavailable(provider, f"could not be reached ({type(error).__name__})") from None


def _status_error(provider: str, status: int) -> AppError:
    if status >= 500 or status == 429:
        return unavailable(provider, f"answered with status {status}")
    return AppError("OAUTH_PROVIDER_ERROR", f"{provider} answered a call of this server with status {status}.")


def unavailable(provider: str, what: str) -> AppError:
    """The error for a provider that does not work at the moment."""
    return AppError("OAUTH_PROVIDER_UNAVAILABLE", f"{provider} {what}.")
