"""Calls to other services that stream: one pool of connections for addresses that the operator gave, one guarded.

The guarded one looks a name up itself and calls the address that it judged, so that an address which an app's owner
gave leads into no network but the public one.
"""

from __future__ import annotations

import socket
import ssl
from functools import cached_property

import anyio
import httpx

from brolly.core.networks import is_public

CONNECT_SECONDS = 10.0
_ADDRESSES_TRIED = 3
_POOL = httpx.Limits(max_connections=200, max_keepalive_connections=40, keepalive_expiry=60)


class Forbidden(httpx.TransportError):
    """The call would leave the public network, or would not be encrypted."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Carries calls to public addresses by https, and to no others."""

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=_POOL)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; ``Forbidden`` when it may not leave."""
        name = request.url.host
        if request.url.scheme != "https":
            raise Forbidden(f"{request.url.scheme} is not https", request=request)
        failure: httpx.TransportError | None = None
        for address in (await self._addresses(request, name))[:_ADDRESSES_TRIED]:
            call = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": name},
            )
            try:
                return await self._inner.handle_async_request(call)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("the name has no address", request=request)

    async def _addresses(self, request: httpx.Request, name: str) -> list[str]:
        try:
            found = await anyio.getaddrinfo(name, request.url.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpx.ConnectError("the name was not found", request=request) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(is_public(address) for address in addresses):
            raise Forbidden("the name leads into a network that is not public", request=request)
        return addresses

    async def aclose(self) -> None:
        """Close what is connected."""
        await self._inner.aclose()


class Outgoing:
    """The connections of this process to other services; opened when first used."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._clients: list[httpx.AsyncClient] = []

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    @cached_property
    def trusted(self) -> httpx.AsyncClient:
        """For addresses that the operator gave, wherever they lie."""
        return self._kept(httpx.AsyncHTTPTransport(verify=self._certificates, trust_env=False, limits=_POOL))

    @cached_property
    def guarded(self) -> httpx.AsyncClient:
        """For addresses that an app's owner gave."""
        return self.trusted if self._private else self._kept(GuardedTransport(self._certificates))

    def _kept(self, transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
        timeout = httpx.Timeout(CONNECT_SECONDS)
        client = httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """Close what is open."""
        while self._clients:
            await self._clients.pop().aclose()
