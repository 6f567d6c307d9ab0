"""Memory, disk and connections: of an idle server, and of each app more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil

from bench.clients import HttpClient, http_client
from bench.database import administrator
from bench.figures import held, mebibytes
from bench.program import Program, data_folder, postmaster, serving
from bench.runner import Run
from bench.tables import Table
from brolly.pg.embedded.runas import find_place

GOAL = 120 * 1024 * 1024
_SETTLE_SECONDS = 1.0
_IDLE_SECONDS = 38.0  # connections that nobody uses are closed after 30


@dataclass(frozen=True)
class State:
    """What the server and its Postgres hold at one moment; sizes in bytes."""

    rss: float
    pss: float
    postgres: float
    backends: int
    disk: float

    def less(self, other: State, apps: int) -> list[str]:
        """The difference to another state, per app, as cells."""
        kibibytes = [
            f"{(mine - theirs) / apps / 1024:.0f} KiB"
            for mine, theirs in ((self.pss, other.pss), (self.postgres, other.postgres), (self.disk, other.disk))
        ]
        return [*kibibytes, f"{(self.backends - other.backends) / apps:+.2f}"]

    def cells(self) -> list[str]:
        """As it is."""
        sizes = (self.rss, self.pss, self.postgres, self.disk)
        return [*map(mebibytes, sizes), str(self.backends)]


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Resident and proportional size. Without the latter (not Linux) the resident one stands for both."""
    found: Any = process.memory_full_info()
    return found.rss, getattr(found, "pss", found.rss)


def disk_of(home: Path) -> int:
    """Bytes on disk without the write-ahead log, whose files are made ahead and used again."""
    folders = {home.resolve(), find_place(home).data.resolve()}
    top = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    files = (file for folder in top for file in folder.rglob("*") if "pg_wal" not in file.parts)
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file() and not file.is_symlink())


async def look(program: Program) -> State:
    """The state once it has settled: what is written is on disk, what is freed is given back."""
    async with administrator(program.home) as connection:
        await connection.execute("checkpoint")
        backends = await connection.fetchval(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    await anyio.sleep(_SETTLE_SECONDS)
    rss, pss = memory_of(psutil.Process(program.process.pid))
    return State(rss, pss, _postgres(program.home), backends, await anyio.to_thread.run_sync(disk_of, program.home))


def _postgres(home: Path) -> float:
    server = postmaster(home)
    if server is None:
        raise RuntimeError("Postgres does not run")
    total = 0
    for process in (server, *server.children(recursive=True)):
        try:
            total += memory_of(process)[1]
        except psutil.NoSuchProcess:
            continue
    return total


async def measure(run: Run) -> Sequence[Table]:
    """Idle, then with many apps unused, then each used once, then left alone."""
    apps = run.size(50, 6)
    with data_folder() as home, serving(home) as program:
        async with http_client(program, 1) as client:
            run.begin("apps", apps * 2 + 3)
            idle = await look(program)
            ids = [await _make(run, client, index) for index in range(apps)]
            made = await look(program)
            for app_id in ids:
                await client.call("manage_schema", action="get", app_id=app_id)
                run.step()
            used = await look(program)
            states = [("idle, no app", idle), (f"{apps} apps made", made), ("each app used once", used)]
            if not run.quick:
                states.append((f"{_IDLE_SECONDS:.0f} s later", await _later(program)))
    last, last_state = states[-1]
    per_app = [
        ["made, not used", *made.less(idle, apps)],
        ["used once", *used.less(idle, apps)],
        *([[f"used once, {last}", *last_state.less(idle, apps)]] if not run.quick else []),
    ]
    goal = f"Goal: server without Postgres at most {mebibytes(GOAL)} (RSS, idle): {held(idle.rss <= GOAL)}."
    said = "RSS and PSS of the server's one process; PSS of all Postgres processes; disk without the write-ahead log."
    head = ["", "server RSS", "server PSS", "Postgres PSS", "disk", "connections"]
    return [
        Table(head, [[name, *state.cells()] for name, state in states], [f"{goal} {said}"]),
        Table(["per app", "server", "Postgres", "disk", "connections"], per_app),
    ]


async def _make(run: Run, client: HttpClient, index: int) -> str:
    app_id = (await client.call("init_app", name=f"app-{index}"))["app_id"]
    run.step()
    return app_id


async def _later(program: Program) -> State:
    began = time.monotonic()
    await anyio.sleep(_IDLE_SECONDS)
    assert time.monotonic() - began >= _IDLE_SECONDS
    return await look(program)
