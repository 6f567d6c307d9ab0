"""All that a build reaches of the world: a mirror of the package registry, and a proxy to public addresses.

Served on the one socket that the build can connect to. The server itself asks the registry, so that it may lie in
a network that is closed to builds; it leaves out what other systems would need, so that a registry that lacks some
of it serves as well, and hands on nothing but reads of packages.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import platform
import re
import secrets
import socket
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import httpx

from brolly.core.networks import is_public

log = logging.getLogger("brolly.build")

REGISTRY = "https://registry.npmjs.org"
HEADER_SECONDS = 20.0
MOST_HEADER = 32 * 1024
MOST_TUNNELS = 128
CHUNK = 64 * 1024
_PACKAGE = re.compile(r"(?:@[a-z0-9~._-]+(?:/|%2f))?[a-zA-Z0-9~._-]+", re.IGNORECASE)
_TARBALL = re.compile(r"(?:@[a-z0-9~._-]+/)?[a-zA-Z0-9~._-]+/-/[a-zA-Z0-9~._+@-]+\.tgz", re.IGNORECASE)
_OTHER_SYSTEMS = frozenset((
    "aix", "android", "darwin", "macos", "freebsd", "netbsd", "openbsd", "sunos", "openharmony", "ohos", "win32",
    "windows", "wasm32", "wasm", "wasi", "emscripten", "fsevents",
))  # fmt: skip
_PROCESSORS = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_MACS = frozenset({"darwin", "macos", "fsevents"})
_PROCESSOR_WORDS = frozenset((
    "arm", "arm64", "armv6", "armv7", "ia32", "loong64", "mips64el", "mips64", "ppc64", "ppc64le", "ppc", "riscv64",
    "riscv64gc", "s390x", "s390", "x64",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """For what packages are chosen: processor and C library as the system calls them."""

    processor: str
    linux: bool
    glibc: bool

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        return cls(platform.machine(), sys.platform.startswith("linux"), platform.libc_ver()[0] == "glibc")


def is_for_elsewhere(name: str, machine: Machine) -> bool:
    """Whether an optional package is, by its name, made for another system, processor or C library than this."""
    words = set(re.split(r"[-_./@]", name.lower()))
    systems = _OTHER_SYSTEMS if machine.linux else (_OTHER_SYSTEMS - _MACS) | {"linux"}
    libraries = {"musl", "linuxmusl"} if machine.glibc else {"gnu", "glibc"}
    if words & systems or (machine.linux and words & libraries):
        return True
    processors = words & _PROCESSOR_WORDS
    return bool(processors) and _PROCESSORS.get(machine.processor, machine.processor) not in processors


def thinned(document: dict[str, Any], tarballs: str, machine: Machine) -> dict[str, Any]:
    """A package's versions without optional dependencies for elsewhere, and with addresses that lead here."""
    for version in document.get("versions", {}).values():
        optional: dict[str, Any] = version.get("optionalDependencies") or {}
        for name in [each for each in optional if is_for_elsewhere(each, machine)]:
            # npm lists them among the dependencies as well.
            del optional[name]
            version.get("dependencies", {}).pop(name, None)
        dist = version.get("dist", {})
        address = str(dist.get("tarball", ""))
        if (at := address.find("/-/")) > 0:
            dist["tarball"] = f"{tarballs}/{document.get('name', '')}{address[at:]}"
    return document


