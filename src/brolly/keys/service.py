"""What can be done with service keys."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tokens import hash_key, key_display_prefix, new_service_key, owner_key
from brolly.core.tool import Params
from brolly.deps import Deps

_GRANTABLE = ("read", "ai:gateway")
OWNER_ACCOUNT = "owner"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class GenerateKey(Params):
    """Parameters of generate_service_key."""

    name: str = Field(min_length=1, max_length=100)
    key_scope: Literal["account", "app"] | None = None
    app_id: str | None = None
    additional_scopes: list[str] = Field(default_factory=list[str], max_length=10)
    organization_id: str | None = None
    # What published clients send over HTTP: which service the key is for, and scopes in the form of old.
    scope: SkipJsonSchema[str | None] = None
    scopes: SkipJsonSchema[list[str] | None] = None


class ListKeys(Params):
    """Parameters of list."""

    limit: SkipJsonSchema[int] = Field(100, ge=1, le=100)
    offset: int = Field(0, ge=0)


class RevokeKey(Params):
    """Parameters of revoke."""

    key_id: str


def _refuse_other_services(params: GenerateKey) -> None:
    if params.scope not in (None, "app", "both"):
        raise AppError(
            "VALIDATION_INVALID_SCOPE",
            f"There are no keys of scope {params.scope[:100]!r}.",
            remediation="Leave scope out, as manage_auth_config generate_service_key does, or send app or both.",
        )
    if params.scopes not in (None, ["*"]):
        raise AppError(
            "VALIDATION_INVALID_SCOPE",
            'scopes takes ["*"] only.',
            remediation="Leave scopes out; send app_id (manage_app list has them) for a key to one app, "
            'additional_scopes ["read"] for reads alone.',
        )


async def _scopes(deps: Deps, caller: Caller, params: GenerateKey) -> list[str]:
    for scope in params.additional_scopes:
        if scope not in _GRANTABLE:
            raise AppError(
                "VALIDATION_INVALID_SCOPE",
                f"{scope!r} is not a scope that can be added; {' and '.join(_GRANTABLE)} are.",
            )
    _refuse_other_services(params)
    wants_app = params.key_scope == "app" or (params.key_scope is None and params.app_id is not None)
    if wants_app and params.app_id is None:
        raise AppError(
            "VALIDATION_MISSING_FIELD",
            "key_scope app needs app_id.",
            remediation="Repeat the call with app_id set to the app's id (manage_app list has them), "
            "or leave key_scope out for a key to the whole account.",
        )
    if not wants_app and params.app_id is not None:
        raise AppError("VALIDATION_INVALID_SCOPE", "key_scope account takes no app_id.")
    if wants_app:
        app = await deps.registry.get(caller, params.app_id or "")
        base = [f"app:{app.id}", "ai:gateway"]
    else:
        base = ["*"]
    return list(dict.fromkeys([*base, *params.additional_scopes]))


async def generate_key(deps: Deps, caller: Caller, params: GenerateKey) -> dict[str, Any]:
    """Make a service key. The answer holds it; it cannot be read again."""
    account = caller.require_account()
    if params.organization_id not in (None, account):
        raise AppError("AUTH_ORG_FORBIDDEN", "This key does not belong to that organization.")
    scopes = await _scopes(deps, caller, params)
    key = new_service_key()
    row = await _insert(deps, account, params.name, key, scopes)
    return {
        "key": key,
        "key_id": str(row["id"]),
        "keyId": str(row["id"]),
        "id": str(row["id"]),
        "prefix": row["key_prefix"],
        "name": row["name"],
        "scopes": scopes,
        "created_at": iso(row["created_at"]),
        "note": "Store the key now: it is shown once.",
    }


async def mint_key(deps: Deps, caller: Caller, **arguments: Any) -> dict[str, Any]:
    """As ``generate_key``, for other slices (a capability)."""
    return await generate_key(deps, caller, GenerateKey(**arguments))


async def _insert(deps: Deps, account_id: str, name: str, key: str, scopes: list[str]) -> Any:
    return await deps.control.fetchrow(
        "insert into brolly.api_keys (account_id, name, key_hash, key_prefix, scopes) values ($1, $2, $3, $4, $5) "
        "on conflict (key_hash) do nothing returning id, name, key_prefix, created_at",
        account_id,
        name,
        hash_key(key),
        key_display_prefix(key),
        scopes,
    )


async def list_keys(deps: Deps, caller: Caller, params: ListKeys) -> dict[str, Any]:
    """The account's keys that are not revoked, newest first; never the secret."""
    rows = await deps.control.fetch(
        "select id::text, key_prefix, name, scopes, created_at, last_used_at, expires_at, client_id "
        "from brolly.api_keys where account_id = $1 and revoked_at is null "
        "and (client_id is null or expires_at > now()) order by created_at desc, id limit $2 offset $3",
        caller.require_account(),
        params.limit + 1,
        params.offset,
    )
    keys = [
        {
            "id": row["id"],
            "key_prefix": row["key_prefix"],
            "prefix": row["key_prefix"],
            "name": row["name"],
            "scopes": row["scopes"],
            "scope": "account" if "*" in row["scopes"] else "app",
            "created_at": iso(row["created_at"]),
            "last_used_at": iso(row["last_used_at"]),
            "expires_at": iso(row["expires_at"]),
            "current": row["id"] == caller.key_id,
            **({"client_id": row["client_id"]} if row["client_id"] else {}),
        }
        for row in rows[: params.limit]
    ]
    page: dict[str, Any] = {"keys": keys}
    if len(rows) > params.limit:
        page["next_offset"] = params.offset + params.limit
    return page


