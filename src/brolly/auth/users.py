"""The app's users, for its owner: look, disable, unlock, delete, bring along from elsewhere."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, ValidationError, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.auth import mfa
from brolly.auth.access import users_of
from brolly.auth.addresses import normal_address
from brolly.auth.identities import identities_of
from brolly.auth.limits import forgive, locked_until
from brolly.auth.passwords import is_known_hash
from brolly.auth.sessions import end_sessions
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.page_cursor import read_cursor, write_cursor
from brolly.core.times import iso
from brolly.core.tool import AppParams, Params
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App

_COLUMNS = (
    "id, email, email_verified, display_name, avatar_url, provider, provider_uid, metadata::text, disabled_at, "
    "mfa_enabled_at, last_sign_in_at, created_at"
)
_IMPORT = (
    "insert into auth.users (id, email, email_verified, display_name, password_hash, metadata, created_at) "
    "values (coalesce($1, gen_random_uuid()), $2, $3, $4, $5, $6::jsonb, coalesce($7, now())) "
    "on conflict do nothing returning id"
)


class ListUsers(AppParams):
    """Parameters of list."""

    limit: SkipJsonSchema[int] = Field(50, ge=1, le=200)
    cursor: str | None = None
    # Taken, but not told of: the list of tools has to stay short, and the tool's page says it.
    email: SkipJsonSchema[str | None] = None


class UserRef(AppParams):
    """Parameters of what concerns one user."""

    user_id: str


class Changes(Params):
    """What may be changed, by the names that get shows it under. A lock and a second factor can only be removed."""

    disabled: bool | None = None
    email_verified: bool | None = None
    locked: Literal[False] | None = None
    mfa_enabled: Literal[False] | None = None


class UpdateUser(UserRef):
    """Parameters of update."""

    set: dict[str, Any]


class ImportedUser(Params):
    """A user as another system had it. Without a hash it signs in by mail, or sets a password by mail first."""

    email: str
    password_hash: str | None = None
    id: UUID | None = None
    email_verified: bool = False
    display_name: str | None = Field(None, max_length=200)
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])
    created_at: datetime | None = None

    @field_validator("password_hash")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and not is_known_hash(value):
            raise ValueError("neither argon2id, bcrypt nor $fbscrypt$ of an accepted cost")
        return value


class ImportUsers(AppParams):
    """Parameters of import."""

    users: list[dict[str, Any]] = Field(min_length=1, max_length=500)


class Outbox(AppParams):
    """Parameters of outbox."""

    limit: SkipJsonSchema[int] = Field(20, ge=1, le=200)


def _not_found(user_id: str) -> AppError:
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"There is no user {user_id!r} in this app.",
        remediation="Call manage_auth_users with action list for the ids of the users that exist.",
    )


def _id(user_id: str) -> UUID:
    try:
        return UUID(user_id)
    except ValueError:
        raise _not_found(user_id) from None


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "email": row["email"],
        "display_name": row["display_name"],
        "provider": row["provider"],
        "provider_uid": row["provider_uid"],
        "email_verified": row["email_verified"],
        "mfa_enabled": row["mfa_enabled_at"] is not None,
        "disabled": row["disabled_at"] is not None,
        "last_sign_in_at": iso(row["last_sign_in_at"]),
        "created_at": iso(row["created_at"]),
    }


async def list_users(deps: Deps, caller: Caller, params: ListUsers) -> dict[str, Any]:
    """The users, newest first."""
    app = await deps.registry.get(caller, params.app_id)
    where, args = ["true"], list[Any]()
    if params.cursor is not None:
        args += read_cursor(
            params.cursor, remediation="Call manage_auth_users list without cursor, then with each next_cursor."
        )
        where.append("(created_at, id) < ($1, $2)")
    if params.email is not None:
        args.append(normal_address(params.email))
        where.append(f"email = ${len(args)}")
    async with users_of(deps, app) as connection:
        rows = await connection.fetch(
            f"select {_COLUMNS} from auth.users where {' and '.join(where)} "
            f"order by created_at desc, id desc limit ${len(args) + 1}",
            *args,
            params.limit + 1,
        )
    page = rows[: params.limit]
    following = write_cursor(page[-1]["created_at"], page[-1]["id"]) if len(rows) > params.limit else None
    return {"untrusted": True, "users": [_shown(row) for row in page], "next_cursor": following}


async def _find(connection: Connection, user_id: str) -> Any:
    row = await connection.fetchrow(f"select {_COLUMNS} from auth.users where id = $1", _id(user_id))
    if row is None:
        raise _not_found(user_id)
    return row


async def get_user(deps: Deps, caller: Caller, params: UserRef) -> dict[str, Any]:
    """One user, with what hinders signing in."""
    app = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        row = await _find(connection, params.user_id)
        locked = await locked_until(deps, app, connection, row["email"])
        sessions = await connection.fetchval(
            "select count(*) from auth.sessions where user_id = $1 and expires_at > now()", row["id"]
        )
        has_password = await connection.fetchval(
            "select password_hash is not null from auth.users where id = $1", row["id"]
        )
        identities = await identities_of(connection, row["id"])
    user = {
        **_shown(row),
        "avatar_url": row["avatar_url"],
        "metadata": json.loads(row["metadata"]),
        "has_password": has_password,
        "identities": identities,
        "sessions": sessions,
        "locked": locked is not None,
        "locked_until": iso(locked),
    }
    return {"untrusted": True, "user": user}


async def what_delete_loses(deps: Deps, caller: Caller, params: UserRef) -> str | None:
    """The question before a user is deleted."""
    found = (await get_user(deps, caller, params))["user"]
    return (
        f"Delete user {found['email']} for good, with {found['sessions']} sessions? "
        "Rows that belong to the user stay in the app's tables."
    )


async def delete_user(deps: Deps, caller: Caller, params: UserRef) -> dict[str, Any]:
    """Delete a user with every session. Access tokens already issued hold until they expire."""
    app = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        row = await _find(connection, params.user_id)
        await connection.execute("delete from auth.users where id = $1", row["id"])
    return {"deleted": True, "user_id": str(row["id"]), "email": row["email"]}


async def update_user(deps: Deps, caller: Caller, params: UpdateUser) -> dict[str, Any]:
    """Disable a user (which ends every session) or enable, confirm the address, lift a lock, remove a second factor."""
    app = await deps.registry.get(caller, params.app_id)
    changes = _read_changes(params.set)
    async with users_of(deps, app) as connection:
        row = await _find(connection, params.user_id)
        await connection.execute(
            "update auth.users set updated_at = now(), email_verified = coalesce($2, email_verified), disabled_at = "
            "case when $3 then coalesce(disabled_at, now()) when not $3 then null else disabled_at end where id = $1",
            row["id"],
            changes.email_verified,
            changes.disabled,
        )
        if changes.disabled:
            await end_sessions(connection, row["id"])
        if changes.locked is False:
            await forgive(deps, app, connection, row["email"])
        if changes.mfa_enabled is False:
            await mfa.clear(connection, row["id"])
    return await get_user(deps, caller, params)


def _read_changes(given: dict[str, Any]) -> Changes:
    try:
        changes = Changes.model_validate(given)
    except ValidationError as error:
        issues = _issues("set", error)
    else:
        if changes.model_dump(exclude_none=True):
            return changes
        issues = ["set is empty"]
    raise AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"manage_auth_users update: {'; '.join(issues)}.",
        remediation="Call manage_auth_users update with set holding disabled, email_verified, locked: false or "
        "mfa_enabled: false.",
        details={"issues": issues, "allowed": list(Changes.model_fields)},
    )


async def import_users(deps: Deps, caller: Caller, params: ImportUsers) -> dict[str, Any]:
    """Add users with their hashes; all whose form is wrong are named before any is added."""
    app = await deps.registry.get(caller, params.app_id)
    users = _read_users(params.users)
    skipped: list[dict[str, Any]] = []
    async with users_of(deps, app) as connection:
        for index, (email, user) in enumerate(users):
            made = await connection.fetchval(
                _IMPORT,
                user.id,
                email,
                user.email_verified,
                user.display_name,
                user.password_hash,
                json.dumps(user.metadata),
                user.created_at,
            )
            if made is None:
                skipped.append({"index": index, "email": email, "reason": "a user with this address or id exists"})
    return {"imported": len(users) - len(skipped), "skipped": skipped}


def _read_users(given: list[dict[str, Any]]) -> list[tuple[str, ImportedUser]]:
    users: list[tuple[str, ImportedUser]] = []
    issues: list[str] = []
    for index, values in enumerate(given):
        try:
            user = ImportedUser.model_validate(values)
            users.append((normal_address(user.email), user))
        except AppError as error:
            issues.append(f"users.{index}: {error.message}")
        except ValidationError as error:
            issues += _issues(f"users.{index}", error)
    if issues:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"Nothing was imported: {'; '.join(issues[:10])}.",
            remediation="Correct these users and repeat manage_auth_users import; its page in butterbase_docs shows "
            "the form of each hash.",
            details={"issues": issues[:100]},
        )
    return users


def _issues(where: str, error: ValidationError) -> list[str]:
    """What is wrong, without the values, which may be hashes of passwords."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [f"{where}.{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in found]


async def list_outbox(deps: Deps, caller: Caller, params: Outbox) -> dict[str, Any]:
    """Messages to users, newest first: what was sent without its text, what was not with it."""
    app: App = await deps.registry.get(caller, params.app_id)
    async with users_of(deps, app) as connection:
        rows = await connection.fetch(
            "select id, kind, recipient, subject, body, created_at, sent_at, error from auth.outbox "
            "order by id desc limit $1",
            params.limit,
        )
    messages = [
        {
            "id": str(row["id"]),
            "kind": row["kind"],
            "to": row["recipient"],
            "subject": row["subject"],
            # Whoever reads a code can sign in with it, which is more than reading.
            "body": None if caller.read_only else row["body"],
            "created_at": iso(row["created_at"]),
            "sent_at": iso(row["sent_at"]),
            "error": row["error"],
        }
        for row in rows
    ]
    return {"messages": messages}
