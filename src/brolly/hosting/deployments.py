"""Deployments as they are kept: one row each, with the life cycle that all of them go through.

``WAITING`` (for its upload), ``UPLOADING`` (being unpacked and stored), ``BUILDING`` (source only, before that), then
``READY``, ``ERROR`` or ``CANCELED`` for good. What is live is a row of ``brolly.sites``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.deps import Deps
from brolly.hosting.addresses import preview_url
from brolly.pg.pool import Connection
from brolly.registry import App

Status = Literal["WAITING", "UPLOADING", "BUILDING", "READY", "ERROR", "CANCELED"]
Kind = Literal["files", "source"]
FRAMEWORKS = ("react-vite", "nextjs-static", "static", "other")
LEASE_SECONDS = 60
"""For how long the word of a working process is good; it renews it meanwhile."""
MOST_ATTEMPTS = 3
LISTED = 50

COLUMNS = (
    "id, app_id, slug, kind, framework, status, error, upload_key, upload_bytes, upload_expires_at, turn, attempts, "
    "root, warnings, file_count, total_bytes, created_at, started_at, completed_at, updated_at"
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment. ``upload_key`` is where its zip lies, ``root`` the folder of the zip that is served."""

    id: UUID
    app_id: str
    slug: str
    kind: Kind
    framework: str | None
    status: Status
    error: str | None
    upload_key: str | None
    upload_bytes: int | None
    upload_expires_at: datetime
    turn: int | None
    attempts: int
    root: str
    warnings: Sequence[str]
    file_count: int | None
    total_bytes: int | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


def deployment_of(row: Any) -> Deployment:
    """The record of a row selected with this module's columns."""
    return Deployment(**dict(row))


def missing(deployment_id: Any) -> AppError:
    """The answer for a deployment that the app has not, be it another app's."""
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"The app has no deployment {str(deployment_id)[:80]!r}.",
        remediation="Call manage_frontend list_deployments for the ids.",
    )


def id_of(text: str) -> UUID:
    """The id; what is none belongs to no deployment."""
    try:
        return UUID(text)
    except ValueError:
        raise missing(text) from None


async def create(deps: Deps, app: App, framework: str | None, kind: Kind, expires_s: int) -> Deployment:
    """A new deployment that waits for its upload."""
    row = await deps.control.fetchrow(
        "insert into brolly.deployments (app_id, slug, kind, framework, upload_expires_at) "
        f"values ($1, $2, $3, $4, now() + make_interval(secs => $5)) returning {COLUMNS}",
        app.id,
        secrets.token_hex(6),
        kind,
        framework,
        float(expires_s),
    )
    return deployment_of(row)


async def find(deps: Deps, app: App, deployment_id: str | UUID) -> Deployment:
    """The app's deployment; raises ``RESOURCE_NOT_FOUND``."""
    wanted = id_of(deployment_id) if isinstance(deployment_id, str) else deployment_id
    row = await deps.control.fetchrow(
        f"select {COLUMNS} from brolly.deployments where id = $1 and app_id = $2", wanted, app.id
    )
    if row is None:
        raise missing(deployment_id)
    return deployment_of(row)


async def begin(deps: Deps, app: App, deployment: Deployment, status: Status) -> Deployment:
    """Start it: it takes its turn, and this process the lease. Raises when it was started before, or cannot be."""
    row = await deps.control.fetchrow(
        "update brolly.deployments set status = $3, started_at = now(), turn = nextval('brolly.deployment_turns'), "
        "attempts = 1, lease_until = now() + make_interval(secs => $4), updated_at = now() "
        "where id = $1 and app_id = $2 and status = 'WAITING' and upload_key is not null "
        f"returning {COLUMNS}",
        deployment.id,
        app.id,
        status,
        float(LEASE_SECONDS),
    )
    if row is None:
        raise _cannot_start(await find(deps, app, deployment.id))
    return deployment_of(row)


def _cannot_start(now: Deployment) -> AppError:
    facts = {"deployment_id": str(now.id), "status": now.status}
    if now.status != "WAITING":
        return AppError(
            "STATE_INVALID_TRANSITION",
            f"The deployment is {now.status} and can be started only once.",
            remediation="See how it went with manage_frontend list_deployments; for new files call "
            "create_frontend_deployment.",
            details=facts,
        )
    return AppError(
        "STATE_PREREQUISITE_MISSING",
        "No zip was sent to this deployment's uploadUrl.",
        remediation="PUT the zip to its uploadUrl, then repeat manage_frontend start_deployment; if the URL has "
        "expired, call create_frontend_deployment for a new one.",
        details=facts,
    )


async def renew(deps: Deps, deployment_id: UUID) -> None:
    """Tell the other processes that this one is still at work."""
    await deps.control.execute(
        "update brolly.deployments set lease_until = now() + make_interval(secs => $2), updated_at = now() "
        "where id = $1 and status in ('UPLOADING', 'BUILDING')",
        deployment_id,
        float(LEASE_SECONDS),
    )


async def fail(deps: Deps, deployment_id: UUID, why: str) -> None:
    """End it with an error; what is live stays."""
    await deps.control.execute(
        "update brolly.deployments set status = 'ERROR', error = $2, completed_at = now(), updated_at = now(), "
        "lease_until = null where id = $1 and status in ('UPLOADING', 'BUILDING')",
        deployment_id,
        why[:4000],
    )


async def live_of(deps: Deps, app: App) -> UUID | None:
    """The deployment that the app's site shows."""
    return await deps.control.fetchval("select deployment_id from brolly.sites where app_id = $1", app.id)


async def take_turn(connection: Connection, app_id: str, deployment_id: UUID, turn: int) -> bool:
    """Make it the live one, in the caller's transaction; False when one that was started later is live already."""
    done = await connection.fetchval(
        "insert into brolly.sites as s (app_id, deployment_id, turn) values ($1, $2, $3) "
        "on conflict (app_id) do update set deployment_id = excluded.deployment_id, turn = excluded.turn, "
        "former_id = case when s.deployment_id = excluded.deployment_id then s.former_id else s.deployment_id end, "
        "switched_at = now() where s.turn < excluded.turn returning true",
        app_id,
        deployment_id,
        turn,
    )
    return bool(done)


def shown(deps: Deps, app: App, deployment: Deployment, live: UUID | None) -> dict[str, Any]:
    """A deployment as answers show it; in both spellings where clients differ."""
    preview = preview_url(deps.settings, deployment.slug, app.subdomain)
    is_live = deployment.id == live
    answer: dict[str, Any] = {
        "id": str(deployment.id),
        "deployment_id": str(deployment.id),
        "framework": deployment.framework,
        "status": deployment.status,
        "live": is_live,
        "url": deps.settings.site_url(app.subdomain) if is_live else preview,
        "preview_url": preview,
        "error": deployment.error,
        "fileCount": deployment.file_count,
        "totalSizeBytes": deployment.total_bytes,
        "createdAt": iso(deployment.created_at),
        "startedAt": iso(deployment.started_at),
        "completedAt": iso(deployment.completed_at),
        "updatedAt": iso(deployment.updated_at),
    }
    if deployment.status != "READY":
        answer |= {"url": None, "preview_url": None}
    if deployment.root:
        answer["root"] = deployment.root
    if deployment.warnings:
        answer["warnings"] = list(deployment.warnings)
    return answer
