"""Two servers of one installation: what one is told ends what runs on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import anyio
import psutil
import pytest

from brolly.app import open_deps
from brolly.apps import provision
from brolly.core.settings import load_settings
from brolly.core.worker import start_workers
from brolly.deps import Deps
from brolly.engines.deno import Program
from tests.conftest import hold_open, make_owner

CODE = "export const handler = () => new Response('here')"


@pytest.fixture(scope="module")
async def other(deps: Deps, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deps]:
    """A second server over the same control database."""
    server = deps.databases.server
    where = f"host={quote(server.host, safe='')}&port={server.port}"
    dsn = f"postgresql://{quote(server.user)}:{quote(server.password, safe='')}@/{server.database}?{where}"
    home: Path = tmp_path_factory.mktemp("replica")
    value, close = await hold_open(open_deps(load_settings({}, home=home, database_url=dsn, secret=deps.secret)))
    yield value
    await close()


async def test_an_app_that_one_server_deletes_ends_on_the_other(deps: Deps, other: Deps) -> None:
    owner, _ = await make_owner(deps)
    assert owner.account_id
    apps = [(await provision.create(deps, owner.account_id, f"gone{n}", "self-hosted"))[0] for n in range(2)]
    async with anyio.create_task_group() as group:
        start_workers(
            group, [w for part in other.slices for w in part.workers(other) if w.name == "function processes"]
        )
        for app_id in apps:
            await other.deno.load(Program(app_id, "here", CODE))
        gone, kept = (_process(other, app_id) for app_id in apps)
        await provision.delete(deps, await deps.registry.get(owner, apps[0]))
        with anyio.fail_after(10):
            while other.deno.app_ids != [apps[1]] or gone.is_running():  # noqa: ASYNC110 nobody tells us
                await anyio.sleep(0.02)
        assert kept.is_running()
        # What was said while nobody heard is looked up when the connection is back.
        await deps.control.execute("update brolly.apps set status = 'deleting' where id = $1", apps[1])
        other.listener._forget_all()  # pyright: ignore[reportPrivateUsage]
        with anyio.fail_after(10):
            while other.deno.app_ids or kept.is_running():  # noqa: ASYNC110
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    await deps.control.execute("update brolly.apps set status = 'ready' where id = $1", apps[1])
    await deps.registry.changed(apps[1])
    await provision.delete(deps, await deps.registry.get(owner, apps[1]))


def _process(deps: Deps, app_id: str) -> psutil.Process:
    """The app's Deno, by the folder in which it runs."""
    process = deps.deno._apps[app_id].process  # pyright: ignore[reportPrivateUsage]
    assert process is not None
    assert process._process is not None  # pyright: ignore[reportPrivateUsage]
    return psutil.Process(process._process.pid)  # pyright: ignore[reportPrivateUsage]
