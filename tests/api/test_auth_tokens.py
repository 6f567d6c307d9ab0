"""Access tokens: what is in them, which are believed, and the keys that sign them."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from brolly.apps import provision
from brolly.auth.access import users_of
from brolly.auth.signing import key_set, renew, verify
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.identity import identify
from brolly.registry import App
from tests.api.test_auth_sessions import code_of, log_in, me, sign_up


async def believed(deps: Deps, token: str) -> Caller:
    return await identify(deps, f"Bearer {token}")


async def refused(deps: Deps, token: str) -> str:
    with pytest.raises(AppError) as error:
        await believed(deps, token)
    assert error.value.status == 401
    return error.value.code


def forged(token: str, key: Any, algorithm: str, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    head = {"kid": jwt.get_unverified_header(token)["kid"], **(header or {})}
    return jwt.encode(claims, key, algorithm, headers=head)


def unsigned(token: str, **header: Any) -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT", **header}).encode()).rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


@pytest.fixture
async def token(anon_http: httpx.AsyncClient, app: App) -> str:
    """The access token of a user of the app."""
    await sign_up(anon_http, app)
    return (await log_in(anon_http, app))["access_token"]


async def test_a_token_makes_its_holder_a_user_of_its_app(deps: Deps, app: App, token: str) -> None:
    caller = await believed(deps, token)
    assert (caller.kind, caller.role, caller.account_id) == ("user", "butterbase_user", None)
    claims = dict(caller.claims)
    assert set(claims) == {"iss", "sub", "email", "email_verified", "app_id", "role", "sid", "iat", "exp", "jti"}
    assert caller.user_id == claims["sub"]
    assert claims["iss"] == f"butterbase:app:{app.id}"
    assert (claims["app_id"], claims["role"], claims["email"]) == (app.id, "authenticated", "ann@example.com")
    assert claims["exp"] - claims["iat"] == 900


async def test_anybody_can_verify_it_with_the_published_keys(
    deps: Deps, anon_http: httpx.AsyncClient, app: App
) -> None:
    address = f"/auth/{app.id}/.well-known/jwks.json"
    assert (await anon_http.get(address)).json() == {"keys": []}
    await sign_up(anon_http, app)
    token = (await log_in(anon_http, app))["access_token"]
    response = await anon_http.get(address)
    assert response.headers["cache-control"] == "public, max-age=300"
    (key,) = response.json()["keys"]
    assert set(key) == {"kty", "n", "e", "kid", "alg", "use"}
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["kid"]) == ("RS256", key["kid"])
    assert jwt.decode(token, jwt.PyJWK(key).key, algorithms=["RS256"])["app_id"] == app.id
    assert (await anon_http.get("/auth/app_000000000000/.well-known/jwks.json")).status_code == 404


@pytest.mark.parametrize("suffix", ["app_\0", "app_\ud800", "app_00000000000\0", "app_000000000000\n", "", "x" * 7000])
async def test_an_issuer_that_no_app_can_be_is_refused_without_asking_the_database(
    anon_http: httpx.AsyncClient, app: App, suffix: str
) -> None:
    token = jwt.encode({"iss": f"butterbase:app:{suffix}", "sub": "x"}, "k" * 32, "HS256")
    response = await me(anon_http, app, token)
    assert (response.status_code, code_of(response)) == (
        401,
        "AUTH_INVALID_END_USER_JWT" if len(suffix) < 99 else "AUTH_INVALID_TOKEN",
    )
    assert "0x00" not in response.text


async def test_forged_tokens_are_refused(deps: Deps, app: App, token: str) -> None:
    public = (await key_set(deps, app)).keys[0].public
    other = generate_private_key(65537, 2048)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    encoded = base64.urlsafe_b64encode
    hmac_key = base64.urlsafe_b64encode(pem)
    # PyJWT itself refuses a PEM as an HMAC secret, an attacker's program does not.
    head = encoded(json.dumps({"alg": "HS256", "kid": jwt.get_unverified_header(token)["kid"]}).encode()).rstrip(b"=")
    text = head.decode() + "." + token.split(".")[1]
    import hashlib
    import hmac as mac

    confused = text + "." + encoded(mac.new(pem, text.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    header, payload, signature = token.split(".")
    for bad in (
        confused,
        forged(token, hmac_key, "HS256"),
        forged(token, other, "RS256"),
        forged(token, other, "RS256", header={"kid": "unknown"}),
        forged(token, other, "RS256", header={"jwk": {"kty": "oct"}, "jku": "http://127.0.0.1:1/keys"}),
        forged(token, other, "PS256"),
        unsigned(token),
        unsigned(token, kid=jwt.get_unverified_header(token)["kid"]),
        f"{header}.{payload}.",
        f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
    ):
        assert await refused(deps, bad) == "AUTH_INVALID_END_USER_JWT"


async def test_what_the_app_signed_is_held_to_its_claims(deps: Deps, app: App, token: str) -> None:
    private = (await key_set(deps, app)).keys[0].private
    now = int(time.time())
    expired = forged(token, private, "RS256", iat=now - 1000, exp=now - 1)
    assert await refused(deps, expired) == "AUTH_END_USER_JWT_EXPIRED"
    changed: list[dict[str, Any]] = [
        {"app_id": "app_other"},
        {"sub": ""},
        {"exp": None},
        {"iat": now + 900},
        {"sub": 5},
    ]
    for changes in changed:
        assert await refused(deps, forged(token, private, "RS256", **changes)) == "AUTH_INVALID_END_USER_JWT"
    assert await refused(deps, forged(token, private, "RS256", iss="butterbase:app:app_000000000000")) == (
        "AUTH_INVALID_END_USER_JWT"
    )
    assert await refused(deps, forged(token, private, "RS256", iss="somebody")) == "AUTH_INVALID_TOKEN"
    assert await refused(deps, "x" * 9000) == "AUTH_INVALID_TOKEN"


async def test_an_expired_token_is_told_apart_on_its_routes(
    deps: Deps, anon_http: httpx.AsyncClient, app: App, token: str
) -> None:
    private = (await key_set(deps, app)).keys[0].private
    expired = forged(token, private, "RS256", exp=int(time.time()) - 1)
    response = await me(anon_http, app, expired)
    assert (response.status_code, code_of(response)) == (401, "AUTH_END_USER_JWT_EXPIRED")
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_of_one_app_is_nothing_in_another(
    deps: Deps, owner: Caller, anon_http: httpx.AsyncClient, app: App, token: str
) -> None:
    other_id, _ = await provision.create(deps, owner.account_id or "", f"{app.name}-b", "self-hosted")
    other = await deps.registry.get(owner, other_id)
    try:
        response = await me(anon_http, other, token)
        assert (response.status_code, code_of(response)) == (401, "AUTH_INVALID_END_USER_JWT")
        response = await anon_http.get(f"/v1/{other.id}/notes", headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, code_of(response)) == (401, "AUTH_INVALID_END_USER_JWT")
        private = (await key_set(deps, app)).keys[0].private
        moved = forged(token, private, "RS256", iss=f"butterbase:app:{other.id}", app_id=other.id)
        assert await refused(deps, moved) == "AUTH_INVALID_END_USER_JWT"
        with pytest.raises(AppError):
            await verify(deps, token, other.id)
    finally:
        await provision.delete(deps, other)


async def test_policies_hold_for_the_user_of_the_token(
    deps: Deps, http: httpx.AsyncClient, anon_http: httpx.AsyncClient, app: App, token: str
) -> None:
    """From signing up to the rows: each user sees the user's own."""
    columns = {"id": {"type": "serial", "primaryKey": True}, "user_id": {"type": "text"}, "body": {"type": "text"}}
    applied = await http.post(
        f"/v1/{app.id}/schema/apply", json={"schema": {"tables": {"notes": {"columns": columns}}}}
    )
    assert applied.status_code == 200, applied.text
    isolated = await http.post(f"/v1/{app.id}/rls", json={"table_name": "notes", "user_column": "user_id"})
    assert isolated.status_code < 300, isolated.text
    await sign_up(anon_http, app, "bob@example.com")
    bob = (await log_in(anon_http, app, "bob@example.com"))["access_token"]
    for held, body in ((token, "ann's"), (bob, "bob's")):
        headers = {"Authorization": f"Bearer {held}"}
        mine = {"user_id": (await believed(deps, held)).user_id, "body": body}
        stored = await anon_http.post(f"/v1/{app.id}/notes", json=mine, headers=headers)
        assert stored.status_code == 201, stored.text
        rows = (await anon_http.get(f"/v1/{app.id}/notes", headers=headers)).json()
        assert [row["body"] for row in rows] == [body]
    assert len((await http.get(f"/v1/{app.id}/notes")).json()) == 2


