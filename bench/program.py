"""The program under test: data folders that go away, servers that are ended by their process id."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from brolly.pg.embedded import remove_data_folder
from brolly.pg.embedded.runas import find_place

START_LIMIT = 60.0
STOP_LIMIT = 20.0


def command(*arguments: str) -> list[str]:
    """A command of brolly's, run by this Python."""
    return [sys.executable, "-P", "-m", "brolly", *arguments]


def environment() -> dict[str, str]:
    """Ours without settings, so that a run measures the defaults; requests are counted, but never too many."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROLLY_", "BUTTERBASE_"))}
    return kept | {f"BROLLY_RATE_LIMIT_{subject}": str(2**31) for subject in ("KEY", "USER", "ADDRESS")}


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Program:
    """A running server of a data folder."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    ready_seconds: float = 0.0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """The owner's service key."""
        return (self.home / "owner.key").read_text().strip()

    def stop(self) -> float:
        """End it as a supervisor would; the seconds until it was gone."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_LIMIT)
        return time.perf_counter() - began


@contextmanager
def data_folder() -> Generator[Path]:
    """A new folder for the block; whatever still runs in it at the end is ended first."""
    home = Path(tempfile.mkdtemp(prefix="brolly-bench-"))
    try:
        yield home
    finally:
        _end_background_server(home)
        _end_postgres(home)
        remove_data_folder(home)


@contextmanager
def serving(home: Path, *, prefix: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> Generator[Program]:
    """A server of that folder for the block, once it says that it is ready. ``prefix`` replaces ``brolly``;
    ``settings`` are environment variables."""
    port = free_port()
    began = time.perf_counter()
    started = [*prefix] if prefix else command()
    with (home / "out.log").open("ab") as log:
        process = subprocess.Popen(
            [*started, "serve", "--home", str(home), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment(), **(settings or {})},
        )
    program = Program(home, port, process)
    try:
        wait_until_ready(port, process)
        program.ready_seconds = time.perf_counter() - began
        yield program
    finally:
        end(process)


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return as soon as /health/ready answers 200."""
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} while starting")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
        try:
            # It listens early and answers when ready, so this waits no longer than needed.
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.005)
        finally:
            connection.close()
    raise RuntimeError("the server was not ready in time")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours, by force if need be."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT)


def background_server(home: Path) -> psutil.Process | None:
    """The server that a command started in the background, if one runs."""
    with suppress(OSError, ValueError, KeyError, psutil.NoSuchProcess):
        process = psutil.Process(json.loads((home / "server.json").read_text())["pid"])
        if str(home) in process.cmdline():
            return process
    return None


def _end_background_server(home: Path) -> None:
    found = background_server(home)
    if found is not None:
        with suppress(psutil.Error):
            found.terminate()
            found.wait(STOP_LIMIT)


def postmaster(home: Path) -> psutil.Process | None:
    """The Postgres server of that folder, if one runs."""
    with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        data = find_place(home).data
        process = psutil.Process(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
        if str(data) in process.cmdline():
            return process
    return None


def _end_postgres(home: Path) -> None:
    """Only needed after a server was killed: otherwise it has stopped its Postgres itself."""
    found = postmaster(home)
    if found is not None:
        with suppress(psutil.Error):
            found.send_signal(signal.SIGINT)
            found.wait(STOP_LIMIT)
