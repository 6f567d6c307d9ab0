"""Codes and tokens: opaque, kept as hashes, bound to program, account, scope and this server's /mcp.

What a program was allowed is a row among the service keys, a key that nobody holds. Its tokens stand for it, it is
listed and revoked as keys are, and with it every token ends at once on every replica.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from brolly.authorization.clients import keep_client
from brolly.authorization.failure import OAuthError
from brolly.core.caller import Caller
from brolly.core.tokens import hash_key
from brolly.deps import Deps
from brolly.pg.pool import Connection

ACCESS, REFRESH = "bb_at_", "bb_rt_"
CODE_SECONDS = 120
ACCESS_SECONDS = 3600
REFRESH_SECONDS = 30 * 86400
GRACE_SECONDS = 10
"""For so long a refresh token may be used again: sessions of one agent share it, and answers get lost."""
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
_GONE = OAuthError("invalid_grant", "The code is unknown, was used or has run out, or is not this program's.")
_ENDED = OAuthError("invalid_grant", "The refresh token is unknown, was used before, was revoked or has run out.")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the owner agreed to."""

    account_id: str
    client_id: str
    client_name: str
    redirect_uri: str
    code_challenge: str
    resource: str
    scope: str


def key_scopes(scope: str) -> list[str]:
    """A service key's scopes for those of a token: ``mcp``, ``mcp:read``, ``app:<id>``."""
    parts = scope.split()
    apps = [part for part in parts if part.startswith("app:")]
    whole = [*apps, "ai:gateway"] if apps else ["*"]
    return [*whole, *([] if "mcp" in parts else ["read"])]


async def make_code(deps: Deps, allowed: Allowed) -> str:
    """A code for the program's return address, good for one use."""
    code = f"bb_oc_{secrets.token_urlsafe(32)}"
    # Used ones stay as long as a refresh token may live: a second use of theirs is noticed.
    await deps.control.execute(
        "delete from brolly.oauth_codes where expires_at < now() - make_interval(secs => $1)", REFRESH_SECONDS
    )
    await deps.control.execute(
        "insert into brolly.oauth_codes (code_hash, account_id, client_id, client_name, redirect_uri, code_challenge, "
        "resource, scope, key_scopes, expires_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10))",
        hash_key(code),
        allowed.account_id,
        allowed.client_id,
        allowed.client_name,
        allowed.redirect_uri,
        allowed.code_challenge,
        allowed.resource,
        allowed.scope,
        key_scopes(allowed.scope),
        CODE_SECONDS,
    )
    return code


async def redeem_code(deps: Deps, form: Mapping[str, str]) -> dict[str, Any]:
    """Tokens for a code. Whoever presents a code uses it up; a second use ends what came of the first."""
    verifier = form.get("code_verifier", "")
    async with deps.control.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "select *, expires_at > now() as fresh from brolly.oauth_codes where code_hash = $1 for update",
            hash_key(form.get("code", "")),
        )
        if row is None:
            raise _GONE
        if row["used_at"] is not None:
            await _end_grant(connection, row["key_id"])
            tokens = None
        else:
            await connection.execute(
                "update brolly.oauth_codes set used_at = now() where code_hash = $1", row["code_hash"]
            )
            right = row["fresh"] and _is_right(row, form, verifier)
            tokens = await _open_grant(connection, row) if right else None
    if tokens is None:
        raise _GONE
    await keep_client(deps, row["client_id"])
    return tokens


def _is_right(row: Mapping[str, Any], form: Mapping[str, str], verifier: str) -> bool:
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    same = all(row[name] == form.get(name) for name in ("client_id", "redirect_uri"))
    same = same and form.get("resource", row["resource"]) == row["resource"]
    return same and bool(_VERIFIER.fullmatch(verifier)) and hmac.compare_digest(digest, row["code_challenge"])


async def _open_grant(connection: Connection, code: Mapping[str, Any]) -> dict[str, Any]:
    # Nobody knows what hashes to this, so the row is no key that could be sent.
    key_id = await connection.fetchval(
        "insert into brolly.api_keys (account_id, name, key_hash, key_prefix, scopes, client_id, expires_at, "
        "last_used_at) values ($1, $2, $3, 'oauth', $4, $5, now() + make_interval(secs => $6), now()) returning id",
        code["account_id"],
        code["client_name"],
        secrets.token_bytes(32),
        code["key_scopes"],
        code["client_id"],
        REFRESH_SECONDS,
    )
    await connection.execute(
        "update brolly.oauth_codes set key_id = $2 where code_hash = $1", code["code_hash"], key_id
    )
    return await _issue(connection, key_id, code["resource"], code["scope"], code["scope"])


async def _issue(connection: Connection, key_id: UUID, resource: str, scope: str, whole: str) -> dict[str, Any]:
    """An access token of the scope, and a refresh token of the whole of what was allowed."""
    access, refresh = ACCESS + secrets.token_hex(20), REFRESH + secrets.token_hex(20)
    await connection.execute("delete from brolly.oauth_tokens where key_id = $1 and expires_at <= now()", key_id)
    for token, kind, within, seconds in (
        (access, "access", scope, ACCESS_SECONDS),
        (refresh, "refresh", whole, REFRESH_SECONDS),
    ):
        await connection.execute(
            "insert into brolly.oauth_tokens (token_hash, kind, key_id, resource, scope, key_scopes, expires_at) "
            "values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))",
            hash_key(token),
            kind,
            key_id,
            resource,
            within,
            key_scopes(within),
            seconds,
        )
    return {
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": ACCESS_SECONDS,
        "refresh_token": refresh,
        "scope": scope,
    }