async def test_a_token_of_a_deleted_app_is_refused(deps: Deps, app: App, token: str) -> None:
    await provision.delete(deps, app)
    assert await refused(deps, token) == "AUTH_INVALID_END_USER_JWT"


async def test_a_user_manages_nothing(anon_http: httpx.AsyncClient, app: App, token: str) -> None:
    anon_http.headers["Authorization"] = f"Bearer {token}"
    for path in ("/apps", f"/v1/{app.id}/config", f"/v1/{app.id}/schema", "/api-keys"):
        response = await anon_http.get(path)
        assert (response.status_code, code_of(response)) == (401, "AUTH_REQUIRED"), path
    response = await anon_http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert response.status_code == 401


async def test_a_new_key_is_published_before_it_signs_and_the_old_one_goes_on_verifying(
    deps: Deps, anon_http: httpx.AsyncClient, app: App, token: str
) -> None:
    app = await deps.registry.find(app.id) or app
    (old,) = (await key_set(deps, app)).keys
    app = await renew(deps, app, timedelta())
    new, kept = (await key_set(deps, app)).keys
    assert kept.kid == old.kid
    during = (await log_in(anon_http, app))["access_token"]
    assert jwt.get_unverified_header(during)["kid"] == old.kid
    assert len((await anon_http.get(f"/auth/{app.id}/.well-known/jwks.json")).json()["keys"]) == 2
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.signing_keys set signs_from = now() where kid = $1", new.kid)
    await deps.registry.changed(app.id)
    after = (await log_in(anon_http, app))["access_token"]
    assert jwt.get_unverified_header(after)["kid"] == new.kid
    for issued in (token, during, after):
        assert (await believed(deps, issued)).kind == "user"
    # Past the longest life of a token the old one goes.
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.signing_keys set signs_from = signs_from - interval '40 days'")
    await renew(deps, app)
    assert await refused(deps, token) == "AUTH_INVALID_END_USER_JWT"
    assert (await believed(deps, after)).kind == "user"


