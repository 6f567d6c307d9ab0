"""One app's Deno process: its program line, its supervisor's orders, its end."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import psutil

from brolly.core.errors import AppError
from brolly.engines.deno.host import Host, Lines, Peer

log = logging.getLogger("brolly.deno")

RUNNER = Path(__file__).parent / "runner"
START_SECONDS = 10.0
LAST_WORDS_SECONDS = 0.5
STDERR_KEPT = 4096
PRIVATE_ADDRESSES = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "[::1]", "[::]", "localhost",
)  # fmt: skip
"""What is closed to functions. Deno resolves a name first and compares the address that it is about to use."""


@cache
def find_deno() -> str:
    """The program that came in the wheel."""
    try:
        from deno import find_deno_bin  # pyright: ignore[reportMissingTypeStubs]

        return find_deno_bin()
    except (ImportError, FileNotFoundError) as error:
        raise AppError(
            "CONFIG_INVALID",
            "Deno is not installed: the package deno is missing or incomplete.",
            remediation="Install the package deno into the environment that runs brolly serve.",
        ) from error


def own_addresses() -> list[str]:
    """The addresses of this machine, which a function must not use to get at what listens beside us."""
    found: set[str] = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            address = entry.address.split("%")[0]
            if entry.family.name == "AF_INET":
                found.add(address)
            elif entry.family.name == "AF_INET6":
                found.add(f"[{address}]")
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a process may use. ``heap_mb`` is for each isolate; ``private_network`` opens the closed addresses."""

    cache: Path
    heap_mb: int = 256
    private_network: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def command(folder: Path, host: str, bounds: Bounds) -> list[str]:
    """The program line: everything closed but the network, the folder and our socket."""
    deny = [] if bounds.private_network else [f"--deny-net={','.join((*PRIVATE_ADDRESSES, *own_addresses()))}"]
    line = [
        find_deno(), "run", "--quiet", "--no-prompt", "--no-config", "--no-lock", "--node-modules-dir=none",
        "--unstable-worker-options", f"--v8-flags=--max-old-space-size={bounds.heap_mb}",
        "--allow-net", *deny, "--allow-import",
        f"--allow-read={folder},{RUNNER},{host}", f"--allow-write={folder},{host}",
        "--deny-env", "--deny-run", "--deny-ffi", "--deny-sys", str(RUNNER / "main.ts"),
    ]  # fmt: skip
    if sys.platform == "win32":
        return line
    # By the shell, as only a process itself may limit itself everywhere: few files, no core, behind the server.
    return ["/bin/sh", "-c", 'ulimit -n 1024; ulimit -c 0; exec nice -n 5 "$@"', "sh", *line]


def environment(bounds: Bounds) -> dict[str, str]:
    """What Deno itself needs to fetch modules; functions see none of it."""
    return {**bounds.environment, "DENO_DIR": str(bounds.cache), "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"}


class Process:
    """A running Deno with its supervisor connected. Dead ones are thrown away, never restarted."""

    def __init__(self, app_id: str, folder: Path, host: Host) -> None:
        self.app_id, self.folder, self._host = app_id, folder, host
        self.dead = anyio.Event()
        self.stderr = b""
        self._peer: Peer | None = None
        self._process: anyio.abc.Process | None = None
        self._connected = anyio.Event()
        self._reaped = anyio.Event()
        self._answers: dict[int, tuple[anyio.Event, dict[str, Any]]] = {}
        self._next = 1

    async def start(self, group: anyio.abc.TaskGroup, bounds: Bounds) -> None:
        """Spawn it and wait until its supervisor takes orders; ``EXTERNAL_NETWORK_ERROR`` when it does not."""
        key = secrets.token_urlsafe(24)
        self._host.supervisors[key] = self._follow
        try:
            self._process = await anyio.open_process(
                command(self.folder, self._host.path, bounds),
                stdin=-1,
                stdout=-3,
                stderr=-1,
                env=environment(bounds),
                cwd=self.folder,
                start_new_session=True,
            )
            group.start_soon(self._reap, self._process)
            hello = json.dumps({"host": self._host.path, "key": key}) + "\n"
            if (stdin := self._process.stdin) is not None:
                await stdin.send(hello.encode())
            with anyio.move_on_after(START_SECONDS):
                await self._connected.wait()
        finally:
            self._host.supervisors.pop(key, None)
            if self._peer is None:
                await self.stop()
        if self._peer is None:
            raise await self.broken("did not start")

    async def _follow(self, peer: Peer, lines: Lines) -> None:
        self._peer = peer
        self._connected.set()
        try:
            while not self.dead.is_set() and (message := await lines.next()) is not None:
                if (waiting := self._answers.pop(int(message.get("id") or 0), None)) is not None:
                    waiting[1].update(message)
                    waiting[0].set()
        finally:
            self._end()

    async def _reap(self, process: anyio.abc.Process) -> None:
        try:
            if process.stderr is None:
                return
            async for chunk in process.stderr:
                self.stderr = (self.stderr + chunk)[-STDERR_KEPT:]
            await process.wait()
        except anyio.BrokenResourceError:
            pass
        finally:
            self._reaped.set()
            await self.stop()

    def _end(self) -> None:
        self.dead.set()
        self._connected.set()
        for done, _ in self._answers.values():
            done.set()
        self._answers.clear()

    async def stop(self) -> None:
        """End it by force: what it works on is answered elsewhere."""
        self._end()
        if (process := self._process) is None:
            return
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                # The process leads a group of its own. Not process.kill, which would take the exit status from
                # whoever waits for it.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    log.debug("process %s had ended", process.pid)
            await process.wait()
            await process.aclose()

    async def order(self, op: str, seconds: float, **fields: Any) -> dict[str, Any] | None:
        """What the supervisor answers; None when it does not within that time, or has died."""
        if self._peer is None or self.dead.is_set():
            return None
        number, self._next = self._next, self._next + 1
        done, answer = self._answers[number] = (anyio.Event(), dict[str, Any]())
        await self._peer.send({"id": number, "op": op, **fields})
        with anyio.move_on_after(seconds):
            await done.wait()
        self._answers.pop(number, None)
        return answer or None

    @property
    def memory(self) -> int:
        """Resident bytes."""
        try:
            return 0 if self._process is None else psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return 0

    async def broken(self, what: str) -> AppError:
        """The error for a call that this process, or an isolate in it, took with it."""
        # What it said last may still be on its way.
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._reaped.wait()
        why = " It ran out of memory." if b"out of memory" in self.stderr else ""
        return AppError("EXTERNAL_NETWORK_ERROR", f"The app's function process {what}.{why}")
