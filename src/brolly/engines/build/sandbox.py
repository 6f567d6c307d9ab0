"""Starts a build's programs shut in, watches what they use, and ends them when it is too much."""

from __future__ import annotations

import array
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import psutil

from brolly.core.errors import AppError
from brolly.engines.build.network import REGISTRY, Gate, serving

log = logging.getLogger("brolly.build")

PROGRAM = Path(__file__).with_name("confine.py")
UID = 60900
"""Of builds that root's server starts: an account that nobody has."""
LOOK_SECONDS = 0.5
MEASURE_EACH = 6
"""The folder's size is looked at each so many looks."""
END_SECONDS = 5.0
START_SECONDS = 15.0
_READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ssl", "/etc/ca-certificates", "/etc/pki",
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/passwd",
    "/etc/group", "/etc/localtime", "/etc/os-release", "/etc/mime.types", "/etc/npmrc", "/proc", "/sys/devices/system",
    "/sys/fs/cgroup", "/nix/store",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a build may use in all. ``printed`` bytes of output, ``disk`` bytes in its folder, processes at once."""

    seconds: float = 600.0
    memory_mb: int = 2048
    disk_mb: int = 2048
    printed: int = 8 * 1024 * 1024
    processes: int = 256
    private_network: bool = False
    unconfined: bool = False
    """Run it where it cannot be shut in: only for code that is trusted as the server is."""
    registry: str = REGISTRY


class Stopped(Exception):  # noqa: N818
    """The build was ended: why, in a sentence."""


@dataclass
class Sandbox:
    """A folder for one build, and the programs that run in it one after the other."""

    folder: Path
    allowance: Allowance
    say: Callable[[str], None]
    namespaces: bool = True
    _said: int = field(default=0, init=False)
    _until: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._until = anyio.current_time() + self.allowance.seconds

    async def run(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], read: Sequence[Path] = ()
    ) -> int:
        """The exit status; what it prints goes to ``say``. Raises ``Stopped`` when it used more than it may."""
        async with self._started(read) as (process, tell, gate):
            environ = {
                **_proxies(gate),
                **environment,
            }
            tell({"command": list(command), "folder": str(folder), "environment": environ, "port": gate.port})
            return await self._watched(process)

    @asynccontextmanager
    async def _started(
        self, read: Sequence[Path]
    ) -> AsyncGenerator[tuple[anyio.abc.Process, Callable[[dict[str, Any]], None], Gate]]:
        """The launcher, shut in as far as it can, waiting for its order; and the gate that serves it."""
        for namespaces in (True, False) if self.namespaces else (False,):
            ours, theirs = socket.socketpair()
            process = await anyio.open_process(
                [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}, cwd="/",
                start_new_session=True, pass_fds=(theirs.fileno(),),
            )  # fmt: skip
            theirs.close()
            try:
                ours.sendall(json.dumps(self._plan(read, namespaces)).encode() + b"\n")
                told, listening = await anyio.to_thread.run_sync(_answer_of, ours, abandon_on_cancel=True)
                if told is None and namespaces:
                    continue
                if told is None or told["missing"]:
                    raise _cannot((told or {}).get("missing") or "The program that does it failed.")
                listening = listening or await anyio.to_thread.run_sync(_loopback)
                async with serving(listening, self.allowance.registry, private=self.allowance.private_network) as gate:
                    yield process, partial(_tell, ours), gate
                return
            finally:
                ours.close()
                with anyio.CancelScope(shield=True):
                    await _end(process)

    def _plan(self, read: Sequence[Path], namespaces: bool) -> dict[str, Any]:
        foreign = os.geteuid() == 0
        mb = 1024 * 1024
        return {
            "confined": not self.allowance.unconfined,
            "namespaces": namespaces,
            "uid": UID if foreign else 0,
            "gid": UID if foreign else 0,
            "read": [*_READABLE, *map(str, read)],
            "write": [str(self.folder), *_DEVICES],
            "limits": {
                "RLIMIT_CORE": 0,
                "RLIMIT_NOFILE": 16384,
                "RLIMIT_NPROC": self.allowance.processes + (0 if foreign else _processes_of_ours()),
                "RLIMIT_FSIZE": self.allowance.disk_mb * mb // 2,
            },
        }

    async def _watched(self, process: anyio.abc.Process) -> int:
        why = ""
        async with anyio.create_task_group() as group:

            def stop(reason: str) -> None:
                nonlocal why
                why = why or reason
                group.cancel_scope.cancel()

            async def finish() -> None:
                await self._listen(process, stop)
                await process.wait()
                group.cancel_scope.cancel()

            group.start_soon(finish)
            group.start_soon(self._look, process, stop)
        if why:
            raise Stopped(why)
        return process.returncode or 0

    async def _listen(self, process: anyio.abc.Process, stop: Callable[[str], None]) -> None:
        assert process.stdout is not None  # noqa: S101
        rest = b""
        async for chunk in process.stdout:
            self._said += len(chunk)
            if self._said > self.allowance.printed:
                stop(f"It printed more than {self.allowance.printed // 1024 // 1024} MB.")
                return
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-65536:]
            for line in lines:
                self.say(line.decode("utf-8", "replace"))
        if rest:
            self.say(rest.decode("utf-8", "replace"))

    async def _look(self, process: anyio.abc.Process, stop: Callable[[str], None]) -> None:
        allowed, looks = self.allowance, 0
        while True:
            await anyio.sleep(LOOK_SECONDS)
            looks += 1
            if anyio.current_time() > self._until:
                stop(f"It took more than {allowed.seconds:.0f} seconds.")
            if await anyio.to_thread.run_sync(_memory, process.pid) > allowed.memory_mb * 2**20:
                stop(f"It needs more than {allowed.memory_mb} MB of memory.")
            if looks % MEASURE_EACH == 0:
                size = await anyio.to_thread.run_sync(_size, self.folder, allowed.disk_mb * 2**20)
                if size > allowed.disk_mb * 2**20:
                    stop(f"It wrote more than {allowed.disk_mb} MB.")

    def own(self, *folders: Path) -> None:
        """Give files below these to whom builds run as. Blocking."""
        if os.geteuid() != 0:
            return
        for folder in folders:
            for top, names, files in os.walk(folder):
                for name in (*names, *files):
                    os.chown(Path(top, name), UID, UID, follow_symlinks=False)
            os.chown(folder, UID, UID)


def _proxies(gate: Gate) -> dict[str, str]:
    names = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
    here = "127.0.0.1,localhost"
    registry = {"NPM_CONFIG_REGISTRY": gate.registry, "npm_config_registry": gate.registry}
    return {**dict.fromkeys(names, gate.proxy), "NO_PROXY": here, "no_proxy": here, "NODE_USE_ENV_PROXY": "1",
            **registry, "YARN_REGISTRY": gate.registry}  # fmt: skip


def _tell(line: socket.socket, order: dict[str, Any]) -> None:
    line.sendall(json.dumps(order).encode() + b"\n")


def _answer_of(line: socket.socket) -> tuple[dict[str, Any] | None, socket.socket | None]:
    """What the launcher found, and the socket that listens in the build's own network. Blocking."""
    line.settimeout(START_SECONDS)
    try:
        data, rights, _, _ = line.recvmsg(65536, socket.CMSG_SPACE(4))
    except OSError:
        return None, None
    handles = array.array("i")
    for level, kind, sent in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(sent[: len(sent) - len(sent) % handles.itemsize])
    line.settimeout(None)
    listening = socket.socket(fileno=handles[0]) if handles else None
    return (json.loads(data), listening) if data else (None, None)


