"""Making and removing an app's database so that a kill at any moment leaves a whole app or nothing.

The row is the promise: written first as ``provisioning``, last set to ``ready``. Whoever works
on an app holds an advisory lock of the control database; a row without a holder belongs to a
process that died, and the sweep finishes or undoes its work.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Any

import anyio

from brolly.core.errors import AppError
from brolly.core.tokens import new_app_id
from brolly.deps import Deps
from brolly.pg.locks import advisory_lock
from brolly.pg.pool import Connection
from brolly.registry import App

log = logging.getLogger("brolly.apps")

_WORDS = ("app", "hub", "lab", "now", "base", "works", "space", "house")
WAIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Wish:
    """The app that somebody asks for; ``subdomain`` only if they chose one."""

    account_id: str
    name: str
    region: str
    subdomain: str | None


async def create(deps: Deps, account_id: str, name: str, region: str, subdomain: str | None = None) -> tuple[str, bool]:
    """The id of the account's app of that name, and whether it was made now.

    Raises ``RESOURCE_CONFLICT`` when a ``subdomain`` was asked for and another app has it.
    """
    wish = Wish(account_id, name, region, subdomain)
    with anyio.move_on_after(WAIT_SECONDS):
        while True:
            app_id = new_app_id()
            # Once begun it is finished, even when the client has gone: half an app helps nobody.
            with anyio.CancelScope(shield=True):
                if await _create(deps, app_id, wish):
                    return app_id, True
            row = await deps.control.fetchrow(
                "select id, status from brolly.apps where account_id = $1 and name = $2", account_id, name
            )
            if row is not None and row["status"] == "ready":
                return row["id"], False
            # Another call is making it: the name decides who wins, so wait for the outcome. If that call's
            # process has died, nobody but us may be there to clear away what it left.
            if row is None or not await _clear(deps, row["id"], row["status"]):
                await anyio.sleep(0.05)
    raise AppError("APP_PROVISIONING", f"Another call is still creating the app {name}.", retry_after=2)


async def _create(deps: Deps, app_id: str, wish: Wish) -> bool:
    async with deps.databases.at_work, deps.control.acquire() as connection, advisory_lock(connection, app_id):
        if not await _promise(deps, connection, app_id, wish):
            return False
        try:
            await deps.databases.create_database(connection, app_id)
            for part in deps.slices:
                if part.app_created is not None:
                    await part.app_created(deps, await deps.registry.find(app_id))
            await connection.execute(
                "update brolly.apps set status = 'ready', app_version = $2, updated_at = now() where id = $1",
                app_id,
                deps.databases.app_version,
            )
        except Exception:
            await _remove(deps, connection, app_id)
            raise
        await deps.registry.changed(app_id)
        return True


async def _promise(deps: Deps, connection: Connection, app_id: str, wish: Wish) -> bool:
    """The row and the logins in one transaction; False when the account has an app of that name."""
    for _ in range(5):
        subdomain = wish.subdomain or await _free_subdomain(connection, wish.name)
        async with connection.transaction():
            made = await connection.fetchval(
                "insert into brolly.apps (id, account_id, name, subdomain, db_name, region, status) "
                "values ($1, $2, $3, $4, $1, $5, 'provisioning') on conflict do nothing returning id",
                app_id,
                wish.account_id,
                wish.name,
                subdomain,
                wish.region,
            )
            if made is not None:
                await deps.databases.create_logins(connection, app_id)
                return True
        if await connection.fetchval(
            "select 1 from brolly.apps where account_id = $1 and name = $2", wish.account_id, wish.name
        ):
            return False
        if wish.subdomain is not None:
            raise AppError(
                "RESOURCE_CONFLICT",
                f"The subdomain {wish.subdomain} is taken.",
                remediation="Repeat the call with another subdomain, or leave it to init_app to choose one.",
            )
        # Otherwise the subdomain went to another app in between.
    raise RuntimeError("no free subdomain found")


async def _free_subdomain(connection: Connection, name: str) -> str:
    base = name.replace("_", "-").strip("-")[:48] or "app"
    tries = [base, *(f"{base}-{word}" for word in _WORDS), f"{base}-{secrets.randbelow(10**8)}"]
    taken = await connection.fetch("select subdomain from brolly.apps where subdomain = any($1)", tries)
    used = {row["subdomain"] for row in taken}
    return next(t for t in tries if t not in used)


async def delete(deps: Deps, app: App) -> None:
    """Remove the app for good: no new work reaches it, then database, hooks, row."""
    with anyio.CancelScope(shield=True):
        async with deps.databases.at_work, deps.control.acquire() as connection, advisory_lock(connection, app.id):
            # The name and the subdomain are free again at once.
            await connection.execute(
                "update brolly.apps set status = 'deleting', name = name || '~' || id, "
                "subdomain = subdomain || '~' || id, updated_at = now() where id = $1 and status = 'ready'",
                app.id,
            )
            await deps.registry.changed(app.id)
            await _remove(deps, connection, app.id)


async def _remove(deps: Deps, connection: Connection, app_id: str) -> None:
    app = await deps.registry.find(app_id)
    await deps.pools.forget(app_id)
    deps.catalog.forget(app_id)
    await deps.databases.drop_database(connection, app_id)
    for part in deps.slices:
        if part.app_deleted is not None:
            await part.app_deleted(deps, app)
    await connection.execute("delete from brolly.apps where id = $1", app_id)
    await deps.registry.changed(app_id)


async def sweep(deps: Deps) -> list[str]:
    """Undo or finish what died half-way; the ids of the apps cleared away."""
    rows: list[Any] = await deps.control.fetch("select id, status from brolly.apps where status <> 'ready'")
    return [str(row["id"]) for row in rows if await _clear(deps, str(row["id"]), row["status"])]


async def unfinished(deps: Deps) -> int:
    """How many apps are being made or removed, by the living or the dead."""
    return await deps.control.fetchval("select count(*) from brolly.apps where status <> 'ready'")


async def _clear(deps: Deps, app_id: str, status: str) -> bool:
    """Remove what is left of an app that nobody works on; False when somebody does."""
    async with (
        deps.databases.at_work,
        deps.control.acquire() as connection,
        advisory_lock(connection, app_id, wait=False) as held,
    ):
        # Only under the lock is the status certain: somebody may be at work, or have finished meanwhile.
        if not held or not await connection.fetchval(
            "select 1 from brolly.apps where id = $1 and status <> 'ready'", app_id
        ):
            return False
        await _remove(deps, connection, app_id)
        log.warning("cleared away app %s, left %s by a process that died", app_id, status)
        return True


async def migrate_all(deps: Deps) -> dict[str, list[str]]:
    """Bring every app's database up to date; what was applied, by app id."""
    rows = await deps.control.fetch(
        "select id from brolly.apps where status = 'ready' and app_version < $1 order by created_at",
        deps.databases.app_version,
    )
    applied: dict[str, list[str]] = {}
    failures: list[Exception] = []
    for row in rows:
        app_id = str(row["id"])
        try:
            applied[app_id] = await deps.databases.migrate_database(app_id)
        except Exception as error:
            # One database that cannot be changed must not keep the others behind.
            log.error("app %s could not be brought up to date: %s", app_id, error)
            failures.append(error)
            continue
        await deps.control.execute(
            "update brolly.apps set app_version = $2 where id = $1", app_id, deps.databases.app_version
        )
    if failures:
        raise failures[0]
    return applied