async def test_an_old_key_is_renewed_by_itself(deps: Deps, anon_http: httpx.AsyncClient, app: App, token: str) -> None:
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.signing_keys set created_at = now() - interval '91 days'")
    await deps.registry.changed(app.id)
    await log_in(anon_http, app)
    assert len((await anon_http.get(f"/auth/{app.id}/.well-known/jwks.json")).json()["keys"]) == 2


async def test_private_keys_are_encrypted_where_they_lie(deps: Deps, app: App, token: str) -> None:
    (key,) = (await key_set(deps, app)).keys
    number = key.private.private_numbers().d
    async with users_of(deps, app) as connection:
        row = await connection.fetchrow("select * from auth.signing_keys")
    assert number.to_bytes(256, "big") not in bytes(row["private_key"])
    assert "PRIVATE" not in str(dict(row))


async def test_no_caller_reaches_where_users_are_kept(deps: Deps, app: App, owner: Caller, token: str) -> None:
    from brolly.core.caller import anonymous
    from brolly.pg.session import as_caller

    user = await believed(deps, token)
    for caller in (owner, user, anonymous()):
        for table in ("users", "refresh_tokens", "signing_keys", "codes", "outbox"):
            with pytest.raises(AppError) as error:
                async with as_caller(deps.pools.door(app), caller) as connection:
                    await connection.fetch(f"select * from auth.{table}")
            assert error.value.code == "AUTH_RLS_POLICY_VIOLATION"
    async with deps.pools.owner(app) as connection:
        assert not await connection.fetchval("select has_schema_privilege('auth', 'usage')")


async def test_the_platform_role_holds_for_the_block_alone(deps: Deps, app: App) -> None:
    async with users_of(deps, app) as connection:
        assert await connection.fetchval("select current_user") == "brolly_auth"
        assert await connection.fetchval("show search_path") == "pg_catalog"
    async with deps.pools.reader(app) as connection:
        assert await connection.fetchval("select current_user") == f"{app.id}_api"
        assert await connection.fetchval("show search_path") != "pg_catalog"


async def test_an_app_of_an_earlier_version_is_brought_up_to_date(
    deps: Deps, anon_http: httpx.AsyncClient, app: App
) -> None:
    """As such an app is: no schema of the platform's, a door login without the role."""
    import asyncpg

    server = deps.databases.server
    connection: Any = await asyncpg.connect(**server.connect_args(database=app.db_name))
    try:
        await connection.execute("drop schema auth, storage, functions, realtime, rag cascade")
        await connection.execute("delete from brolly.applied_migrations where version >= 2")
        await connection.execute(f"revoke brolly_auth from {app.id}_api")
    finally:
        await connection.close()
    await deps.control.execute("update brolly.apps set app_version = 1 where id = $1", app.id)
    await provision.migrate_all(deps)
    await sign_up(anon_http, app)
    assert await believed(deps, (await log_in(anon_http, app))["access_token"])