async def _end_grant(connection: Connection, key_id: UUID | None) -> None:
    await connection.execute(
        "update brolly.api_keys set revoked_at = now() where id = $1 and revoked_at is null", key_id
    )


async def refresh_tokens(deps: Deps, form: Mapping[str, str]) -> dict[str, Any]:
    """The next tokens. A refresh token that comes back later than the grace allows ends everything of its grant."""
    async with deps.control.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "select t.*, k.client_id, t.used_at < now() - make_interval(secs => $2) as reused "
            "from brolly.oauth_tokens t join brolly.api_keys k on k.id = t.key_id "
            "where t.token_hash = $1 and t.kind = 'refresh' and t.expires_at > now() and k.revoked_at is null "
            "for update of t, k",
            hash_key(form.get("refresh_token", "")),
            GRACE_SECONDS,
        )
        if row is None or row["client_id"] != form.get("client_id"):
            raise _ENDED
        if row["reused"]:
            await _end_grant(connection, row["key_id"])
            tokens = None
        else:
            tokens = await _renew(connection, row, form)
    if tokens is None:
        raise _ENDED
    await keep_client(deps, row["client_id"])
    return tokens


async def _renew(connection: Connection, row: Mapping[str, Any], form: Mapping[str, str]) -> dict[str, Any]:
    if form.get("resource", row["resource"]) != row["resource"]:
        raise OAuthError("invalid_target", "The token is for another resource.")
    scope = " ".join(dict.fromkeys(form.get("scope", "").split())) or row["scope"]
    if not _is_within(scope, row["scope"]):
        raise OAuthError("invalid_scope", "A refresh token gives no more than what was allowed.")
    await connection.execute(
        "update brolly.oauth_tokens set used_at = coalesce(used_at, now()) where token_hash = $1", row["token_hash"]
    )
    await connection.execute(
        "update brolly.api_keys set last_used_at = now(), expires_at = now() + make_interval(secs => $2) where id = $1",
        row["key_id"],
        REFRESH_SECONDS,
    )
    return await _issue(connection, row["key_id"], row["resource"], scope, row["scope"])


def _is_within(scope: str, whole: str) -> bool:
    """Whether it allows no more: the same apps, and as much or reads alone."""
    asked, given = set(scope.split()), set(whole.split())
    known = {"mcp", "mcp:read"}
    apps = {part for part in given if part not in known}
    return asked - known == apps and bool(asked & known) and ("mcp" in given or "mcp" not in asked)


async def revoke(deps: Deps, form: Mapping[str, str]) -> None:
    """Revoke a token of this program (RFC 7009). With a refresh token, all that was allowed ends."""
    digest = hash_key(form.get("token", ""))
    async with deps.control.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "select t.kind, t.key_id from brolly.oauth_tokens t join brolly.api_keys k on k.id = t.key_id "
            "where t.token_hash = $1 and k.client_id = $2",
            digest,
            form.get("client_id", ""),
        )
        if row is not None and row["kind"] == "refresh":
            await _end_grant(connection, row["key_id"])
        elif row is not None:
            await connection.execute("delete from brolly.oauth_tokens where token_hash = $1", digest)


async def remembered(deps: Deps, account_id: str, client_id: str) -> str | None:
    """The scopes of what this program is allowed already, and not revoked; None when it is nothing."""
    return await deps.control.fetchval(
        "select t.scope from brolly.oauth_tokens t join brolly.api_keys k on k.id = t.key_id "
        "where k.account_id = $1 and k.client_id = $2 and k.revoked_at is null and k.expires_at > now() "
        "and t.kind = 'refresh' and t.expires_at > now() order by t.expires_at desc limit 1",
        account_id,
        client_id,
    )


def is_access_token(authorization: str | None) -> bool:
    """Whether the header holds a token of the form that is made here."""
    scheme, _, token = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and token.strip().startswith(ACCESS)


async def caller_of_access_token(deps: Deps, authorization: str, resource: str, **origin: Any) -> Caller | None:
    """The caller whom an access token for that resource stands for; None when it does not hold.

    Read anew each time, so that a revocation holds at once on every replica.
    """
    row = await deps.control.fetchrow(
        "select k.id, k.account_id::text, t.key_scopes, "
        "coalesce(k.last_used_at < now() - interval '1 minute', true) as stale "
        "from brolly.oauth_tokens t join brolly.api_keys k on k.id = t.key_id "
        "where t.token_hash = $1 and t.kind = 'access' and t.resource = $2 and t.expires_at > now() "
        "and k.revoked_at is null and k.expires_at > now()",
        hash_key(authorization.partition(" ")[2].strip()),
        resource,
    )
    if row is None:
        return None
    if row["stale"] and not deps.settings.read_only:
        await deps.control.execute("update brolly.api_keys set last_used_at = now() where id = $1", row["id"])
    return Caller(
        "service",
        account_id=row["account_id"],
        key_id=str(row["id"]),
        scopes=frozenset(row["key_scopes"]),
        **origin,
    )
