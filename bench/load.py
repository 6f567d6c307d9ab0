"""HTTP load by ``wrk``: prepared requests in turn, over connections that stay open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

_SCRIPT = """
local requests = dofile(os.getenv("BENCH_REQUESTS"))
local at = 0
local first = nil
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "largest": %.6f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    latency.max / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class WrkMissing(Exception):  # noqa: N818
    """The load generator is not installed; says what to do."""


def require_wrk() -> str:
    """The program, or what to do to have it."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkMissing("the program wrk is missing; install it (Debian, Ubuntu: apt install wrk; macOS: brew)")
    return found


@dataclass(frozen=True)
class Burst:
    """What one stretch of load gave; times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    largest: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def http_request(method: str, path: str, headers: Mapping[str, str], body: str = "") -> str:
    """A request as it goes over the wire."""
    fields = {"Host": "127.0.0.1", **headers}
    if body:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}"


class Requests:
    """Prepared requests in a file that ``wrk`` reads."""

    def __init__(self, folder: Path, requests: Sequence[str]) -> None:
        handle, name = tempfile.mkstemp(suffix=".lua", dir=folder)
        with os.fdopen(handle, "w") as file:
            file.write("return {\n" + "".join(f"{_lua(one)},\n" for one in requests) + "}\n")
        self.path = Path(name)
        self.script = folder / "load.lua"
        self.script.write_text(_SCRIPT)


def _lua(text: str) -> str:
    # Only bytes that Lua 5.1 reads as they are; the others by number.
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in text.encode()) + '"'


async def burst(port: int, requests: Requests, connections: int, seconds: int) -> Burst:
    """Load for that long; wrk knows whole seconds."""
    command = [require_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(requests.script), f"http://127.0.0.1:{port}/"]
    environment = {**os.environ, "BENCH_REQUESTS": str(requests.path)}
    done = await anyio.run_process(command, env=environment, stderr=subprocess.STDOUT, check=False)
    found = next((line for line in done.stdout.decode().splitlines() if line.startswith("{")), None)
    if found is None:
        raise RuntimeError(f"wrk said: {done.stdout.decode()[:500]}")
    return Burst(**json.loads(found))
