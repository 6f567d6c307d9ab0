"""Builds as they are kept: what was asked for, who works on it, what it printed.

A build's outcome is its deployment's (``BUILDING``, then ``READY``, ``ERROR`` or ``CANCELED``); the row here says
whether it waits, runs or is over, and how to repeat it when the server that ran it is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.hosting.deployments import LEASE_SECONDS
from brolly.registry import App

MOST_ATTEMPTS = 2
MOST_LINES = 5000
LONGEST_LINE = 2000
State = Literal["WAITING", "QUEUED", "RUNNING", "DONE"]

_CLAIM = (
    "with next as (select b.id from brolly.builds b join brolly.deployments d on d.id = b.deployment_id "
    "where d.status = 'BUILDING' and (b.state = 'QUEUED' or (b.state = 'RUNNING' and d.lease_until < now())) "
    # An app that has one at work waits behind those that have none.
    "order by (select count(*) from brolly.builds o where o.app_id = b.app_id and o.state = 'RUNNING'), b.queued_at "
    "limit 1 for update of b skip locked) "
    "update brolly.builds b set state = 'RUNNING', attempts = b.attempts + 1, started_at = now() "
    "from next where b.id = next.id "
    "returning b.id, b.deployment_id, b.app_id, b.options::text, b.environment, b.attempts"
)


@dataclass(frozen=True, slots=True)
class Build:
    """One build that was taken to be done. ``environment`` is sealed."""

    id: UUID
    deployment_id: UUID
    app_id: str
    options: Mapping[str, Any]
    environment: bytes | None
    attempts: int


async def create(deps: Deps, app: App, deployment_id: UUID) -> UUID:
    """The build of a new deployment, which waits for its source."""
    return await deps.control.fetchval(
        "insert into brolly.builds (deployment_id, app_id) values ($1, $2) returning id", deployment_id, app.id
    )


async def find(deps: Deps, app: App, build_id: UUID) -> Any:
    """The build's row with its deployment's status and error; raises ``RESOURCE_NOT_FOUND``."""
    row = await deps.control.fetchrow(
        "select b.id, b.deployment_id, b.state, b.cached, d.status, d.error from brolly.builds b "
        "join brolly.deployments d on d.id = b.deployment_id where b.app_id = $1 and (b.id = $2 or d.id = $2)",
        app.id,
        build_id,
    )
    if row is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"The app has no build {build_id}.",
            remediation="Call manage_frontend list_deployments for the ids; create_from_source makes a new one.",
        )
    return row


async def queue(deps: Deps, deployment_id: UUID, options: Mapping[str, Any], environment: bytes | None) -> UUID | None:
    """Put the deployment's build, which was begun, in the queue; its id. None when it has none."""
    return await deps.control.fetchval(
        "update brolly.builds set state = 'QUEUED', options = $2, environment = $3, queued_at = now() "
        "where deployment_id = $1 and state = 'WAITING' returning id",
        deployment_id,
        json.dumps(options),
        environment,
    )


async def claim(deps: Deps) -> Build | None:
    """Take the next one: the longest waiting, or one whose server is gone."""
    async with deps.control.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_CLAIM)
        if row is None:
            return None
        await connection.execute(
            "update brolly.deployments set lease_until = now() + make_interval(secs => $2) where id = $1",
            row["deployment_id"],
            float(LEASE_SECONDS),
        )
    return Build(**{**dict(row), "options": json.loads(row["options"])})


async def end(deps: Deps, build: Build, *, cached: bool) -> None:
    """It is over, however it ended."""
    await deps.control.execute(
        "update brolly.builds set state = 'DONE', cached = $2, ended_at = now(), environment = null where id = $1",
        build.id,
        cached,
    )


async def put_back(deps: Deps, build: Build) -> None:
    """Nobody works on it any more, through no fault of its own; if it was canceled, that stands."""
    await deps.control.execute(
        "update brolly.builds set state = 'QUEUED', attempts = attempts - 1 where id = $1 and state = 'RUNNING'",
        build.id,
    )


async def is_wanted(deps: Deps, build: Build) -> bool:
    """Whether it is still to be done: nobody canceled it, and the app is there."""
    status = await deps.control.fetchval("select status from brolly.deployments where id = $1", build.deployment_id)
    return status == "BUILDING"


async def forget_lines(deps: Deps, build: Build) -> None:
    """A build that is done again says all of it again."""
    await deps.control.execute("delete from brolly.build_lines where build_id = $1", build.id)


async def write_lines(deps: Deps, build: Build, first: int, lines: Sequence[str]) -> None:
    """Keep lines, numbered on from the first's number."""
    await deps.control.execute(
        "insert into brolly.build_lines (build_id, number, text) "
        "select $1, $2 + o - 1, t from unnest($3::text[]) with ordinality as l (t, o) on conflict do nothing",
        build.id,
        first,
        list(lines),
    )


async def read_lines(deps: Deps, build_id: UUID, after: int, most: int) -> list[tuple[int, str]]:
    """Lines with a higher number than that, in order."""
    rows = await deps.control.fetch(
        "select number, text from brolly.build_lines where build_id = $1 and number > $2 order by number limit $3",
        build_id,
        after,
        most,
    )
    return [(row["number"], row["text"]) for row in rows]