def _loopback() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


async def _end(process: anyio.abc.Process) -> None:
    """Ask the launcher to end all that it started; then do it ourselves."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(END_SECONDS):
            await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        with suppress(ProcessLookupError):
            process.kill()
    await process.aclose()


def _memory(pid: int) -> int:
    """Resident bytes of the process and all below it. Blocking."""
    total = 0
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for each in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_info().rss
    return total


def _size(folder: Path, enough: int) -> int:
    """Bytes that files below the folder take; counting ends when it is more than enough. Blocking."""
    total, waiting = 0, [str(folder)]
    while waiting and total <= enough:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def folder_size(folder: Path) -> int:
    """Bytes that files below the folder take. Blocking."""
    return _size(folder, 2**62)


def _processes_of_ours() -> int:
    """Threads that this account runs already, where builds run as it: the system counts them together."""
    total, us = 0, os.geteuid()
    for each in psutil.process_iter(["uids", "num_threads"]):
        uids = each.info["uids"]
        total += (each.info["num_threads"] or 1) if uids and uids.real == us else 0
    return total


def _cannot(why: str) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"Builds cannot be shut in on this machine, so none is run. {why}",
        remediation="Build on your own machine and use create_frontend_deployment, or ask the operator, who may set "
        "BROLLY_BUILD_UNCONFINED for code that is trusted like the server.",
    )
