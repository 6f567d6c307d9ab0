"""Takes up deployments whose process died, and clears away what nothing needs."""

from __future__ import annotations

import logging
import shutil
import time
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from brolly.core.errors import AppError
from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.hosting import domains, retention, start
from brolly.hosting.build_worker import build_workers
from brolly.pg.locks import advisory_lock

log = logging.getLogger("brolly.hosting")

PAUSE_SECONDS = 5
DOMAINS_SECONDS = 20
SWEEP_SECONDS = 600
STRAYS_SECONDS = 86_400
FOLDER_SECONDS = 6 * 3600


def workers(deps: Deps) -> list[Worker]:
    """What is to be seen through and cleared away; of several replicas, one at a time sweeps."""

    async def run() -> None:
        swept = strays = anyio.current_time() - SWEEP_SECONDS
        while True:
            await attempt(start.recover(deps), "taking up deployments")
            now = anyio.current_time()
            if now - swept >= SWEEP_SECONDS:
                swept = now
                await attempt(_sweep(deps, with_strays=now - strays >= STRAYS_SECONDS), "sweeping sites")
                strays = now if now - strays >= STRAYS_SECONDS else strays
            await anyio.sleep(PAUSE_SECONDS)

    async def look() -> None:
        # By itself: a name server that does not answer must not keep deployments waiting.
        while True:
            await attempt(domains.recheck(deps), "looking for the proof of domains")
            await anyio.sleep(DOMAINS_SECONDS)

    return [Worker("hosting", run), Worker("domains", look), *build_workers(deps)]


async def attempt(work: object, what: str) -> None:
    """Do it; a store or database that is down is tried again in the next round."""
    try:
        await work  # type: ignore[misc]
    except AppError as error:
        log.warning("%s: %s", what, error.message)


async def _sweep(deps: Deps, *, with_strays: bool) -> None:
    await to_thread.run_sync(partial(_old_folders, start.folders(deps)))
    async with (
        deps.control.acquire() as connection,
        advisory_lock(connection, "hosting sweep", wait=False) as held,
    ):
        if held:
            await retention.sweep(deps)
            if with_strays:
                await retention.strays(deps)


def _old_folders(parent: Path) -> None:
    """What killed processes have left unpacked."""
    if parent.is_dir():
        for path in parent.iterdir():
            if path.stat().st_mtime < time.time() - FOLDER_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