@dataclass(frozen=True, slots=True)
class Gate:
    """How the build reaches it: the mirror's address and the proxy's, each with a word that others do not know."""

    port: int
    token: str

    @property
    def registry(self) -> str:
        """The mirror, for ``NPM_CONFIG_REGISTRY``."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    @property
    def proxy(self) -> str:
        """For ``HTTPS_PROXY``."""
        return f"http://build:{self.token}@127.0.0.1:{self.port}"


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Server:
    def __init__(self, gate: Gate, client: httpx.AsyncClient, *, private: bool) -> None:
        self._gate, self._client, self._private = gate, client, private
        self._machine = Machine.here()
        self._open: set[asyncio.StreamWriter] = set()

    def close(self) -> None:
        """End what is still going on."""
        for writer in self._open:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            if len(self._open) >= MOST_TUNNELS:
                return
            self._open.add(writer)
            try:
                async with asyncio.timeout(HEADER_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                method, target, headers = _parsed(head)
                if method == "CONNECT":
                    await self._tunnel(target, headers, reader, writer)
                elif method in ("GET", "HEAD"):
                    await self._registry(method, target, headers, writer)
                else:
                    await _refuse(writer, 405, "This is a mirror of packages, and a proxy for CONNECT.")
            finally:
                self._open.discard(writer)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a build's connection ended: %r", error)
        except httpx.HTTPError as error:
            with suppress(OSError):
                await _refuse(writer, 502, f"The package registry does not answer: {error}")
        finally:
            writer.close()

    async def _registry(self, method: str, target: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        prefix = f"/{self._gate.token}/"
        path = target[len(prefix) :].partition("?")[0]
        is_tarball = bool(_TARBALL.fullmatch(path))
        if not target.startswith(prefix) or not (is_tarball or _PACKAGE.fullmatch(path)) or ".." in path:
            await _refuse(writer, 404, "Nothing but packages is here.")
            return
        if not is_tarball:
            path = quote(unquote(path), safe="@")
        asked = {"Accept": headers.get("accept", "*/*")} if not is_tarball else {}
        async with self._client.stream("GET", path, headers=asked) as answer:
            if is_tarball or not answer.is_success:
                await _answer(writer, answer.status_code, answer.headers.get("content-length"))
                if method == "GET":
                    async for chunk in answer.aiter_bytes(CHUNK):
                        writer.write(chunk)
                        await writer.drain()
                return
            document = json.loads(await answer.aread())
        document = thinned(document, self._gate.registry.rstrip("/"), self._machine)
        body = json.dumps(document).encode()
        await _answer(writer, 200, str(len(body)), "application/json")
        writer.write(body if method == "GET" else b"")
        await writer.drain()

    async def _tunnel(
        self, target: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        wanted = "Basic " + base64.b64encode(f"build:{self._gate.token}".encode()).decode()
        if not secrets.compare_digest(headers.get("proxy-authorization", ""), wanted):
            await _refuse(writer, 407, "The proxy's address has a password.", 'Proxy-Authenticate: Basic realm="build"')
            return
        name, _, port = target.rpartition(":")
        addresses = await _addresses(name.strip("[]"), int(port))
        if not self._private and not all(is_public(address) for address in addresses):
            await _refuse(writer, 403, "Builds reach public addresses only.")
            return
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                there, out = await asyncio.open_connection(addresses[0], int(port))
        except (OSError, TimeoutError):
            await _refuse(writer, 502, "It does not answer.")
            return
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, out), _pump(there, writer))
        finally:
            out.close()


def _parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines if ":" in line)
    return method, target, {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _addresses(name: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


async def _answer(
    writer: asyncio.StreamWriter, status: int, length: str | None, kind: str = "application/octet-stream"
) -> None:
    size = f"Content-Length: {length}\r\n" if length is not None else ""
    writer.write(f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\n{size}Connection: close\r\n\r\n".encode())
    await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str, header: str = "") -> None:
    body = json.dumps({"error": why}).encode()
    more = f"{header}\r\n" if header else ""
    writer.write(
        f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + body
    )
    await writer.drain()


@asynccontextmanager
async def serving(listening: socket.socket, registry: str, *, private: bool) -> AsyncGenerator[Gate]:
    """The mirror and the proxy on that socket, for as long as the block runs."""
    gate = Gate(listening.getsockname()[1], secrets.token_urlsafe(24))
    async with httpx.AsyncClient(
        base_url=f"{registry.rstrip('/')}/", verify=_certificates(), timeout=60.0, follow_redirects=True
    ) as client:
        handler = _Server(gate, client, private=private)
        server = await asyncio.start_server(handler.serve, sock=listening, limit=MOST_HEADER)
        try:
            yield gate
        finally:
            server.close()
            handler.close()
