"""Real Brolly processes for the tests of this folder: started, asked, killed and always cleared away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from mcp import StdioServerParameters

from brolly.pg.embedded import remove_data_folder
from brolly.pg.embedded.cluster import find_postmaster

COMMAND = (sys.executable, "-m", "brolly")
LIMIT = 20.0


def environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a process: ours without any BROLLY_ name, its data folder, and these settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(("BROLLY_", "BUTTERBASE_"))
    }
    return {**kept, "BROLLY_HOME": str(home), **{f"BROLLY_{name.upper()}": value for name, value in settings.items()}}


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Wait for a condition outside this process; it fails by name."""
    ends = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < ends, f"not within {limit} s: {what}"
        time.sleep(0.02)


def brolly(home: Path, *arguments: str, limit: float = 30, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home, **settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def stdio(home: Path, *arguments: str, **settings: str) -> StdioServerParameters:
    """How the SDK's client starts ``brolly mcp``."""
    return StdioServerParameters(
        command=sys.executable, args=["-m", "brolly", "mcp", *arguments], env=environment(home, **settings)
    )


def recorded(home: Path) -> dict[str, Any] | None:
    """What server.json says."""
    with suppress(FileNotFoundError):
        return json.loads((home / "server.json").read_text())
    return None


def owner_key(home: Path) -> str:
    """The owner's first key."""
    return (home / "owner.key").read_text().strip()


def postmaster(home: Path) -> psutil.Process | None:
    """The embedded Postgres of a data folder."""
    return find_postmaster((home / "postgres").resolve())


def processes_of(folder: Path) -> list[psutil.Process]:
    """Whoever names the folder in its command."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


@dataclass
class Process:
    """A ``brolly serve`` that a test started."""

    home: Path
    port: int
    child: subprocess.Popen[str]
    log: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text()

    def ready(self) -> Process:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.child.poll() is None, self.said()
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health/ready", timeout=5, trust_env=False).status_code == 200
            return False

        wait_until(answers, f"{self.url} is ready")
        return self

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """An HTTP client with the owner's key, or that one."""
        headers = {"Authorization": f"Bearer {key or owner_key(self.home)}", **headers}
        return httpx.Client(base_url=self.url, headers=headers, timeout=15, trust_env=False)

    def end(self, number: int = signal.SIGTERM) -> float:
        """Send the signal and wait; the seconds that it took."""
        began = time.monotonic()
        self.child.send_signal(number)
        self.child.wait(20)
        return time.monotonic() - began


class Machine:
    """Data folders and processes of one test, all gone at its end."""

    def __init__(self) -> None:
        self._homes: list[Path] = []
        self._served: list[Process] = []

    def home(self) -> Path:
        """A data folder that does not exist yet."""
        parent = Path(tempfile.mkdtemp(prefix="brolly-test-")).resolve()
        parent.chmod(0o711)  # root's Postgres runs as another user, who must pass
        home = parent / "home"
        self._homes.append(home)
        return home

    def start(self, home: Path, *arguments: str, port: int | None = None, **settings: str) -> Process:
        """Start ``brolly serve``, without waiting for it."""
        port = free_port() if port is None else port
        log = home.parent / f"serve-{port}-{len(self._served)}.log"
        with log.open("w") as stderr:
            child = subprocess.Popen(
                [*COMMAND, "serve", "--port", str(port), *arguments],
                env=environment(home, **settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                text=True,
            )
        process = Process(home, port, child, log)
        self._served.append(process)
        return process

    def serve(self, home: Path, *arguments: str, port: int | None = None, **settings: str) -> Process:
        """Start ``brolly serve`` and wait until it answers."""
        return self.start(home, *arguments, port=port, **settings).ready()

    def clear(self) -> None:
        """End everything and remove the folders."""
        for process in self._served:
            if process.child.poll() is None:
                process.child.terminate()
        for process in self._served:
            try:
                process.child.wait(15)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait(5)
        for home in self._homes:
            self._clear(home)

    def _clear(self, home: Path) -> None:
        found = recorded(home)
        if found is not None:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(found["pid"]).terminate()
            wait_until(lambda: recorded(home) is None or not psutil.pid_exists(found["pid"]), "the daemon has ended")
        wait_until(lambda: _stop_postgres(home), "Postgres has ended")
        if home.exists():
            remove_data_folder(home)
        shutil.rmtree(home.parent, ignore_errors=True)


def _stop_postgres(home: Path) -> bool:
    """Ask a Postgres without a server to end; whether none runs."""
    process = postmaster(home) if home.exists() else None
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGQUIT)
    return process is None


@contextmanager
def machine() -> Iterator[Machine]:
    """A ``Machine`` for the block."""
    made = Machine()
    try:
        yield made
    finally:
        made.clear()
