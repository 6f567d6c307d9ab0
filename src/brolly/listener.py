"""The socket that a server listens on, and in words why it cannot have it.

Light to import: a port in use is told before anything else is loaded or opened.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from brolly.core.errors import AppError
from brolly.core.settings import Settings
from brolly.daemon import find_server

BACKLOG = 2048
NEXT_PORTS = 20


def local_url(settings: Settings) -> str:
    """The address under which this machine reaches the server."""
    return replace(settings, public_url="").base_url


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bind(settings: Settings, any_port: bool) -> socket.socket:
    """A listening socket. Taken before anything else is opened, so that a port in use is told at once.

    It listens at once, too: two programs may bind the same port, but only one may listen.
    """
    ports = [settings.port]
    if any_port:
        ports += [*range(settings.port + 1, settings.port + 1 + NEXT_PORTS), 0]
    for port in ports:
        try:
            return _listen(settings.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _cannot_listen(settings, error) from error
    raise _port_in_use(settings)


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"Cannot listen on {settings.host} port {settings.port}: {error.strerror or error}.",
        remediation="Choose an address of this machine with --host (BROLLY_HOST) and a port above 1023 with --port "
        "(BROLLY_PORT).",
    )


def _port_in_use(settings: Settings) -> AppError:
    running = find_server(settings.home)
    if running is not None and urlsplit(running.url).port == settings.port:
        return AppError(
            "CONFIG_INVALID",
            f"The server of this data folder runs already, at {running.url} (process {running.pid}).",
            remediation="Use it, end it with brolly down, or start a second one with --port.",
        )
    return AppError(
        "CONFIG_INVALID",
        f"Port {settings.port} on {settings.host} is in use by {_who_listens(settings)}.",
        remediation="Choose another with --port (BROLLY_PORT), or end that program.",
    )


def _who_listens(settings: Settings) -> str:
    import httpx

    with suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        found = httpx.get(local_url(settings) + "/health", timeout=1, trust_env=False).json()
        if found["service"] == "control-api" and "version" in found:
            return f"another Brolly server (version {found['version']}) with another data folder"
    return "another program"
