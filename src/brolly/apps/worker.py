"""Brings app databases up to date, then sweeps for work that died half-way."""

from __future__ import annotations

import anyio

from brolly.apps.provision import migrate_all, sweep, unfinished
from brolly.core.worker import Worker
from brolly.deps import Deps

SWEEP_SECONDS = 5
UNFINISHED_SECONDS = 1


def workers(deps: Deps) -> list[Worker]:
    """Two loops; several replicas may run them, since each app is locked while it is worked on."""

    async def migrate() -> None:
        await migrate_all(deps)

    async def clear() -> None:
        while True:
            await sweep(deps)
            # A database process may still be busy for a server that was killed, and then holds its lock.
            await anyio.sleep(UNFINISHED_SECONDS if await unfinished(deps) else SWEEP_SECONDS)

    return [Worker("app migrations", migrate), Worker("app sweep", clear)]
