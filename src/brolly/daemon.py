"""The server of a data folder as a process: found, started in the background exactly once, stopped.

A server holds an flock on ``server.lock`` for as long as it lives, however it ends. So whether
one runs is asked of the lock, never of a process id that may be stale or somebody else's.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from brolly.core.errors import AppError
from brolly.core.settings import Settings

START_LIMIT = 620.0  # a Postgres that replays its log may take minutes
STOP_LIMITS = ((signal.SIGTERM, 12.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Running:
    """What ``server.json`` says about the server that runs."""

    pid: int
    url: str
    version: str
    started_at: str
    postgres: str
    host: str = ""
    """The address that it listens on; empty when an older version did not say."""
    read_only: bool = False
    tools: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def record_path(home: Path) -> Path:
    """Where a server says how to reach it, once it answers and until it begins to end."""
    return home / "server.json"


def log_path(home: Path) -> Path:
    """Where a server in the background logs to."""
    return home / "logs" / "server.log"


def take_lock(path: Path) -> int | None:
    """An exclusive flock on the file, or None when another process has it; closing the descriptor gives it up."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path.parent, error) from error
    if os.geteuid() == 0:
        # Root may serve a user's data folder, who must be able to do so too.
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def server_lock(home: Path) -> Path:
    """The file that the server of this data folder holds locked."""
    return home / "server.lock"


def find_server(home: Path) -> Running | None:
    """The server of this data folder, if one runs and is ready."""
    try:
        if not is_held(server_lock(home)):
            return None
        found = json.loads(record_path(home).read_text())
        # A newer version may have written more, an older one less.
        known: dict[str, Any] = {field.name: found[field.name] for field in fields(Running) if field.name in found}
        known["tools"] = tuple(known.get("tools", ()))
        return Running(**known)
    except PermissionError as error:
        raise _unusable(home, error) from error
    except (OSError, ValueError, TypeError):
        # Between the lock and the record it is starting or ending.
        return None


async def ensure_running(settings: Settings, *, options: Sequence[str] = ()) -> Running:
    """The server of this data folder, started in the background if none runs.

    However many processes ask at once, one starts it and the others wait for it. ``options``
    go to ``brolly serve``. Raises ``CONFIG_INVALID`` with the server's last words when it fails.
    """
    home = settings.home
    if (running := find_server(home)) is not None:
        return running
    make_folders(home)
    with anyio.move_on_after(START_LIMIT):
        async with _starting(home):
            while (running := find_server(home)) is None:
                if not is_held(server_lock(home)):
                    return await _start(home, options)
                # Somebody starts or ends it in the foreground.
                await anyio.sleep(0.02)
            return running
    raise AppError("CONFIG_INVALID", f"The server did not start within {START_LIMIT:.0f} s; see {log_path(home)}.")


def make_folders(home: Path) -> None:
    """The data folder and its folder of logs, closed to others."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_path(home).parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(home, error) from error


def _unusable(home: Path, error: OSError) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"The data folder {home} cannot be used: {error.strerror} ({error.filename}).",
        remediation="Run brolly as the user that owns it, or set BROLLY_HOME to a folder that this user can write to.",
    )


@asynccontextmanager
async def _starting(home: Path) -> AsyncGenerator[None]:
    """Keep every other process from starting it meanwhile."""
    while (lock := take_lock(home / "start.lock")) is None:  # noqa: ASYNC110 - a file lock announces nothing
        await anyio.sleep(0.02)
    try:
        yield
    finally:
        os.close(lock)


async def _start(home: Path, options: Sequence[str]) -> Running:
    """Start ``brolly serve`` apart from us and wait until it says on a pipe that it is ready, or is gone."""
    said, say = os.pipe()
    log = os.open(log_path(home), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        began = os.fstat(log).st_size
        command = [sys.executable, "-P", "-m", "brolly", "serve", "--home", str(home), "--detach", str(say), *options]
        child = subprocess.Popen(  # noqa: ASYNC220 - returns at once; the pipe is what we wait for
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=(say,),
        )
    finally:
        os.close(log)
        os.close(say)
    try:
        await anyio.wait_readable(said)
        ready = os.read(said, 1)
    finally:
        os.close(said)
        # It has forked the server and ended; this clears it from the process table.
        with suppress(subprocess.TimeoutExpired):
            child.wait(1)
    if ready and (running := find_server(home)) is not None:
        return running
    raise AppError(
        "CONFIG_INVALID",
        f"The server did not start. Its last words in {log_path(home)}:\n{last_words(log_path(home), began)}",
        remediation="Mend what it names, then run brolly up.",
    )


def last_words(path: Path, start: int) -> str:
    """The last lines that were written to the log since ``start``."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(min(start, size), size - 8192))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
    except OSError:
        return ""


def leave_parent(said: int) -> None:
    """Become a process of our own, that whoever ends the starting program's children does not find.

    Called before anything has started a thread. ``said`` is the pipe's end on which we shall say that
    we are ready.
    """
    os.set_inheritable(said, False)
    if os.fork():
        os._exit(0)
    os.setsid()


async def stop_server(home: Path) -> Running | None:
    """End the server of this data folder and wait until it is gone; what ran, or None."""
    running = find_server(home)
    if running is None and is_held(server_lock(home)):
        # It may just be starting; its record comes with its first answer.
        with anyio.move_on_after(START_LIMIT):
            while running is None and is_held(server_lock(home)):
                await anyio.sleep(0.05)
                running = find_server(home)
    if running is None:
        return None
    _check_process(running)
    for number, limit in STOP_LIMITS:
        try:
            os.kill(running.pid, number)
        except ProcessLookupError:
            if not is_held(server_lock(home)):
                return running
            raise _elsewhere(running) from None
        ends = time.monotonic() + limit
        while time.monotonic() < ends:
            if not is_held(server_lock(home)):
                return running
            await anyio.sleep(0.02)
    raise AppError("CONFIG_INVALID", f"The server (process {running.pid}) did not end, not even by force.")


def _check_process(running: Running) -> None:
    """Refuse to signal a process that is not the server: its id may be of another container."""
    import psutil

    try:
        process = psutil.Process(running.pid)
        began = datetime.fromtimestamp(process.create_time(), UTC)
        line = process.cmdline()
        ours = "serve" in line and any("brolly" in part for part in line)
        if ours and (began - datetime.fromisoformat(running.started_at)).total_seconds() < 2:
            return
    except (psutil.Error, TypeError, ValueError, OverflowError):
        pass
    raise _elsewhere(running)


def _elsewhere(running: Running) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"The data folder is in use by a server that says it is process {running.pid}, which is not on this machine.",
        remediation="Stop it where it runs: the folder may be shared with a container.",
    )
