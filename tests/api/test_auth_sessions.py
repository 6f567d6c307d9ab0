"""Signing up, in and out: what is answered, and what is in the database afterwards."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client

PASSWORD = "Correct-horse-7"
TOKENS = {"access_token", "refresh_token", "expires_in", "token_type"}
CAMEL = {"accessToken", "refreshToken", "expiresIn", "tokenType"}


def code_of(response: httpx.Response) -> str:
    return response.json()["error"]["code"]


async def post(
    client: httpx.AsyncClient, app: App, path: str, credential: str | None = None, /, **body: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    return await client.post(f"/auth/{app.id}/{path}", json=body, headers=headers)


async def sign_up(client: httpx.AsyncClient, app: App, email: str = "ann@example.com", **body: Any) -> dict[str, Any]:
    response = await post(client, app, "signup", email=email, password=PASSWORD, **body)
    assert response.status_code == 201, response.text
    return response.json()["user"]


async def log_in(client: httpx.AsyncClient, app: App, email: str = "ann@example.com") -> dict[str, Any]:
    response = await post(client, app, "login", email=email, password=PASSWORD)
    assert response.status_code == 200, response.text
    return response.json()


async def me(client: httpx.AsyncClient, app: App, token: str) -> httpx.Response:
    return await client.get(f"/auth/{app.id}/me", headers={"Authorization": f"Bearer {token}"})


async def test_signing_up_gives_an_account_and_no_tokens(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    response = await post(anon_http, app, "signup", email="ann@example.com", password=PASSWORD, display_name="Ann")
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {"user", "message"}
    assert body["user"] == {
        "id": body["user"]["id"],
        "email": "ann@example.com",
        "email_verified": False,
        "display_name": "Ann",
    }
    async with users_of(deps, app) as connection:
        row = await connection.fetchrow("select * from auth.users")
    assert row["password_hash"].startswith("$argon2id$")
    assert PASSWORD not in str(dict(row))


async def test_metadata_of_the_published_client_is_kept(anon_http: httpx.AsyncClient, app: App) -> None:
    user = await sign_up(anon_http, app, metadata={"displayName": "Ann", "plan": "x"})
    assert user["display_name"] == "Ann"
    tokens = await log_in(anon_http, app)
    assert (await me(anon_http, app, tokens["access_token"])).json()["metadata"] == {"displayName": "Ann", "plan": "x"}


@pytest.mark.parametrize(
    "password", ["Ab1!xyz", "alllower1!", "ALLUPPER1!", "NoDigits!!", "NoSpecial11", "Aa1!" + "x" * 300]
)
async def test_a_weak_password_is_refused(anon_http: httpx.AsyncClient, app: App, password: str) -> None:
    response = await post(anon_http, app, "signup", email="ann@example.com", password=password)
    assert (response.status_code, code_of(response)) == (400, "VALIDATION_WEAK_PASSWORD")
    assert password not in response.text


async def test_an_address_is_one_account_however_it_is_typed(anon_http: httpx.AsyncClient, app: App) -> None:
    user = await sign_up(anon_http, app, " Jos\u00c9@Example.COM ")
    assert user["email"] == "jos\u00e9@example.com"
    for same in ("JOSE\u0301@example.com", "\uff4aos\u00e9@example.com"):
        response = await post(anon_http, app, "signup", email=same, password=PASSWORD)
        assert (response.status_code, code_of(response)) == (409, "RESOURCE_ALREADY_EXISTS")
        assert (await log_in(anon_http, app, same))["user"]["id"] == user["id"]


@pytest.mark.parametrize(
    "email", ["ann", "ann@", "@example.com", "ann@local", "a b@example.com", "ann\u200b@example.com", "a@b@c.de",
              "ann@example.com\nBcc: x@y.zz", "ann@exa<mple.com", ".ann@example.com", "x" * 250 + "@example.com"]
)  # fmt: skip
async def test_what_is_no_address_is_refused(anon_http: httpx.AsyncClient, app: App, email: str) -> None:
    response = await post(anon_http, app, "signup", email=email, password=PASSWORD)
    assert (response.status_code, code_of(response)) == (400, "VALIDATION_INVALID_SCHEMA")


async def test_a_body_that_is_wrong_is_named_without_its_values(anon_http: httpx.AsyncClient, app: App) -> None:
    for body, code in (
        ({"email": "ann@example.com"}, "VALIDATION_MISSING_FIELD"),
        ({"email": "ann@example.com", "password": ["s3cret!"]}, "VALIDATION_INVALID_SCHEMA"),
        ({"email": "ann@example.com", "password": "s3cret!", "admin": True}, "VALIDATION_INVALID_SCHEMA"),
        ({"email": "ann@example.com", "password": "s3cret!", "app_id": "app_other"}, "VALIDATION_INVALID_SCHEMA"),
    ):
        response = await post(anon_http, app, "login", **body)
        assert (response.status_code, code_of(response)) == (400, code)
        assert "s3cret!" not in response.text


async def test_text_that_is_none_is_refused(anon_http: httpx.AsyncClient, app: App) -> None:
    for body in (
        '{"email": "ann@example.com", "password": "Correct-horse-7\\ud800"}',
        '{"email": "ann@example.com", "password": "Correct-horse-7", "display_name": "a\\u0000b"}',
        '{"email": "ann@example.com", "password": "Correct-horse-7", "metadata": {"a": "\\u0000"}}',
        '["email"]',
        "{",
    ):
        response = await anon_http.post(f"/auth/{app.id}/signup", content=body)
        assert response.status_code == 400, body


async def test_a_password_changed_while_the_old_one_is_checked_wins(
    anon_http: httpx.AsyncClient, deps: Deps, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brolly.auth import service

    await sign_up(anon_http, app)
    check = service.check_password

    async def slow(*arguments: Any) -> tuple[bool, bool]:
        found = await check(*arguments)
        async with users_of(deps, app) as connection:
            await connection.execute("update auth.users set password_hash = 'another'")
        return found

    monkeypatch.setattr(service, "check_password", slow)
    response = await post(anon_http, app, "login", email="ann@example.com", password=PASSWORD)
    assert code_of(response) == "AUTH_INVALID_CREDENTIALS"
    async with users_of(deps, app) as connection:
        assert await connection.fetchval("select count(*) from auth.sessions") == 0


async def test_logging_in_answers_in_both_spellings(anon_http: httpx.AsyncClient, app: App) -> None:
    await sign_up(anon_http, app, display_name="Ann")
    response = await post(anon_http, app, "login", email="ANN@example.com", password=PASSWORD)
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == TOKENS | CAMEL | {"user"}
    assert all(body[a] == body[b] for a, b in zip(sorted(TOKENS), sorted(CAMEL), strict=True))
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
    assert set(body["user"]) == {"id", "email", "email_verified", "display_name", "avatar_url"}


async def test_wrong_password_and_unknown_account_are_not_told_apart(
    anon_http: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_up(anon_http, app)
    answers: list[dict[str, Any]] = []
    hashes: list[str] = []
    verify = PasswordHasher.verify

    def count(hasher: PasswordHasher, stored: str, password: str) -> Any:
        hashes.append(stored.rsplit("$", 2)[0])
        return verify(hasher, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", count)
    for email in ("ann@example.com", "nobody@example.com"):
        response = await post(anon_http, app, "login", email=email, password="Wrong-horse-7")
        assert (response.status_code, code_of(response)) == (401, "AUTH_INVALID_CREDENTIALS")
        answers.append(response.json())
    assert answers[0] == answers[1]
    # Both hash, at the same cost: the unknown one is not faster.
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]


async def test_me_is_the_user_of_the_token(anon_http: httpx.AsyncClient, app: App) -> None:
    user = await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    body = (await me(anon_http, app, tokens["access_token"])).json()
    expected = {"email_verified", "display_name", "avatar_url", "provider", "created_at", "last_sign_in_at"}
    assert set(body) >= expected
    assert (body["id"], body["email"], body["provider"]) == (user["id"], "ann@example.com", "email")
    assert body["last_sign_in_at"].endswith("Z")


async def test_me_needs_a_user_of_this_app(http: httpx.AsyncClient, anon_http: httpx.AsyncClient, app: App) -> None:
    response = await anon_http.get(f"/auth/{app.id}/me")
    assert (response.status_code, code_of(response)) == (401, "AUTH_REQUIRED")
    assert code_of(await http.get(f"/auth/{app.id}/me")) == "AUTH_REQUIRED"
    assert code_of(await me(anon_http, app, "nonsense")) == "AUTH_INVALID_TOKEN"
    assert code_of(await me(anon_http, app, "bb_sk_" + "0" * 40)) == "AUTH_INVALID_API_KEY"


async def test_a_deleted_user_is_gone_though_the_token_lives(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    async with users_of(deps, app) as connection:
        await connection.execute("delete from auth.users")
    assert (await me(anon_http, app, tokens["access_token"])).status_code == 404
    assert (await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])).status_code == 401


async def test_a_refresh_token_is_good_for_one_use_and_kept_as_a_hash(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    first = await log_in(anon_http, app)
    response = await post(anon_http, app, "refresh", refreshToken=first["refresh_token"])
    assert response.status_code == 200
    second = response.json()
    assert set(second) == TOKENS | CAMEL | {"user"}
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    async with users_of(deps, app) as connection:
        kept = str(await connection.fetch("select * from auth.refresh_tokens")) + str(
            await connection.fetch("select * from auth.sessions")
        )
    assert first["refresh_token"] not in kept
    assert second["refresh_token"] not in kept


async def test_a_replayed_refresh_token_ends_its_session_and_no_other(anon_http: httpx.AsyncClient, app: App) -> None:
    await sign_up(anon_http, app)
    stolen, other = await log_in(anon_http, app), await log_in(anon_http, app)
    second = (await post(anon_http, app, "refresh", refresh_token=stolen["refresh_token"])).json()
    for token in (stolen["refresh_token"], second["refresh_token"]):
        response = await post(anon_http, app, "refresh", refresh_token=token)
        assert (response.status_code, code_of(response)) == (401, "AUTH_INVALID_REFRESH_TOKEN")
    assert (await post(anon_http, app, "refresh", refresh_token=other["refresh_token"])).status_code == 200


async def test_two_uses_at_once_give_one_pair_at_most(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    answers = await asyncio.gather(
        *(post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"]) for _ in range(6))
    )
    assert sorted(a.status_code for a in answers) == [200, *[401] * 5]
    async with users_of(deps, app) as connection:
        assert await connection.fetchval("select count(*) from auth.sessions") == 0


async def test_an_expired_refresh_token_is_refused(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.refresh_tokens set expires_at = now()")
    response = await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])
    assert code_of(response) == "AUTH_INVALID_REFRESH_TOKEN"
    assert code_of(await post(anon_http, app, "refresh", refresh_token="x")) == "AUTH_INVALID_REFRESH_TOKEN"


async def test_logging_out_ends_every_session(anon_http: httpx.AsyncClient, app: App) -> None:
    await sign_up(anon_http, app)
    one, two = await log_in(anon_http, app), await log_in(anon_http, app)
    response = await post(anon_http, app, "logout", one["access_token"])
    assert response.status_code == 200
    assert set(response.json()) == {"message"}
    for tokens in (one, two):
        assert (await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])).status_code == 401
    assert (await post(anon_http, app, "logout")).status_code == 401


async def test_an_old_credential_sent_along_does_not_keep_anybody_out(anon_http: httpx.AsyncClient, app: App) -> None:
    await sign_up(anon_http, app)
    for credential in ("expired.or.nonsense", "bb_sk_" + "0" * 40):
        response = await post(anon_http, app, "login", credential, email="ann@example.com", password=PASSWORD)
        assert response.status_code == 200
        refreshed = await post(anon_http, app, "refresh", credential, refresh_token=response.json()["refresh_token"])
        assert refreshed.status_code == 200


async def test_a_disabled_account_is_told_so_after_the_password_alone(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.users set disabled_at = now()")
    response = await post(anon_http, app, "login", email="ann@example.com", password=PASSWORD)
    assert (response.status_code, code_of(response)) == (403, "ACCOUNT_DISABLED")
    response = await post(anon_http, app, "login", email="ann@example.com", password="Wrong-horse-7")
    assert code_of(response) == "AUTH_INVALID_CREDENTIALS"
    response = await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])
    assert code_of(response) == "AUTH_INVALID_REFRESH_TOKEN"


async def test_a_server_in_read_only_mode_lets_nobody_in(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    reading = replace(deps, settings=replace(deps.settings, read_only=True))
    async with http_client(reading) as client:
        for path, body in (
            ("signup", {"email": "bob@example.com", "password": PASSWORD}),
            ("login", {"email": "ann@example.com", "password": PASSWORD}),
            ("refresh", {"refresh_token": tokens["refresh_token"]}),
            ("forgot-password", {"email": "ann@example.com"}),
        ):
            response = await post(client, app, path, **body)
            assert (response.status_code, code_of(response)) == (403, "AUTH_FORBIDDEN"), path
        assert (await me(client, app, tokens["access_token"])).status_code == 200
    assert (await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])).status_code == 200


async def test_passwords_are_hashed_off_the_loop_and_a_few_at_once(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> None:
    from brolly.auth import passwords

    running: set[int] = set()
    most = 0
    hash_one = passwords._hash

    def watched(password: str) -> str:
        nonlocal most
        running.add(threading.get_ident())
        most = max(most, len(running))
        try:
            return hash_one(password)
        finally:
            running.discard(threading.get_ident())

    monkeypatch.setattr(passwords, "_hash", watched)
    made = await asyncio.gather(*(passwords.hash_password(deps, PASSWORD) for _ in range(20)))
    assert len(set(made)) == 20
    assert 1 <= most <= 4


async def test_unknown_and_paused_apps_answer_as_such(
    http: httpx.AsyncClient, anon_http: httpx.AsyncClient, app: App
) -> None:
    response = await anon_http.post("/auth/app_000000000000/login", json={"email": "a@b.cd", "password": "x"})
    assert (response.status_code, code_of(response)) == (404, "RESOURCE_NOT_FOUND")
    await sign_up(anon_http, app)
    await http.patch(f"/v1/{app.id}/config/pause", json={"paused": True})
    response = await post(anon_http, app, "login", email="ann@example.com", password=PASSWORD)
    assert (response.status_code, code_of(response)) == (503, "APP_PAUSED")


async def test_what_users_do_is_in_the_audit_log(
    http: httpx.AsyncClient, anon_http: httpx.AsyncClient, app: App
) -> None:
    user = await sign_up(anon_http, app)
    await log_in(anon_http, app)
    await post(anon_http, app, "login", email="ann@example.com", password="Wrong-horse-7")
    logs = (await http.get(f"/v1/{app.id}/audit-logs", params={"category": "auth"})).json()["logs"]
    assert [(row["event_type"], row["success"]) for row in logs] == [
        ("auth.login", False),
        ("auth.login", True),
        ("auth.signup", True),
    ]
    assert {row["resource_id"] for row in logs} == {user["id"]}
    assert PASSWORD not in str(logs)
