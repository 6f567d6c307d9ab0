"""Which apps exist and who may manage them. The only way to an ``App``, and so to its pools."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.pg.listen import Listener
from brolly.pg.pool import Database

CHANNEL = "brolly_apps"

COLUMNS = (
    "id, account_id::text, name, subdomain, db_name, region, status, access_mode, allowed_origins, "
    "storage_config::text, jwt_config::text, auth_hook_function, visibility, listed, "
    "paused_at, paused_reason, created_at, updated_at, ai_config::text, ai_key"
)


@dataclass(frozen=True, slots=True)
class App:
    """One app's row in the control database."""

    id: str
    account_id: str
    name: str
    subdomain: str
    db_name: str
    region: str
    status: Literal["provisioning", "ready", "deleting"]
    access_mode: Literal["public", "authenticated"]
    allowed_origins: tuple[str, ...]
    storage_config: dict[str, Any]
    jwt_config: dict[str, Any]
    auth_hook_function: str | None
    visibility: str
    listed: bool
    paused_at: datetime | None
    paused_reason: str | None
    created_at: datetime
    updated_at: datetime
    ai_config: dict[str, Any] = field(default_factory=dict[str, Any])
    ai_key: bytes | None = field(default=None, repr=False)
    """The owner's key to a model provider, sealed."""


def app_of(row: Any) -> App:
    """The record of a row selected with this module's columns."""
    values = dict(row)
    values["allowed_origins"] = tuple(values["allowed_origins"])
    for name in ("storage_config", "jwt_config", "ai_config"):
        values[name] = json.loads(values[name])
    return App(**values)


def not_found(app_id: str) -> AppError:
    """The answer for an app that does not exist, and for somebody else's."""
    return AppError("RESOURCE_NOT_FOUND", f"There is no app {app_id!r} for this key.")


class Registry:
    """Looks apps up for callers, from memory while the listener is healthy."""

    def __init__(self, control: Database, listener: Listener) -> None:
        self._control = control
        self._listener = listener
        self._known: dict[str, App] = {}
        self._heard = 0
        self._watchers: list[Callable[[str], None]] = []
        listener.on(CHANNEL, self._forget)

    def _forget(self, app_id: str) -> None:
        self._heard += 1
        if app_id:
            self._known.pop(app_id, None)
        else:
            self._known.clear()
        for watcher in self._watchers:
            watcher(app_id)

    @contextmanager
    def watched(self, watcher: Callable[[str], None]) -> Generator[None]:
        """For the block: tell of each app that changed, here or on another replica; ``""`` is any of them."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    async def changed(self, app_id: str) -> None:
        """Tell every replica to read this app again."""
        self._forget(app_id)
        await self._control.execute("select pg_notify($1, $2)", CHANNEL, app_id)

    async def find(self, app_id: str) -> App | None:
        """The app, whoever asks; None when there is none. For the platform itself, not for callers."""
        if self._listener.healthy and (known := self._known.get(app_id)):
            return known
        heard = self._heard
        row = await self._control.fetchrow(f"select {COLUMNS} from brolly.apps where id = $1", app_id)
        if row is None:
            return None
        app = app_of(row)
        # What was read before a change was announced must not be kept after it.
        if self._listener.healthy and heard == self._heard:
            self._known[app_id] = app
        return app

    def is_current(self, app: App) -> bool:
        """Whether ``find`` would give this very record, without asking Postgres."""
        return self._listener.healthy and self._known.get(app.id) is app

    async def get(self, caller: Caller, app_id: str) -> App:
        """The app, for management. Raises ``RESOURCE_NOT_FOUND`` unless this caller may manage it."""
        app = await self.find(app_id)
        if app is None or not caller.may_see(app.id, app.account_id):
            raise await self._missing(caller, app_id)
        return self._ready(app)

    async def _missing(self, caller: Caller, app_id: str) -> AppError:
        """As ``not_found``; tells the id to a caller who sends the name of one of their own apps."""
        own = None
        if caller.kind == "service" and not app_id.startswith("app_"):
            own = await self._control.fetchval(
                "select id from brolly.apps where account_id = $1 and name = $2 and status <> 'deleting'",
                caller.account_id,
                app_id.strip().lower().replace(" ", "-"),
            )
        if own is None or not caller.may_see(own, caller.account_id or ""):
            return not_found(app_id)
        return AppError(
            "RESOURCE_NOT_FOUND",
            f"{app_id!r} is an app's name; its id is {own}.",
            remediation=f"Repeat the call with app_id {own}; manage_app list shows the ids of all apps.",
        )

    def _ready(self, app: App) -> App:
        if app.status == "deleting":
            raise AppError("APP_DELETING", f"The app {app.id} is being deleted.")
        if app.status == "provisioning":
            raise AppError("APP_PROVISIONING", f"The app {app.id} is still being created.", retry_after=1)
        return app

    async def serving(self, caller: Caller, app_id: str) -> App:
        """As ``get``, for data: also raises ``APP_PAUSED`` for a paused app."""
        return self._running(await self.get(caller, app_id))

    async def open(self, caller: Caller, app_id: str) -> App:
        """The app, for whoever uses its data: a key that may manage it, a user of this app, or anybody without
        credentials where the access mode is public."""
        if caller.kind == "service":
            return await self.serving(caller, app_id)
        if caller.kind == "user" and caller.claims.get("app_id") != app_id:
            raise AppError("AUTH_INVALID_END_USER_JWT", "This access token is not for this app.")
        app = await self.find(app_id)
        if app is None:
            raise not_found(app_id)
        app = self._running(self._ready(app))
        if caller.kind == "anonymous" and app.access_mode == "authenticated":
            raise AppError(
                "AUTH_REQUIRED",
                f"The access mode of {app_id} is authenticated, so anonymous callers are refused.",
                remediation="Sign in and send the access token, or open the app with manage_app, action "
                "update_access_mode.",
            )
        return app

    def _running(self, app: App) -> App:
        if app.paused_at is not None:
            raise AppError(
                "APP_PAUSED",
                f"The app {app.id} is paused" + (f": {app.paused_reason}" if app.paused_reason else "."),
                details={"paused_reason": app.paused_reason},
                retry_after=60,
            )
        return app
