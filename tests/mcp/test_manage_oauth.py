"""manage_oauth, by its effect: what is stored, what is shown, and what is refused. Signing in is in tests/api."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from tests.api.oauth_vendors import APPLE_PEM
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session

GOOGLE = {"provider": "google", "client_id": "id-1", "client_secret": "GOCSPX-hidden"}
APPLE = {"provider": "apple", "client_id": "com.example.web"}
KEYS = {"teamId": "T", "keyId": "K", "privateKey": APPLE_PEM}
URLS = {f"{name}_url": f"https://forge.example/{name}" for name in ("authorization", "token", "userinfo")}


async def refusal(mcp: Any, **arguments: Any) -> str:
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_oauth", **arguments)
    return failed.value.code


async def stored(deps: Deps, app: App) -> list[Any]:
    async with users_of(deps, app) as connection:
        return await connection.fetch("select * from auth.oauth_providers order by provider")


async def test_a_built_in_provider_needs_an_id_and_a_secret(mcp: Any, deps: Deps, app: App) -> None:
    done = await mcp("manage_oauth", action="configure", app_id=app.id, **GOOGLE)
    own = f"http://brolly.test/auth/{app.id}/oauth/google/callback"
    assert own in done["message"]
    config = done["config"]
    assert config == {
        "id": config["id"],
        "app_id": app.id,
        "provider": "google",
        "client_id": "id-1",
        "redirect_uris": [own],
        "scopes": ["openid", "email", "profile"],
        "authorization_url": "https://accounts.google.com/o/oauth2/v2/auth",
        "token_url": "https://oauth2.googleapis.com/token",
        "userinfo_url": "https://openidconnect.googleapis.com/v1/userinfo",
        "enabled": True,
        "provider_metadata": {},
        "created_at": config["created_at"],
    }
    assert await mcp("manage_oauth", action="get", app_id=app.id, provider="google") == config
    assert await mcp("manage_oauth", action="get", app_id=app.id) == {"configs": [config]}


async def test_secrets_are_encrypted_and_never_come_back(
    mcp: Any, http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    said = [await mcp("manage_oauth", action="configure", app_id=app.id, **GOOGLE)]
    said.append(await mcp("manage_oauth", action="configure", app_id=app.id, provider_metadata=KEYS, **APPLE))
    said.append(await mcp("manage_oauth", action="update", app_id=app.id, provider="google", client_secret="GOCSPX-2"))
    said.append(await mcp("manage_oauth", action="get", app_id=app.id))
    said.append((await http.get(f"/v1/{app.id}/auth/oauth-config")).json())
    said.append(await mcp("query_audit_logs", app_id=app.id))
    secrets = ("GOCSPX", "BEGIN PRIVATE KEY", APPLE_PEM.splitlines()[1])
    rows = await stored(deps, app)
    for secret in secrets:
        assert secret not in str(said)
        assert secret.encode() not in b"".join(row["secrets"] for row in rows)
        assert secret not in str([{k: v for k, v in dict(row).items() if k != "secrets"} for row in rows])
    assert said[1]["config"]["provider_metadata"] == {"teamId": "T", "keyId": "K"}
    assert said[1]["config"]["scopes"] == ["name", "email"]


async def test_configuring_again_replaces_and_updating_changes(mcp: Any, deps: Deps, app: App) -> None:
    await mcp("manage_oauth", action="configure", app_id=app.id, scopes=["openid", "email"], **GOOGLE)
    before = (await stored(deps, app))[0]
    uris = ["https://shop.example/cb", "http://localhost:3000/cb"]
    done = await mcp("manage_oauth", action="update", app_id=app.id, provider="google", redirect_uris=uris)
    assert (done["config"]["redirect_uris"], done["config"]["scopes"]) == (uris, ["openid", "email"])
    off = await mcp("manage_oauth", action="update", app_id=app.id, provider="google", enabled=False)
    assert off["config"]["enabled"] is False
    again = await mcp("manage_oauth", action="configure", app_id=app.id, **{**GOOGLE, "client_id": "id-2"})
    assert (again["config"]["id"], again["config"]["client_id"]) == (str(before["id"]), "id-2")
    assert (again["config"]["scopes"], again["config"]["enabled"]) == (["openid", "email", "profile"], True)
    assert len(await stored(deps, app)) == 1


async def test_a_private_key_that_is_left_out_of_an_update_stays(mcp: Any, deps: Deps, app: App) -> None:
    await mcp("manage_oauth", action="configure", app_id=app.id, provider_metadata=KEYS, **APPLE)
    shown = (await mcp("manage_oauth", action="get", app_id=app.id, provider="apple"))["provider_metadata"]
    changed = {**shown, "keyId": "K2"}
    done = await mcp("manage_oauth", action="update", app_id=app.id, provider="apple", provider_metadata=changed)
    assert done["config"]["provider_metadata"] == {"teamId": "T", "keyId": "K2"}
    # Configured anew, it is needed again.
    assert await refusal(mcp, action="configure", app_id=app.id, provider_metadata=shown, **APPLE) == (
        "VALIDATION_INVALID_SCHEMA"
    )


async def test_deleting_asks_and_is_told_apart_from_what_never_was(mcp: Any, deps: Deps, app: App) -> None:
    await mcp("manage_oauth", action="configure", app_id=app.id, **GOOGLE)
    async with users_of(deps, app) as connection:
        await connection.execute(
            "with u as (insert into auth.users (email) values ('a@example.com') returning id) "
            "insert into auth.identities (provider, provider_uid, user_id) select 'google', '1', id from u"
        )
    with pytest.raises(ToolFailed) as asked:
        await mcp("manage_oauth", action="delete", app_id=app.id, provider="google")
    assert asked.value.code == "CONFIRMATION_REQUIRED"
    assert "1 user" in str(asked.value.error)
    done = await mcp("manage_oauth", action="delete", app_id=app.id, provider="google", confirm=True)
    assert done["provider"] == "google"
    assert await stored(deps, app) == []
    for action in ("delete", "get"):
        assert await refusal(mcp, action=action, app_id=app.id, provider="google") == "RESOURCE_NOT_FOUND"
    again = {"action": "update", "app_id": app.id, "provider": "google", "client_id": "x"}
    assert await refusal(mcp, **again) == "RESOURCE_NOT_FOUND"
    async with users_of(deps, app) as connection:
        assert await connection.fetchval("select count(*) from auth.identities") == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"provider": "google", "client_id": "x"}, "VALIDATION_MISSING_FIELD"),
    ({"provider": "google", "client_secret": "x"}, "VALIDATION_MISSING_FIELD"),
    ({"provider": "acme", "client_id": "x", "client_secret": "y"}, "VALIDATION_MISSING_FIELD"),
    ({**GOOGLE, "provider": "acme", "token_url": "https://a.example/t"}, "VALIDATION_MISSING_FIELD"),
    ({**GOOGLE, "provider": "Acme!"}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider": "email"}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "client_id": "x\0"}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "redirect_uris": []}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "redirect_uris": ["/cb"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "redirect_uris": ["https://a@b.example"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "redirect_uris": ["javascript:alert(1)"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "redirect_uris": ["https://a.example/#x"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "scopes": ["a b"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "scopes": ["email"]}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "token_url": "file:///etc/passwd"}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "secret": "x"}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"isuer": "https://a.example"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"issuer": "a.example"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"issuer": "https://a.example?x=1"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"issuer": 5}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"trust_email": True}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"trust_email": "yes"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"tenant": "common"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider_metadata": {"token_auth": "tls"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider": "microsoft", "provider_metadata": {"tenant": "../x"}}, "VALIDATION_INVALID_SCHEMA"),
    ({**GOOGLE, "provider": "microsoft", "provider_metadata": {"trust_email": True}}, "VALIDATION_INVALID_SCHEMA"),
    (APPLE, "VALIDATION_INVALID_SCHEMA"),
    ({**APPLE, "provider_metadata": {**KEYS, "keyId": None}}, "VALIDATION_INVALID_SCHEMA"),
    ({**APPLE, "provider_metadata": {**KEYS, "privateKey": "not a key"}}, "VALIDATION_INVALID_SCHEMA"),
]


async def test_what_could_not_work_is_refused(mcp: Any, deps: Deps, app: App) -> None:
    for arguments, code in REFUSED:
        assert await refusal(mcp, action="configure", app_id=app.id, **arguments) == code, arguments
    assert await stored(deps, app) == []


async def test_a_key_on_another_curve_is_not_apples(mcp: Any, app: App) -> None:
    pem = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    metadata = {**KEYS, "privateKey": pem}
    code = await refusal(mcp, action="configure", app_id=app.id, provider_metadata=metadata, **APPLE)
    assert code == "VALIDATION_INVALID_SCHEMA"


async def test_an_update_of_nothing_or_to_what_cannot_work_changes_nothing(mcp: Any, deps: Deps, app: App) -> None:
    forge = {**GOOGLE, "provider": "forge", **URLS}
    made = (await mcp("manage_oauth", action="configure", app_id=app.id, **forge))["config"]
    assert (made["scopes"], made["userinfo_url"]) == ([], "https://forge.example/userinfo")
    before = [dict(row) for row in await stored(deps, app)]
    for arguments in ({}, {"token_url": "x"}, {"provider_metadata": {"x": 1}}, {"client_secret": ""}):
        wrong = {"action": "update", "app_id": app.id, "provider": "forge", **arguments}
        assert await refusal(mcp, **wrong) == "VALIDATION_INVALID_SCHEMA"
    assert [dict(row) for row in await stored(deps, app)] == before


async def test_microsofts_addresses_are_the_tenants(mcp: Any, app: App) -> None:
    tenant = "11111111-2222-4333-8444-555555555555"
    metadata = {"tenant": tenant, "trust_email": True}
    microsoft = {**GOOGLE, "provider": "microsoft", "provider_metadata": metadata}
    config = (await mcp("manage_oauth", action="configure", app_id=app.id, **microsoft))["config"]
    assert config["token_url"] == f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
    assert config["provider_metadata"] == metadata


async def test_over_http_as_the_published_clients_call_it(http: httpx.AsyncClient, app: App) -> None:
    base = f"/v1/{app.id}/auth/oauth-config"
    made = await http.post(base, json={**GOOGLE, "redirect_uris": ["https://shop.example/cb"]})
    assert (made.status_code, set(made.json())) == (200, {"message", "config"})
    assert (await http.get(base)).json() == {"configs": [made.json()["config"]]}
    assert (await http.get(f"{base}/google")).json() == made.json()["config"]
    changed = await http.patch(f"{base}/google", json={"enabled": False})
    assert changed.json()["config"]["enabled"] is False
    gone = await http.delete(f"{base}/google")
    assert (gone.status_code, gone.json()["provider"]) == (200, "google")
    assert (await http.delete(f"{base}/google")).status_code == 404


async def test_nobody_else_sees_or_changes_it(mcp: Any, deps: Deps, app: App) -> None:
    await mcp("manage_oauth", action="configure", app_id=app.id, **GOOGLE)
    stranger, key = await make_owner(deps)
    async with mcp_session(deps, stranger) as call:
        for arguments in (
            {"action": "get"},
            {"action": "configure", **GOOGLE},
            {"action": "delete", "provider": "google", "confirm": True},
        ):
            assert await refusal(call, app_id=app.id, **arguments) == "RESOURCE_NOT_FOUND"
    for client_key, status in ((key, 404), (None, 401)):
        async with http_client(deps, client_key) as client:
            assert (await client.get(f"/v1/{app.id}/auth/oauth-config")).status_code == status
    reader, _ = await make_owner(deps, ("*", "read"), app.account_id)
    async with mcp_session(deps, reader) as call:
        assert len((await call("manage_oauth", action="get", app_id=app.id))["configs"]) == 1
        with pytest.raises(ToolFailed) as refused:
            await call("manage_oauth", action="configure", app_id=app.id, **GOOGLE)
        assert refused.value.code in ("AUTH_FORBIDDEN", "VALIDATION_INVALID_SCHEMA")
    assert (await stored(deps, app))[0]["client_id"] == "id-1"


async def test_the_changes_are_in_the_audit_log(mcp: Any, app: App) -> None:
    await mcp("manage_oauth", action="configure", app_id=app.id, **GOOGLE)
    await mcp("manage_oauth", action="update", app_id=app.id, provider="google", client_id="y")
    await mcp("manage_oauth", action="delete", app_id=app.id, provider="google", confirm=True)
    logs = (await mcp("query_audit_logs", app_id=app.id, resource_type="oauth_provider"))["logs"]
    assert [(e["event_type"], e["resource_id"]) for e in logs] == [
        (f"oauth.provider.{verb}", "google") for verb in ("delete", "update", "create")
    ]
