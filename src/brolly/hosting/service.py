"""What an app's owner does with front ends."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.hosting import deployments, retention, start
from brolly.hosting.deployments import COLUMNS, LISTED, Deployment, deployment_of, shown
from brolly.hosting.upload import UPLOAD_SECONDS, upload_url
from brolly.registry import App

MOST_WAITING = 50


class CreateDeployment(AppParams):
    """Parameters of create_frontend_deployment."""

    framework: Literal["react-vite", "nextjs-static", "static", "other"] | None = None


class DeploymentRef(AppParams):
    """Parameters of what concerns one deployment."""

    deployment_id: str = Field(max_length=100)


class Rollback(AppParams):
    """Parameters of rollback."""


async def create_deployment(deps: Deps, caller: Caller, params: CreateDeployment) -> dict[str, Any]:
    """Reserve a deployment, and say where to send its zip."""
    app = await deps.registry.get(caller, params.app_id)
    await make_room(deps, app)
    made = await deployments.create(deps, app, params.framework, "files", UPLOAD_SECONDS)
    most = deps.settings.deployment_limit_mb * 1_048_576
    url = upload_url(deps, made, most)
    return {
        "id": str(made.id),
        "deployment_id": str(made.id),
        "uploadUrl": url,
        "expiresIn": UPLOAD_SECONDS,
        "maxSizeBytes": most,
        "_meta": {
            "next_actions": [
                {
                    "action": "PUT",
                    "description": "Send a zip of the build folder's content to uploadUrl, with Content-Type: "
                    "application/zip; then manage_frontend start_deployment.",
                    "recommended": True,
                }
            ]
        },
    }


async def make_room(deps: Deps, app: App) -> None:
    """Many that wait for nothing fill the store: the oldest give way."""
    rows = await deps.control.fetch(
        "delete from brolly.deployments where id in (select id from brolly.deployments where app_id = $1 "
        "and status = 'WAITING' order by created_at desc offset $2) returning upload_key",
        app.id,
        MOST_WAITING - 1,
    )
    await deps.blob.delete([row["upload_key"] for row in rows if row["upload_key"]])


async def start_deployment(deps: Deps, caller: Caller, params: DeploymentRef) -> dict[str, Any]:
    """Publish what was sent; the answer says how it ended."""
    app = await deps.registry.get(caller, params.app_id)
    found = await deployments.find(deps, app, params.deployment_id)
    if found.kind != "files":
        raise AppError(
            "STATE_INVALID_TRANSITION",
            "This deployment is built from source.",
            remediation="For a zip of finished files call create_frontend_deployment; manage_frontend "
            "list_deployments shows what there is.",
        )
    done = await start.start(deps, app, found)
    return await _shown(deps, app, done)


async def _shown(deps: Deps, app: App, deployment: Deployment) -> dict[str, Any]:
    return shown(deps, app, deployment, await deployments.live_of(deps, app))


async def list_deployments(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The newest first."""
    app = await deps.registry.get(caller, params.app_id)
    rows = await deps.control.fetch(
        f"select {COLUMNS} from brolly.deployments where app_id = $1 order by created_at desc, id limit $2",
        app.id,
        LISTED,
    )
    live = await deployments.live_of(deps, app)
    return {
        "deployments": [shown(deps, app, deployment_of(row), live) for row in rows],
        "url": deps.settings.site_url(app.subdomain) if live else None,
    }


async def get_deployment(deps: Deps, caller: Caller, params: DeploymentRef) -> dict[str, Any]:
    """One of them."""
    app = await deps.registry.get(caller, params.app_id)
    return await _shown(deps, app, await deployments.find(deps, app, params.deployment_id))


async def promote(deps: Deps, caller: Caller, params: DeploymentRef) -> dict[str, Any]:
    """Make a finished deployment the live one."""
    app = await deps.registry.get(caller, params.app_id)
    found = await deployments.find(deps, app, params.deployment_id)
    if found.status != "READY":
        raise AppError(
            "STATE_INVALID_TRANSITION",
            f"The deployment is {found.status}; only one that is READY can be live.",
            remediation="Choose one that is READY from manage_frontend list_deployments.",
        )
    async with deps.control.acquire() as connection, connection.transaction():
        # Held until the switch, so that it is not removed meanwhile.
        if not await connection.fetchval("select 1 from brolly.deployments where id = $1 for share", found.id):
            raise deployments.missing(found.id)
        turn = await connection.fetchval("select nextval('brolly.deployment_turns')")
        await deployments.take_turn(connection, app.id, found.id, turn)
    await deps.registry.changed(app.id)
    return await _shown(deps, app, found)


async def rollback(deps: Deps, caller: Caller, params: Rollback) -> dict[str, Any]:
    """Make the one before the live one live again; once more leads forward again."""
    app = await deps.registry.get(caller, params.app_id)
    former = await deps.control.fetchval("select former_id from brolly.sites where app_id = $1", app.id)
    if former is None:
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "There is no earlier deployment to go back to.",
            remediation="See manage_frontend list_deployments; promote makes any that is READY live.",
        )
    return await promote(deps, caller, DeploymentRef(app_id=app.id, deployment_id=str(former)))


async def cancel_deployment(deps: Deps, caller: Caller, params: DeploymentRef) -> dict[str, Any]:
    """End one that waits or is at work; what is live stays."""
    app = await deps.registry.get(caller, params.app_id)
    found = await deployments.find(deps, app, params.deployment_id)
    row = await deps.control.fetchrow(
        "update brolly.deployments set status = 'CANCELED', completed_at = now(), updated_at = now(), "
        f"lease_until = null where id = $1 and status in ('WAITING', 'UPLOADING', 'BUILDING') returning {COLUMNS}",
        found.id,
    )
    if row is None:
        raise AppError(
            "STATE_INVALID_TRANSITION",
            f"The deployment is {found.status} and can no longer be canceled.",
            remediation="See manage_frontend list_deployments; rollback leads back to the one before.",
        )
    return await _shown(deps, app, deployment_of(row))


async def delete_deployment(deps: Deps, caller: Caller, params: DeploymentRef) -> dict[str, Any]:
    """Remove one that is not live."""
    app = await deps.registry.get(caller, params.app_id)
    found = await deployments.find(deps, app, params.deployment_id)
    row = await deps.control.fetchrow(
        "delete from brolly.deployments d where d.id = $1 "
        "and not exists (select 1 from brolly.sites s where s.deployment_id = d.id) returning d.upload_key",
        found.id,
    )
    if row is None:
        raise AppError(
            "RESOURCE_CONFLICT",
            "The deployment is live.",
            remediation="Make another one live first, with manage_frontend promote or rollback.",
        )
    await deps.blob.delete([row["upload_key"]] if row["upload_key"] else [])
    await deps.registry.changed(app.id)
    await retention.sweep(deps)
    return {"deleted": True, "deployment_id": str(found.id)}
