"""Does the builds that wait, a few at a time, and makes what they leave the live site."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread

from brolly.core.errors import AppError
from brolly.core.settings import Settings, child_environment
from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.engines.build.builder import Builder, Job, Order
from brolly.engines.build.network import REGISTRY
from brolly.engines.build.project import DEFAULT_COMMAND, BuildFailedError
from brolly.engines.build.sandbox import Allowance
from brolly.hosting import builds
from brolly.hosting.archive import BadArchiveError, unpack
from brolly.hosting.build_log import BuildLog, secrets_of
from brolly.hosting.builds import MOST_ATTEMPTS, Build
from brolly.hosting.deployments import Deployment, fail, find
from brolly.hosting.environment import read_env
from brolly.hosting.publish import bounds_of, leased, publish_folder
from brolly.registry import App, Registry
from brolly.sealing import unseal

log = logging.getLogger("brolly.build")

LOOK_SECONDS = 2.0
WANTED_SECONDS = 1.0
END_SECONDS = 5.0
SEALED = "build-environment"
_WAKE: WeakKeyDictionary[Registry, anyio.Event] = WeakKeyDictionary()


@cache
def _builder(settings: Settings) -> Builder:
    allowance = Allowance(
        seconds=settings.build_seconds,
        memory_mb=settings.build_memory_mb,
        disk_mb=settings.build_disk_mb,
        private_network=settings.build_private_network,
        unconfined=settings.build_unconfined,
        registry=child_environment().get("NPM_CONFIG_REGISTRY") or REGISTRY,
    )
    return Builder(settings.home, allowance, settings.build_cache_mb)


def wake(deps: Deps) -> None:
    """Something was queued: look now."""
    if (event := _WAKE.get(deps.registry)) is not None:
        event.set()


def build_workers(deps: Deps) -> list[Worker]:
    """As many loops as builds may run at once here."""

    async def work() -> None:
        while True:
            if not await run_next(deps):
                event = _WAKE[deps.registry] = anyio.Event()
                with anyio.move_on_after(LOOK_SECONDS):
                    await event.wait()

    return [Worker(f"builds {number + 1}", work) for number in range(deps.settings.builds_at_once)]


async def run_next(deps: Deps) -> bool:
    """Do the next build; False when there is none."""
    build = await builds.claim(deps)
    if build is None:
        return False
    app = await deps.registry.find(build.app_id)
    if app is None:
        return True
    deployment = await find(deps, app, build.deployment_id)
    cached = False
    try:
        if build.attempts > MOST_ATTEMPTS:
            await fail(deps, deployment.id, "The server ended while it was building, more than once.")
            return True
        await builds.forget_lines(deps, build)
        async with leased(deps, deployment):
            cached = await _build(deps, app, deployment, build)
    except anyio.get_cancelled_exc_class():
        # This server ends in good order: another one, or its next start, takes it up at once.
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
            await builds.put_back(deps, build)
        raise
    except Exception:
        log.exception("build %s failed", build.id)
        await fail(deps, deployment.id, "The server could not do it; its log says why.")
    await builds.end(deps, build, cached=cached)
    return True


async def _build(deps: Deps, app: App, deployment: Deployment, build: Build) -> bool:
    """Everything from the zip to the switch; whether kept dependencies were used."""
    own: dict[str, str] = json.loads(unseal(deps, app, SEALED, build.environment)) if build.environment else {}
    given = {**await read_env(deps, app), **own}
    said = BuildLog(deps, build, secrets_of(given.items()))
    cached = False
    why = ""
    async with anyio.create_task_group() as group:
        group.start_soon(said.keep_writing)
        group.start_soon(_stop_when_unwanted, deps, build, group.cancel_scope)
        try:
            cached = await _from_zip_to_site(deps, app, deployment, build, given, said)
        except (BuildFailedError, BadArchiveError) as error:
            why = str(error)
        except AppError as error:
            why = f"{error.message} {error.remediation}"
        group.cancel_scope.cancel()
    with anyio.CancelScope(shield=True):
        if why:
            tail = said.tail
            said.say(why)
            await fail(deps, deployment.id, f"{why}\n{tail}" if tail and "log says" in why else why)
        await said.finish()
    return cached


async def _from_zip_to_site(
    deps: Deps, app: App, deployment: Deployment, build: Build, given: dict[str, str], said: BuildLog
) -> bool:
    builder = _builder(deps.settings)
    async with builder.job(build.id.hex) as job:
        await _fetch(deps, deployment, job)
        options = build.options
        order = Order(
            app.id,
            options.get("build_command") or DEFAULT_COMMAND,
            options.get("output_dir"),
            options.get("package_manager"),
            options.get("lockfile_hash") or "",
            {**platform_environment(deps, app), **given},
        )
        built = await builder.build(job, order, said.say)
        said.say("Publishing …")
        await _set_framework(deps, deployment, built.kind)
        done = await publish_folder(deps, app, deployment, built.folder)
        said.say(f"Live at {deps.settings.site_url(app.subdomain)}: {done.file_count} files.")
        return built.cached


async def _fetch(deps: Deps, deployment: Deployment, job: Job) -> None:
    assert deployment.upload_key is not None  # noqa: S101
    zipped = job.folder / "source.zip"
    async with await anyio.open_file(zipped, "wb") as file:
        async for chunk in deps.blob.read(deployment.upload_key):
            await file.write(chunk)
    await to_thread.run_sync(_unpack, zipped, job.source, deps)


def _unpack(zipped: Path, target: Path, deps: Deps) -> None:
    unpack(zipped, target, bounds_of(deps))
    zipped.unlink()


async def _set_framework(deps: Deps, deployment: Deployment, kind: str) -> None:
    await deps.control.execute(
        "update brolly.deployments set framework = coalesce(framework, $2) where id = $1", deployment.id, kind
    )


async def _stop_when_unwanted(deps: Deps, build: Build, scope: anyio.CancelScope) -> None:
    while True:
        await anyio.sleep(WANTED_SECONDS)
        if not await builds.is_wanted(deps, build):
            scope.cancel()
            return


def platform_environment(deps: Deps, app: App) -> dict[str, str]:
    """What every build is told of where it will live, under the names that bundlers put into pages."""
    facts = {
        "API_URL": deps.settings.base_url,
        "APP_ID": app.id,
        "SITE_URL": deps.settings.site_url(app.subdomain),
        "SUBDOMAIN": app.subdomain,
    }
    starts = ("", "VITE_", "NEXT_PUBLIC_", "PUBLIC_", "NUXT_PUBLIC_", "REACT_APP_", "GATSBY_")
    return {
        f"{start}{name}_{key}": fact
        for start in starts
        for name in ("BROLLY", "BUTTERBASE")
        for key, fact in facts.items()
    }
