"""How we look at the world to see whose a domain is: its TXT records, and what answers under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import anyio
import dns.asyncresolver
import dns.exception
import dns.resolver
import httpx

from brolly.core.networks import is_public
from brolly.core.settings import Settings

SECONDS = 8.0
LARGEST = 1024


class UnresolvedError(Exception):
    """Nothing was found; the text says why."""


class Resolver(Protocol):
    """What verifying a domain needs to know."""

    async def txt(self, name: str) -> Sequence[str]:
        """The TXT records of a name, none when there are none. Raises ``UnresolvedError``."""
        ...

    async def page(self, hostname: str, path: str) -> str:
        """What answers at http://hostname/path. Raises ``UnresolvedError``."""
        ...


class NetworkResolver:
    """The resolver that asks name servers and hosts."""

    def __init__(self, settings: Settings, http_port: int = 80) -> None:
        self._private, self._http_port = settings.allow_private_network, http_port
        self._dns = dns.asyncresolver.Resolver(configure=not settings.dns_server)
        if settings.dns_server:
            host, colon, port = settings.dns_server.rpartition(":")
            self._dns.nameservers = [host if colon and port.isdigit() else settings.dns_server]
            self._dns.port = int(port) if colon and port.isdigit() else 53
        self._dns.lifetime = SECONDS
        # A record that was just made must be seen, whatever was answered before.
        self._dns.cache = None

    async def txt(self, name: str) -> Sequence[str]:
        """See ``Resolver``."""
        return [b"".join(each.strings).decode("latin-1") for each in await self._records(name, "TXT")]

    async def _records(self, name: str, kind: str) -> list[Any]:
        try:
            return list(await self._dns.resolve(name, kind, search=False))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            raise UnresolvedError(f"the name servers of {name} did not answer ({type(error).__name__})") from None

    async def page(self, hostname: str, path: str) -> str:
        """See ``Resolver``."""
        addresses = [str(each) for kind in ("A", "AAAA") for each in await self._records(hostname, kind)]
        if not addresses:
            raise UnresolvedError(f"{hostname} has no address yet")
        if not self._private and not all(is_public(address) for address in addresses):
            raise UnresolvedError(f"{hostname} leads into a network that is not public")
        # The address that was looked at is the one that is called.
        host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        try:
            with anyio.fail_after(SECONDS):
                return await self._fetch(f"http://{host}:{self._http_port}{path}", hostname)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise UnresolvedError(f"{hostname} did not answer ({type(error).__name__})") from None

    async def _fetch(self, url: str, hostname: str) -> str:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url, headers={"Host": hostname, "Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                raise UnresolvedError(f"{hostname} answered with status {response.status_code}")
            body = b""
            async for part in response.aiter_raw():
                body += part
                if len(body) > LARGEST:
                    raise UnresolvedError(f"{hostname} answered with something else")
            return body.decode("latin-1").strip()
