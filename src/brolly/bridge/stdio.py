"""The client's ends of the pipes."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

_LAST_RESORT_SECONDS = 0.95


def say(text: str) -> None:
    """A line for the client's log."""
    with suppress(OSError, ValueError, AttributeError):  # the client may have closed it
        sys.stderr.write(f"brolly mcp: {text}\n")
        sys.stderr.flush()


class Stdio:
    """Messages from stdin and to stdout, a line each. Whatever else is printed in this process goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        try:
            os.dup2(2, 1)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        self._send, self._lines = anyio.create_memory_object_stream[bytes](10_000)

    def __aiter__(self) -> Any:
        return self._lines.__aiter__()

    def start_reading(self) -> None:
        """Read in a thread that nothing waits for: a blocked read cannot be cancelled, whatever stdin is."""
        token = anyio.lowlevel.current_token()
        threading.Thread(target=self._read, args=(token,), name="stdin", daemon=True).start()

    def _read(self, token: Any) -> None:
        rest = b""
        while chunk := _read_some():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                anyio.from_thread.run(self._send.send, line, token=token)
        # Should an answer block on a pipe that nobody reads, the end must not wait for it.
        timer = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()
        if rest.strip():
            anyio.from_thread.run(self._send.send, rest, token=token)
        anyio.from_thread.run_sync(self._send.close, token=token)

    def write(self, line: bytes) -> None:
        """Write one message, whole."""
        data = memoryview(line.rstrip(b"\r\n") + b"\n")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                select.select([], [self._out], [])


def _read_some() -> bytes:
    while True:
        try:
            return os.read(0, 1 << 16)
        except BlockingIOError:
            select.select([0], [], [])
        except OSError:
            return b""
