"""Sites from source: reserve, send the source, start the build, follow it, stop it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

import anyio
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.progress import Step, follow, taken_back
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.hosting import builds
from brolly.hosting.build_worker import SEALED, wake
from brolly.hosting.deployments import begin, create, find, id_of
from brolly.hosting.environment import MOST_NAMES, check_env
from brolly.hosting.service import DeploymentRef, cancel_deployment, make_room
from brolly.hosting.upload import UPLOAD_SECONDS, upload_url
from brolly.registry import App
from brolly.sealing import seal

LOOK_SECONDS = 0.4
QUIET_LOOKS = 35
QUIET_ENOUGH = 20
LINES_AT_ONCE = 500
LONGEST_SECONDS = 3600.0
Manager = Literal["npm", "pnpm", "yarn"]


class CreateFromSource(AppParams):
    """Parameters of create_from_source."""

    framework: SkipJsonSchema[Literal["react-vite", "nextjs-static", "static", "other"] | None] = None


class StartFromSource(AppParams):
    """Parameters of start_from_source."""

    deployment_id: str
    lockfile_hash: SkipJsonSchema[str | None] = Field(None, pattern="^[a-f0-9]{8,64}$")
    build_command: SkipJsonSchema[str | None] = Field(None, min_length=1, max_length=500)
    output_dir: SkipJsonSchema[str | None] = Field(None, min_length=1, max_length=200)
    package_manager: SkipJsonSchema[Manager | None] = None
    user_env: dict[str, Any] | None = Field(None, max_length=MOST_NAMES)


class ReadBuild(AppParams):
    """Which build's log, from which line on."""

    build_id: str
    offset: int = Field(0, ge=0)


async def create_from_source(deps: Deps, caller: Caller, params: CreateFromSource) -> dict[str, Any]:
    """Reserve a deployment that is built here, and say where its source goes."""
    app = await deps.registry.get(caller, params.app_id)
    await make_room(deps, app)
    deployment = await create(deps, app, params.framework, "source", UPLOAD_SECONDS)
    build_id = await builds.create(deps, app, deployment.id)
    most = deps.settings.source_limit_mb * 1_048_576
    url = upload_url(deps, deployment, most)
    return {
        "deployment_id": str(deployment.id),
        "build_id": str(build_id),
        "uploadUrl": url,
        "upload_url": url,
        "expiresIn": UPLOAD_SECONDS,
        "maxSizeBytes": most,
        "max_source_bytes": most,
    }


async def start_from_source(deps: Deps, caller: Caller, params: StartFromSource) -> dict[str, Any]:
    """Put the build in the queue; it goes on by itself. Who wants to hear of its progress is told how it ended."""
    app = await deps.registry.get(caller, params.app_id)
    deployment = await find(deps, app, params.deployment_id)
    if deployment.kind != "source":
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "This deployment takes finished files, not source.",
            remediation="Start it with manage_frontend start_deployment, or call manage_frontend create_from_source.",
        )
    own = check_env(params.user_env or {})
    begun = await begin(deps, app, deployment, "BUILDING")
    names = ("lockfile_hash", "build_command", "output_dir", "package_manager")
    options = {name: getattr(params, name) for name in names if getattr(params, name) is not None}
    sealed = seal(deps, app, SEALED, json.dumps(own).encode()) if own else None
    build_id = await builds.queue(deps, begun.id, options, sealed)
    wake(deps)
    async with taken_back(lambda: _stop(deps, caller, app, begun.id)):
        now = await _wait(deps, app, build_id)
    base = f"{deps.settings.base_url}/v1/{app.id}/frontend"
    answer = {
        "deployment_id": str(begun.id),
        "build_id": str(build_id),
        "status": now["status"] if now else "BUILDING",
        "logs_url": f"{base}/builds/{build_id}/logs",
        "status_url": f"{base}/deployments/{begun.id}",
    }
    if now and now["status"] == "READY":
        answer["url"] = deps.settings.site_url(app.subdomain)
    return {**answer, "error": now["error"]} if now and now["error"] else answer


async def _stop(deps: Deps, caller: Caller, app: App, deployment_id: UUID) -> None:
    with suppress(AppError):  # It ended at this very moment.
        await cancel_deployment(deps, caller, DeploymentRef(app_id=app.id, deployment_id=str(deployment_id)))


async def _wait(deps: Deps, app: App, build_id: UUID | None) -> Any:
    """Report what the build prints while somebody listens; how it stands then. None where nobody listens."""
    now: Any = None
    after = 0
    said = "Waiting for its turn"

    async def look() -> Step:
        nonlocal now, after, said
        now = await builds.find(deps, app, build_id or UUID(int=0))
        if lines := await builds.read_lines(deps, now["id"], after, LINES_AT_ONCE):
            after, said = lines[-1]
        return Step(now["status"] != "BUILDING", said[:200])

    await follow(look)
    return now


async def open_log(deps: Deps, caller: Caller, params: ReadBuild) -> tuple[App, Any]:
    """The build whose log the caller may read; raises as the other actions do."""
    app = await deps.registry.get(caller, params.app_id)
    return app, await builds.find(deps, app, id_of(params.build_id))


async def follow_log(deps: Deps, app: App, build: Any, after: int) -> AsyncGenerator[str]:
    """The log's lines after that one as server-sent events, until the build is over or the reader goes."""
    ends, quiet = anyio.current_time() + LONGEST_SECONDS, 0
    while anyio.current_time() < ends:
        # In this order, so that no line is missed that came before the end.
        over = await _is_over(deps, app, build, quiet)
        lines = await builds.read_lines(deps, build["id"], after, LINES_AT_ONCE)
        for number, text in lines:
            after = number
            yield f"id: {number}\ndata: {text.replace(chr(10), chr(92) + 'n')}\n\n"
        if len(lines) == LINES_AT_ONCE:
            continue
        if over:
            yield "event: done\ndata: end\n\n"
            return
        quiet = 0 if lines else quiet + 1
        if quiet >= QUIET_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        await anyio.sleep(LOOK_SECONDS)


async def _is_over(deps: Deps, app: App, build: Any, quiet: int) -> bool:
    """Whether no line will come any more. A server that was killed at the very end says so no more itself."""
    now = await builds.find(deps, app, build["id"])
    ended = now["status"] in ("READY", "ERROR", "CANCELED")
    return now["state"] == "DONE" or (ended and (now["state"] != "RUNNING" or quiet > QUIET_ENOUGH))
