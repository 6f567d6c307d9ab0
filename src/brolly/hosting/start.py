"""Starting a deployment of finished files: its zip is fetched, unpacked, checked and published."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.hosting import deployments
from brolly.hosting.archive import BadArchiveError, unpack
from brolly.hosting.deployments import COLUMNS, LEASE_SECONDS, MOST_ATTEMPTS, Deployment, deployment_of
from brolly.hosting.names import stored_bytes
from brolly.hosting.publish import bounds_of, leased, publish_folder
from brolly.registry import App

log = logging.getLogger("brolly.hosting")

_STALE = (
    "update brolly.deployments set lease_until = now() + make_interval(secs => $1), attempts = attempts + 1, "
    "updated_at = now() where id in (select id from brolly.deployments "
    "where status = 'UPLOADING' and kind = 'files' and lease_until < now() order by turn limit 5 "
    f"for update skip locked) returning {COLUMNS}"
)


@asynccontextmanager
async def work_folder(deps: Deps) -> AsyncGenerator[Path]:
    """A folder for the block, in the data folder; what a killed process leaves, the worker removes."""
    parent = folders(deps)
    await to_thread.run_sync(partial(parent.mkdir, mode=0o700, parents=True, exist_ok=True))
    path = Path(await to_thread.run_sync(partial(tempfile.mkdtemp, dir=parent)))
    try:
        yield path
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(partial(shutil.rmtree, path, ignore_errors=True))


def folders(deps: Deps) -> Path:
    """Where deployments are unpacked."""
    return deps.settings.home / "deploying"


async def start(deps: Deps, app: App, deployment: Deployment) -> Deployment:
    """Begin it and see it through; the deployment as it ended, be it with an error. Raises when it cannot begin."""
    begun = await deployments.begin(deps, app, deployment, "UPLOADING")
    await work(deps, app, begun)
    return await deployments.find(deps, app, deployment.id)


async def work(deps: Deps, app: App, deployment: Deployment) -> None:
    """Publish what was sent. Bears repetition; what is wrong with the files ends it, what is wrong with us does not."""
    try:
        async with leased(deps, deployment), work_folder(deps) as folder:
            source = folder / "site.zip"
            await _fetch(deps, deployment, source)
            target = folder / "files"
            target.mkdir(mode=0o700)
            await to_thread.run_sync(partial(unpack, source, target, bounds_of(deps)))
            await publish_folder(deps, app, deployment, target)
    except Exception as error:
        await _failed(deps, deployment, error)
    await drop_upload(deps, deployment)


async def _failed(deps: Deps, deployment: Deployment, error: Exception) -> None:
    if isinstance(error, BadArchiveError):
        await deployments.fail(deps, deployment.id, str(error))
    elif isinstance(error, AppError) and error.code == "RESOURCE_NOT_FOUND":
        await deployments.fail(deps, deployment.id, "The zip, or the app, is gone. Call create_frontend_deployment.")
    elif isinstance(error, AppError) and deployment.attempts >= MOST_ATTEMPTS:
        await deployments.fail(deps, deployment.id, f"{error.message} Call create_frontend_deployment and try again.")
    else:
        # The lease runs out, and a worker tries again.
        raise error


async def drop_upload(deps: Deps, deployment: Deployment) -> None:
    """The zip is not needed once its files are published, or are known to be wrong."""
    if deployment.upload_key:
        await deps.blob.delete([deployment.upload_key])
        await deps.control.execute(
            "update brolly.deployments set upload_key = null where id = $1 and upload_key = $2",
            deployment.id,
            deployment.upload_key,
        )


async def _fetch(deps: Deps, deployment: Deployment, target: Path) -> None:
    async with (
        aclosing(stored_bytes(deps.blob, deployment.upload_key or "")) as chunks,
        await anyio.open_file(target, "wb") as file,
    ):
        async for chunk in chunks:
            await file.write(chunk)


async def recover(deps: Deps) -> int:
    """Take up deployments whose process died; how many."""
    rows = await deps.control.fetch(_STALE, float(LEASE_SECONDS))
    for row in rows:
        deployment = deployment_of(row)
        app = await deps.registry.find(deployment.app_id)
        if app is None or deployment.attempts > MOST_ATTEMPTS:
            await deployments.fail(deps, deployment.id, "The server ended in the middle, several times. Deploy again.")
            continue
        log.warning("deployment %s was left by a process that died; taking it up", deployment.id)
        await work(deps, app, deployment)
    return len(rows)
