"""``brolly mcp`` at the other end of bare pipes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.processes import COMMAND, environment

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": "first",
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def read(result: Any) -> Any:
    return json.loads(result.content[0].text)


class Pipes:
    """``brolly mcp`` with bare pipes."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child

    def send(self, *messages: Any) -> None:
        assert self.child.stdin is not None
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.child.stdin.write(data + b"\n")
        self.child.stdin.flush()

    def receive(self) -> Any:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, "it has closed stdout"
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        return message

    def answer(self, identity: Any) -> Any:
        """The answer to that request, whatever comes before."""
        while True:
            message = self.receive()
            if message.get("id") == identity and "method" not in message:
                return message

    def close(self) -> float:
        """Close stdin; the seconds until it has ended."""
        assert self.child.stdin is not None
        began = time.monotonic()
        self.child.stdin.close()
        self.child.wait(5)
        return time.monotonic() - began


@contextmanager
def pipes(home: Path, *arguments: str, **settings: str) -> Iterator[Pipes]:
    child = subprocess.Popen(
        [*COMMAND, "mcp", *arguments],
        env=environment(home, **settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Pipes(child)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def call(identity: Any, tool: str, modern: bool = False, **arguments: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if modern:
        params["_meta"] = MODERN
    return {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}
