"""Brings app databases up to date, then sweeps for work that died half-way."""

from __future__ import annotations

import anyio

from brolly.apps.provision import migrate_all, sweep
from brolly.core.worker import Worker
from brolly.deps import Deps

SWEEP_SECONDS = 60


def workers(deps: Deps) -> list[Worker]:
    """One loop; several replicas may run it, since each app is locked while it is worked on."""

    async def run() -> None:
        await migrate_all(deps)
        while True:
            await sweep(deps)
            await anyio.sleep(SWEEP_SECONDS)

    return [Worker("apps", run)]