async def _find(deps: Deps, caller: Caller, key_id: str) -> Any:
    account = caller.require_account()
    row = None
    if _ID.fullmatch(key_id):
        row = await deps.control.fetchrow(
            "select id, name, key_prefix, client_id, last_used_at from brolly.api_keys "
            "where id = $1 and account_id = $2 and revoked_at is null",
            UUID(key_id),
            account,
        )
    if row is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"There is no key {key_id!r}.",
            remediation="Call manage_api_keys with action list for the ids of the keys that exist.",
        )
    return row


async def what_revoke_loses(deps: Deps, caller: Caller, params: RevokeKey) -> str | None:
    """The question before a key is revoked."""
    row = await _find(deps, caller, params.key_id)
    used = f"last used {iso(row['last_used_at'])}" if row["last_used_at"] else "never used"
    own = " It is the key that this call uses." if str(row["id"]) == caller.key_id else ""
    if row["client_id"]:
        return f"Shut out the program {row['name']} ({row['client_id']}, {used})? Its tokens end at once.{own}"
    return f"Revoke key {row['name']} ({row['key_prefix']}…, {used})? What uses it stops working at once.{own}"


async def revoke_key(deps: Deps, caller: Caller, params: RevokeKey) -> dict[str, Any]:
    """Revoke a key for good; it stops working at once, since no replica remembers keys."""
    row = await _find(deps, caller, params.key_id)
    await deps.control.execute("update brolly.api_keys set revoked_at = now() where id = $1", row["id"])
    return {"revoked": True, "key_id": str(row["id"])}


async def caller_of_key(deps: Deps, key: str, **origin: Any) -> Caller | None:
    """The caller whom a key stands for; None when it is unknown, revoked or expired.

    Read anew each time, so that a revocation holds at once on every replica.
    """
    row = await deps.control.fetchrow(
        "select id, account_id::text, scopes, coalesce(last_used_at < now() - interval '1 minute', true) as stale "
        "from brolly.api_keys where key_hash = $1 and revoked_at is null "
        "and (expires_at is null or expires_at > now())",
        hash_key(key),
    )
    if row is None:
        return None
    if row["stale"] and not deps.settings.read_only:
        await deps.control.execute("update brolly.api_keys set last_used_at = now() where id = $1", row["id"])
    return Caller(
        "service",
        account_id=row["account_id"],
        key_id=str(row["id"]),
        scopes=frozenset(row["scopes"]),
        **origin,
    )


async def ended_keys(deps: Deps, ids: Collection[str]) -> set[str]:
    """Those of the keys that were revoked, have expired or are gone."""
    rows = await deps.control.fetch(
        "select id::text from brolly.api_keys where id = any($1::uuid[]) and revoked_at is null "
        "and (expires_at is null or expires_at > now())",
        list(ids),
    )
    return set(ids) - {row["id"] for row in rows}


async def ensure_account(deps: Deps, name: str) -> str:
    """The id of the account of that name, made if there is none. For the command line."""
    return await deps.control.fetchval(
        "with new as (insert into brolly.accounts (name) values ($1) on conflict (name) do nothing returning id) "
        "select id::text from new union all select id::text from brolly.accounts where name = $1 limit 1",
        name,
    )


async def ensure_owner_key(deps: Deps) -> str | None:
    """The owner's first key, if it is still valid; made on the first start, never renewed after a revocation."""
    account = await ensure_account(deps, OWNER_ACCOUNT)
    key = owner_key(deps.secret)
    await _insert(deps, account, "owner", key, ["*"])
    valid = await deps.control.fetchval(
        "select 1 from brolly.api_keys where key_hash = $1 and revoked_at is null", hash_key(key)
    )
    return key if valid else None
