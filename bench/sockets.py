"""The clients' half of the measurement of sockets, in a process of its own: as little Python per message as can be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import resource
import struct
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote

import uvloop

_AT = re.compile(rb'"timestamp":"([^"]+)"')


@cache
def moment(text: bytes) -> float:
    """When the change was made, in seconds since the epoch; the same text comes to every socket."""
    return datetime.fromisoformat(text.decode()).timestamp()


def masked(text: bytes) -> bytes:
    """A frame as a client sends it; a mask of zeros leaves the text as it is."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + struct.pack("!H", size)
    return head + b"\0\0\0\0" + text


class Socket(asyncio.Protocol):
    """One subscriber: the moments at which changes were sent to the server, and came here."""

    def __init__(self, fleet: Fleet, host: str, path: str, subscribe: bool) -> None:
        self._fleet, self._host, self._path, self._subscribe = fleet, host, path, subscribe
        self._rest = b""
        self._open = False
        self.heard = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport: Any = transport
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Walk the frames."""
        data = self._rest + data
        if not self._open:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            assert b" 101 " in head, head
            self._open = True
            if self._subscribe:
                self._transport.write(masked(b'{"type":"subscribe","table":"things"}'))
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if end < start + size or end < start:
                break
            self._frame(data[at] & 0x0F, data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def _frame(self, opcode: int, text: bytes) -> None:
        if opcode == 9:
            self._transport.write(bytes((0x8A, 0x80 | len(text))) + b"\0\0\0\0" + text)
        elif opcode == 8:
            self._fleet.lost += 1
        elif text.startswith(b'{"type":"change"'):
            self.heard += 1
            found = _AT.search(text)
            if found is not None:
                self._fleet.taken.append(time.time() - moment(found[1]))
        elif text.startswith((b'{"type":"subscribed"', b'{"type":"connected"')):
            self._fleet.answered(text.startswith(b'{"type":"subscribed"') == self._subscribe)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it, if that was not wanted."""
        if not self._fleet.ending:
            self._fleet.lost += 1


class Fleet:
    """All sockets of the process."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.lost = self.ready = 0
        self.ending = False
        self.sockets: list[Socket] = []

    def answered(self, done: bool) -> None:
        """One more socket is where it should be."""
        self.ready += done

    async def open(self, host: str, port: int, app: str, tokens: Sequence[str], count: int, subscribe: bool) -> None:
        """Connect them all, some at a time."""
        loop = asyncio.get_running_loop()
        for number in range(count):
            path = f"/v1/{app}/realtime?token={quote(tokens[number % len(tokens)])}"
            _, socket = await loop.create_connection(
                lambda path=path: Socket(self, f"{host}:{port}", path, subscribe), host, port
            )
            self.sockets.append(socket)
            while number + 1 - self.ready > 50:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while self.ready < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def run() -> None:
    """Open what the first line asks for; answer each further line with what was heard since the last."""
    asked = json.loads(sys.stdin.readline())
    fleet = Fleet()
    await fleet.open(asked["host"], asked["port"], asked["app"], asked["tokens"], asked["count"], asked["subscribe"])
    print(json.dumps({"ready": fleet.ready}), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        taken, fleet.taken = sorted(fleet.taken), []
        heard = [socket.heard for socket in fleet.sockets]
        for socket in fleet.sockets:
            socket.heard = 0
        said = {"heard": sum(heard), "least": min(heard), "most": max(heard), "lost": fleet.lost, "taken": taken}
        print(json.dumps(said), flush=True)
    fleet.ending = True


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(run())
