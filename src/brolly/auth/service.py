"""Signing up, in and out. Codes by mail are in ``recovery``, second factors in ``mfa``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from brolly.auth.access import open_app, require_user, shown_user, users_of
from brolly.auth.addresses import mailbox
from brolly.auth.entry import answer, enter
from brolly.auth.events import note
from brolly.auth.hook import keep_hook
from brolly.auth.limits import admit
from brolly.auth.mail import send_code
from brolly.auth.passwords import check_password, check_rules, hash_password
from brolly.auth.sessions import USER, end_sessions, rotate, token_set
from brolly.auth.signing import claimed_app, published, verify
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App

_METADATA_LIMIT = 8192


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the messages to send once it has gone out: nobody may tell from its time if there are any."""

    body: dict[str, Any]
    app: App
    mail: tuple[int, ...] = ()


class Signup(AppParams):
    """Body of signup."""

    email: str = Field(max_length=1000)
    password: str
    display_name: str | None = Field(None, max_length=200)
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > _METADATA_LIMIT:
            raise ValueError(f"longer than {_METADATA_LIMIT} characters as JSON")
        return value


class Login(AppParams):
    """Body of login."""

    email: str = Field(max_length=1000)
    password: str


class Refresh(AppParams):
    """Body of refresh."""

    refresh_token: str = Field(max_length=1000)


async def sign_up(deps: Deps, caller: Caller, params: Signup) -> Reply:
    """Make an account. Its address is unverified; it may sign in."""
    app = await open_app(deps, params.app_id)
    email = mailbox(params.email)
    check_rules(params.password)
    await admit(deps, app, caller, "signup", email)
    hashed = await hash_password(deps, params.password)
    async with users_of(deps, app) as connection:
        user = await connection.fetchrow(
            "insert into auth.users (email, password_hash, display_name, metadata) values ($1, $2, $3, $4::jsonb) "
            f"on conflict (email) do nothing returning {USER}",
            email,
            hashed,
            params.display_name or _name_in(params.metadata),
            json.dumps(params.metadata),
        )
        mail = () if user is None else (await send_code(deps, app, connection, user, "verify_email"),)
        set_off = await keep_hook(deps, app, connection, "signup", user, when=user is not None, new=True)
    if user is None:
        await note(deps, app, caller, "signup", error="RESOURCE_ALREADY_EXISTS")
        raise AppError("RESOURCE_ALREADY_EXISTS", "User already exists")
    await note(deps, app, caller, "signup", str(user["id"]))
    set_off()
    shown = shown_user(user)
    del shown["avatar_url"]
    return Reply({"user": shown, "message": "A code to confirm the address was sent to it."}, app, mail)


def _name_in(metadata: dict[str, Any]) -> str | None:
    name = metadata.get("display_name", metadata.get("displayName"))
    return name[:200] if isinstance(name, str) and name else None


async def log_in(deps: Deps, caller: Caller, params: Login) -> Reply:
    """A session for the right password. An unknown account gets the same answer, after the same work."""
    app = await open_app(deps, params.app_id)
    email = mailbox(params.email)
    await admit(deps, app, caller, "login", email)
    async with users_of(deps, app) as connection:
        user = await connection.fetchrow(f"select {USER}, password_hash from auth.users where email = $1", email)
    right, stale = await check_password(deps, user["password_hash"] if user else None, params.password)
    if user is None or not right:
        await note(deps, app, caller, "login", str(user["id"]) if user else None, error="AUTH_INVALID_CREDENTIALS")
        raise AppError("AUTH_INVALID_CREDENTIALS", "Invalid credentials")
    renewed = await hash_password(deps, params.password) if stale else None
    async with users_of(deps, app) as connection:
        # The password may have been changed, or the account disabled, while this one was checked.
        user = await connection.fetchrow(
            f"select {USER} from auth.users where id = $1 and password_hash = $2 for no key update",
            user["id"],
            user["password_hash"],
        )
        if user is None:
            raise AppError("AUTH_INVALID_CREDENTIALS", "Invalid credentials")
        if renewed is not None:
            await connection.execute("update auth.users set password_hash = $2 where id = $1", user["id"], renewed)
        entry = await enter(deps, app, caller, connection, user, counted=True)
        set_off = await keep_hook(deps, app, connection, "login", user, when=entry.grant is not None)
    body = await answer(deps, app, user, entry)
    await note(deps, app, caller, "login", str(user["id"]))
    set_off()
    return Reply(body, app)


async def refresh(deps: Deps, caller: Caller, params: Refresh) -> Reply:
    """The next pair of tokens; the old refresh token is used up."""
    app = await open_app(deps, params.app_id)
    await admit(deps, app, caller, "refresh")
    async with users_of(deps, app) as connection:
        found = await rotate(connection, app, params.refresh_token)
    if found is None:
        await note(deps, app, caller, "refresh", error="AUTH_INVALID_REFRESH_TOKEN")
        raise AppError("AUTH_INVALID_REFRESH_TOKEN", "Invalid or expired refresh token")
    return Reply(await token_set(deps, app, *found), app)


async def log_out(deps: Deps, caller: Caller, params: AppParams) -> Reply:
    """End every session of the user who asks."""
    app = await open_app(deps, params.app_id)
    user_id = require_user(caller, app)
    async with users_of(deps, app) as connection:
        await end_sessions(connection, user_id)
    await note(deps, app, caller, "logout", user_id)
    return Reply({"message": "Signed out everywhere."}, app)


async def get_me(deps: Deps, caller: Caller, params: AppParams) -> Reply:
    """The user who asks."""
    app = await open_app(deps, params.app_id)
    user_id = require_user(caller, app)
    async with users_of(deps, app) as connection:
        row = await connection.fetchrow(
            f"select {USER}, metadata::text, created_at, last_sign_in_at from auth.users where id = $1",
            user_id,
        )
    if row is None or row["disabled_at"] is not None:
        raise AppError("RESOURCE_NOT_FOUND", "This user no longer exists, or is disabled.")
    return Reply(
        {
            **shown_user(row),
            "provider": row["provider"],
            "metadata": json.loads(row["metadata"]),
            "mfa_enabled": row["mfa_enabled_at"] is not None,
            "created_at": iso(row["created_at"]),
            "last_sign_in_at": iso(row["last_sign_in_at"]),
        },
        app,
    )


async def get_keys(deps: Deps, app_id: str) -> dict[str, Any]:
    """The app's published keys, for whoever verifies its tokens; also while it is paused."""
    app = await deps.registry.find(app_id)
    if app is None or app.status != "ready":
        raise AppError("RESOURCE_NOT_FOUND", f"There is no app {app_id!r}.")
    return await published(deps, app)


async def caller_of_token(deps: Deps, token: str, **origin: Any) -> Caller | None:
    """The end user whom an access token stands for; None when it is no end user's token at all."""
    app_id = claimed_app(token)
    if app_id is None:
        return None
    claims = await verify(deps, token, app_id)
    return Caller("user", user_id=str(claims["sub"]), claims=claims, **origin)
