"""The way into an app for its end users, and to the schema that holds them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.databases import AUTH_ROLE
from brolly.pg.pool import Connection
from brolly.pg.session import as_platform
from brolly.registry import App

SIGN_IN = "Sign in at POST /auth/{app_id}/login and send its access_token; manage_auth_users list shows who can."


async def open_app(deps: Deps, app_id: str) -> App:
    """The app whose users ask. Raises as for data: unknown, not ready, paused."""
    app = await deps.registry.find(app_id)
    if app is None:
        raise AppError("RESOURCE_NOT_FOUND", f"There is no app {app_id!r}.")
    if app.status == "deleting":
        raise AppError("APP_DELETING", f"The app {app_id} is being deleted.")
    if app.status == "provisioning":
        raise AppError("APP_PROVISIONING", f"The app {app_id} is still being created.", retry_after=1)
    if app.paused_at is not None:
        raise AppError(
            "APP_PAUSED",
            f"The app {app_id} is paused.",
            details={"paused_reason": app.paused_reason},
            retry_after=60,
        )
    return app


@asynccontextmanager
async def users_of(deps: Deps, app: App, *, durable: bool = True) -> AsyncGenerator[Connection]:
    """A connection in a transaction that may read and write the app's schema ``auth``."""
    async with as_platform(deps.pools.door(app), AUTH_ROLE, durable=durable) as connection:
        yield connection


def require_user(caller: Caller, app: App) -> str:
    """The id of the signed-in user of this app. Raises for everybody else, users of other apps included."""
    if caller.kind != "user" or caller.user_id is None:
        raise AppError("AUTH_REQUIRED", "This needs a signed-in user's access token.", remediation=SIGN_IN)
    if caller.claims.get("app_id") != app.id:
        raise AppError("AUTH_INVALID_END_USER_JWT", "The access token is for another app.")
    return caller.user_id


def shown_user(row: Any) -> dict[str, Any]:
    """A user as it goes into a session."""
    return {
        "id": str(row["id"]),
        "email": row["email"],
        "email_verified": row["email_verified"],
        "display_name": row["display_name"],
        "avatar_url": row["avatar_url"],
    }
