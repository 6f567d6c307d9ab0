"""One app's Deno process: its program line, its supervisor's orders, its end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import psutil

from brolly.core.errors import AppError
from brolly.engines.deno.host import Door, Lines, Peer
from brolly.engines.deno.launch import can_close_ipv6
from brolly.engines.deno.place import Place, find_place

log = logging.getLogger("brolly.deno")

LAUNCH = Path(__file__).parent / "launch.py"
START_SECONDS = 10.0
LAST_WORDS_SECONDS = 0.5
STDERR_KEPT = 4096
IMPORT_HOSTS = (
    "deno.land:443", "jsr.io:443", "esm.sh:443", "raw.esm.sh:443", "unpkg.com:443", "cdn.jsdelivr.net:443",
    "raw.githubusercontent.com:443", "gist.githubusercontent.com:443",
)  # fmt: skip
PRIVATE_ADDRESSES = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "[::1]", "[::]", "localhost",
    # Where clouds keep their machines' credentials.
    "[fd00:ec2::254]", "[fd00:ec2::23]", "[fd20:ce::254]",
)  # fmt: skip
"""What is closed to functions. Deno resolves a name first and compares the address that it is about to use."""


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
    """What a process may use. ``heap_mb`` is where V8 gives up, and the process with it: far above what we end isolates
    for. ``private_network`` opens the closed addresses, and
    ``ipv6`` that family of addresses, whose private ranges cannot be closed.
    """

    cache: Path
    heap_mb: int = 2048
    private_network: bool = False
    ipv6: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def command(folder: Path, place: Place, bounds: Bounds) -> list[str]:
    """The program line: everything closed but the network, the folder and our socket."""
    deny = [] if bounds.private_network else [f"--deny-net={','.join((*PRIVATE_ADDRESSES, *own_addresses()))}"]
    line = [
        str(place.program), "run", "--quiet", "--no-prompt", "--no-config", "--no-lock", "--node-modules-dir=none",
        "--unstable-worker-options", f"--v8-flags=--max-old-space-size={bounds.heap_mb}",
        "--allow-net", *deny, allow_import(bounds),
        f"--allow-read={folder},{place.runner}", f"--allow-write={folder}",
        "--deny-env", "--deny-run", "--deny-ffi", "--deny-sys", str(place.runner / "main.ts"),
    ]  # fmt: skip
    return bounded(line, place, ipv6=bounds.private_network or bounds.ipv6 or not can_close_ipv6())


def bounded(line: Sequence[str], place: Place, *, ipv6: bool, data_kb: int = 0) -> list[str]:
    """The program line behind ``launch``, which limits it and takes away its rights."""
    if sys.platform == "win32":
        return list(line)
    account = place.account
    uid, gid = (account.uid, account.gid) if account.foreign else (0, 0)
    words = (uid, gid, int(ipv6), data_kb)
    return [sys.executable, "-I", "-S", str(LAUNCH), *map(str, words), *line]


def allow_import(bounds: Bounds) -> str:
    """From where modules may come. Not from everywhere: the server's own network must not be asked by it."""
    return "--allow-import" if bounds.private_network else f"--allow-import={','.join(IMPORT_HOSTS)}"


def prepare_cache(cache: Path) -> None:
    """Web caches would be shared by all apps in it, so there is no place for them."""
    closed = cache / "location_data"
    if closed.is_dir():
        shutil.rmtree(closed)
    closed.touch()


def environment(bounds: Bounds, place: Place) -> dict[str, str]:
    """What Deno itself needs to fetch modules; functions see none of it."""
    home = {"HOME": str(place.cache)} if place.account.foreign else {}
    return {**bounds.environment, **home, "DENO_DIR": str(place.cache), "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"}


class Process:
    """A running Deno with its supervisor connected. Dead ones are thrown away, never restarted."""

    def __init__(self, app_id: str, folder: Path) -> None:
        self.app_id, self.folder = app_id, folder
        self.dead = anyio.Event()
        self.stderr = b""
        self._peer: Peer | None = None
        self._process: anyio.abc.Process | None = None
        self._seen: psutil.Process | None = None
        self._reaped = anyio.Event()
        self.watchers: dict[str, Callable[[str], None]] = {}
        """Who is told what became of an isolate, by its key: ``full`` (of memory) or ``ended``."""
        self._answers: dict[int, tuple[anyio.Event, dict[str, Any]]] = {}
        self._next = 1

    async def start(self, group: anyio.abc.TaskGroup, bounds: Bounds) -> None:
        """Spawn it and wait until its supervisor takes orders; ``EXTERNAL_NETWORK_ERROR`` when it does not."""
        place = await anyio.to_thread.run_sync(find_place, bounds.cache)
        await anyio.to_thread.run_sync(prepare_cache, place.cache)
        place.give(self.folder)
        door = Door(self.folder)
        await door.open()
        try:
            self._process = await anyio.open_process(
                command(self.folder, place, bounds),
                stdin=-1,
                stdout=-3,
                stderr=-1,
                env=environment(bounds, place),
                cwd=self.folder,
                start_new_session=True,
            )
            group.start_soon(self._reap, self._process)
            hello = json.dumps({"host": door.path, "key": door.key}) + "\n"
            if (stdin := self._process.stdin) is not None:
                await stdin.send(hello.encode())
            await self._welcome(group, door)
        finally:
            if self._peer is None:
                with anyio.CancelScope(shield=True):
                    await door.__aexit__()
                await self.stop()
        if self._peer is None:
            raise await self.broken("did not start")

    async def _welcome(self, group: anyio.abc.TaskGroup, door: Door) -> None:
        async with anyio.create_task_group() as waiting:

            async def until_dead() -> None:
                await self.dead.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(until_dead)
            with anyio.move_on_after(START_SECONDS):
                self._peer, lines = await door.admit()
                group.start_soon(self._follow, door, lines)
            waiting.cancel_scope.cancel()

    async def _follow(self, door: Door, lines: Lines) -> None:
        try:
            async with door:
                while not self.dead.is_set() and (message := await lines.next()) is not None:
                    # A worker has a say in what stands here.
                    number = message.get("id")
                    waiting = self._answers.pop(number, None) if isinstance(number, int) else None
                    if waiting is not None:
                        waiting[1].update(message)
                        waiting[0].set()
                    elif (watcher := self.watchers.get(str(message.get("key")))) is not None:
                        watcher(str(message.get("event")))
        except Exception:
            log.exception("a supervisor's connection failed")
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
            return 0 if (seen := self._look()) is None else seen.memory_info().rss
        except psutil.Error:
            return 0

    @property
    def files(self) -> int:
        """Open files and sockets, of which it may have ``MOST_FILES``."""
        try:
            return 0 if (seen := self._look()) is None else seen.num_fds()
        except psutil.Error:
            return 0

    def _look(self) -> psutil.Process | None:
        if self._seen is None and self._process is not None:
            self._seen = psutil.Process(self._process.pid)
        return self._seen

    async def broken(self, what: str) -> AppError:
        """The error for a call that this process, or an isolate in it, took with it."""
        # What it said last may still be on its way.
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._reaped.wait()
        why = " It ran out of memory." if b"out of memory" in self.stderr else ""
        return AppError("EXTERNAL_NETWORK_ERROR", f"The app's function process {what}.{why}")
