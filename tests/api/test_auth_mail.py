"""What goes by way of the mailbox: codes, their limits, and the messages that bring them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from brolly.auth.access import users_of
from brolly.core.errors import AppError
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_sessions import PASSWORD, code_of, log_in, me, post, sign_up
from tests.conftest import http_client

NEW = "Battery-staple-8"
ANN = "ann@example.com"


async def messages(deps: Deps, app: App) -> list[dict[str, Any]]:
    async with users_of(deps, app) as connection:
        return [dict(row) for row in await connection.fetch("select * from auth.outbox order by id")]


async def newest(deps: Deps, app: App, kind: str) -> tuple[str, str]:
    """Code and token of the newest message."""
    message = (await messages(deps, app))[-1]
    assert message["kind"] == kind
    code = re.search(r": (\d{6})\n", message["body"])
    token = re.search(r"token: (\S{43})\n", message["body"])
    assert code
    assert token
    return code.group(1), token.group(1)


def other(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06}"


async def test_the_code_of_signing_up_confirms_the_address_once(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    code, _ = await newest(deps, app, "verify_email")
    assert (await messages(deps, app))[-1]["recipient"] == ANN
    response = await post(anon_http, app, "verify-email", email=ANN, code=other(code))
    assert (response.status_code, code_of(response)) == (400, "AUTH_INVALID_CODE")
    mine = await log_in(anon_http, app)
    response = await post(anon_http, app, "verify-email", mine["access_token"], email="ANN@example.com", code=code)
    assert (response.status_code, set(response.json())) == (200, {"message"})
    # Whoever confirms with the account's own access token keeps password and sessions.
    assert (await post(anon_http, app, "refresh", refresh_token=mine["refresh_token"])).status_code == 200
    tokens = await log_in(anon_http, app)
    assert tokens["user"]["email_verified"] is True
    assert code_of(await post(anon_http, app, "verify-email", email=ANN, code=code)) == "AUTH_INVALID_CODE"


async def test_a_code_sent_again_replaces_the_first(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    first, _ = await newest(deps, app, "verify_email")
    await post(anon_http, app, "verify-email/resend", email=ANN)
    second, token = await newest(deps, app, "verify_email")
    if first != second:
        assert (await post(anon_http, app, "verify-email", email=ANN, code=first)).status_code == 400
    assert (await post(anon_http, app, "verify-email", token=token)).status_code == 200
    await post(anon_http, app, "verify-email/resend", email=ANN)
    assert len(await messages(deps, app)) == 2, "a confirmed address gets no more codes"


async def test_only_hashes_of_codes_are_kept(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    code, token = await newest(deps, app, "verify_email")
    async with users_of(deps, app) as connection:
        kept = str(dict(await connection.fetchrow("select * from auth.codes")))
    assert code not in kept
    assert token not in kept


async def test_asking_is_answered_alike_and_as_slowly_for_unknown_accounts(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    before = len(await messages(deps, app))
    for path, limit in (("forgot-password", 3), ("verify-email/resend", 3)):
        answers: list[Any] = []
        for email in (ANN, "nobody@example.com"):
            started = time.perf_counter()
            response = await post(anon_http, app, path, email=email)
            assert time.perf_counter() - started > 0.09
            answers.append((response.status_code, response.json()))
        assert answers[0] == answers[1]
        assert limit
    assert {m["recipient"] for m in (await messages(deps, app))[before:]} == {ANN}


async def test_a_forgotten_password_is_replaced_and_every_session_ends(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    await post(anon_http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    weak = await post(anon_http, app, "reset-password", email=ANN, code=code, new_password="short")
    assert code_of(weak) == "VALIDATION_WEAK_PASSWORD"
    response = await post(anon_http, app, "reset-password", email=ANN, code=code, newPassword=NEW)
    assert (response.status_code, set(response.json())) == (200, {"message"})
    assert (await post(anon_http, app, "refresh", refresh_token=tokens["refresh_token"])).status_code == 401
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 401
    assert (await post(anon_http, app, "login", email=ANN, password=NEW)).status_code == 200
    again = await post(anon_http, app, "reset-password", email=ANN, code=code, new_password=PASSWORD)
    assert code_of(again) == "AUTH_INVALID_CODE"


async def test_the_published_clients_form_takes_the_token(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    await post(anon_http, app, "forgot-password", email=ANN)
    _, token = await newest(deps, app, "reset_password")
    response = await post(anon_http, app, "reset-password", token=token, newPassword=NEW)
    assert response.status_code == 200
    assert (await post(anon_http, app, "login", email=ANN, password=NEW)).status_code == 200
    assert code_of(await post(anon_http, app, "reset-password", newPassword=NEW)) == "VALIDATION_INVALID_SCHEMA"


async def test_resetting_lifts_the_lock(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(http, app)
    for _ in range(10):
        await post(http, app, "login", email=ANN, password="Wrong-horse-7")
    assert code_of(await post(http, app, "login", email=ANN, password=PASSWORD)) == "ACCOUNT_LOCKED"
    await post(http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    await post(http, app, "reset-password", email=ANN, code=code, new_password=NEW)
    assert (await post(http, app, "login", email=ANN, password=NEW)).status_code == 200


async def test_a_code_of_one_kind_or_user_is_none_of_another(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    await sign_up(anon_http, app, "bob@example.com")
    await post(anon_http, app, "forgot-password", email="bob@example.com")
    code, token = await newest(deps, app, "reset_password")
    for path, body in (
        ("magic-link/verify", {"email": "bob@example.com", "code": code}),
        ("magic-link/verify", {"token": token}),
        ("verify-email", {"token": token}),
        ("reset-password", {"email": ANN, "code": code, "new_password": NEW}),
    ):
        assert code_of(await post(anon_http, app, path, **body)) == "AUTH_INVALID_CODE"


async def test_five_wrong_tries_use_a_code_up_even_at_once(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(http, app)
    await post(http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    await asyncio.gather(
        *(post(http, app, "reset-password", email=ANN, code=other(code), new_password=NEW) for _ in range(5))
    )
    response = await post(http, app, "reset-password", email=ANN, code=code, new_password=NEW)
    assert code_of(response) == "AUTH_INVALID_CODE"


async def test_an_expired_code_is_refused(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await sign_up(anon_http, app)
    code, token = await newest(deps, app, "verify_email")
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.codes set expires_at = now()")
    for body in ({"email": ANN, "code": code}, {"token": token}):
        assert code_of(await post(anon_http, app, "verify-email", **body)) == "AUTH_INVALID_CODE"


async def test_a_magic_link_makes_an_account_and_signs_in(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    response = await post(anon_http, app, "magic-link", email="Ann@Example.com")
    assert (response.status_code, set(response.json())) == (200, {"message"})
    code, _ = await newest(deps, app, "magic_link")
    response = await post(anon_http, app, "magic-link/verify", email=ANN, code=code)
    assert response.status_code == 200
    body = response.json()
    assert body["user"] == {
        "id": body["user"]["id"],
        "email": ANN,
        "email_verified": True,
        "display_name": None,
        "avatar_url": None,
    }
    assert (await me(anon_http, app, body["access_token"])).json()["id"] == body["user"]["id"]
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 401


async def test_who_proves_the_mailbox_takes_the_account_from_who_only_claimed_it(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    """Somebody signs up with another's address and waits for the other to use it."""
    await sign_up(anon_http, app)
    intruder = await log_in(anon_http, app)
    await post(anon_http, app, "magic-link", email=ANN)
    code, _ = await newest(deps, app, "magic_link")
    owner = (await post(anon_http, app, "magic-link/verify", email=ANN, code=code)).json()
    assert owner["user"]["id"] == intruder["user"]["id"]
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 401
    assert (await post(anon_http, app, "refresh", refresh_token=intruder["refresh_token"])).status_code == 401
    # A confirmed account keeps its password.
    await post(anon_http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    await post(anon_http, app, "reset-password", email=ANN, code=code, new_password=NEW)
    await post(anon_http, app, "magic-link", email=ANN)
    code, _ = await newest(deps, app, "magic_link")
    await post(anon_http, app, "magic-link/verify", email=ANN, code=code)
    assert (await post(anon_http, app, "login", email=ANN, password=NEW)).status_code == 200


async def test_another_users_token_does_not_keep_the_sessions_of_who_only_claimed_the_address(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    code, _ = await newest(deps, app, "verify_email")
    intruder = await log_in(anon_http, app)
    await sign_up(anon_http, app, "bob@example.com")
    bob = (await log_in(anon_http, app, "bob@example.com"))["access_token"]
    assert (await post(anon_http, app, "verify-email", bob, email=ANN, code=code)).status_code == 200
    # Clients confirm before they sign in, so the password that was chosen at sign-up still holds.
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 200
    assert (await post(anon_http, app, "refresh", refresh_token=intruder["refresh_token"])).status_code == 401
    await log_in(anon_http, app, "bob@example.com")


async def test_messages_are_limited_for_unknown_accounts_as_well(anon_http: httpx.AsyncClient, app: App) -> None:
    for _ in range(3):
        assert (await post(anon_http, app, "forgot-password", email="nobody@example.com")).status_code == 200
    response = await post(anon_http, app, "forgot-password", email="nobody@example.com")
    assert (response.status_code, code_of(response)) == (429, "QUOTA_RATE_LIMIT")


@asynccontextmanager
async def mail_server(refuse: bool = False) -> AsyncIterator[tuple[int, list[str]]]:
    """A mail server on loopback: its port, and what it was sent."""
    got: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode():
            word = line[:4].upper()
            if word == "DATA":
                writer.write(b"354 go on\r\n")
                text = ""
                while (part := (await reader.readline()).decode()) != ".\r\n":
                    text += part
                got.append(text)
                writer.write(b"250 ok\r\n")
            elif word == "RCPT" and refuse:
                writer.write(b"550 no such mailbox\r\n")
            else:
                writer.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")
            await writer.drain()
            if word == "QUIT":
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


def with_mail(deps: Deps, port: int) -> Deps:
    settings = replace(deps.settings, smtp_url=f"smtp://127.0.0.1:{port}", mail_from="Shop <no-reply@shop.test>")
    return replace(deps, settings=settings)


async def test_mail_is_sent_and_its_code_not_kept(deps: Deps, app: App) -> None:
    async with mail_server() as (port, got), http_client(with_mail(deps, port)) as client:
        await sign_up(client, app)
        (message,) = got
        assert "From: Shop <no-reply@shop.test>" in message
        assert f"To: {ANN}" in message
        code = re.search(r": (\d{6})", message)
        assert code
        (row,) = await messages(deps, app)
        assert (row["body"], row["error"]) == (None, None)
        assert row["sent_at"] is not None
        assert (await post(client, app, "verify-email", email=ANN, code=code.group(1))).status_code == 200


async def test_mail_that_is_refused_says_so_to_the_owner_alone(deps: Deps, app: App) -> None:
    async with mail_server(refuse=True) as (port, got), http_client(with_mail(deps, port)) as client:
        await sign_up(client, app)
        assert not got
        (row,) = await messages(deps, app)
        assert row["sent_at"] is None
        assert "no such mailbox" in row["error"]


@pytest.mark.parametrize(
    "values",
    [
        {"BROLLY_SMTP_URL": "http://mail.example.com", "BROLLY_MAIL_FROM": "a@b.cd"},
        {"BROLLY_SMTP_URL": "smtp://", "BROLLY_MAIL_FROM": "a@b.cd"},
        {"BROLLY_SMTP_URL": "smtp://me:s3cret@mail.example.com:x", "BROLLY_MAIL_FROM": "a@b.cd"},
        {"BROLLY_SMTP_URL": "smtp://me:s3cret@mail.example.com?tls=no", "BROLLY_MAIL_FROM": "a@b.cd"},
        {"BROLLY_SMTP_URL": "smtps://me:s3cret@mail.example.com"},
        {"BROLLY_SMTP_URL": "smtps://me:s3cret@mail.example.com", "BROLLY_MAIL_FROM": "a@b.cd\nBcc: x@y.zz"},
    ],
)
def test_mail_settings_that_cannot_work_are_refused_without_the_password(values: dict[str, str]) -> None:
    with pytest.raises(AppError) as refused:
        load_settings(values)
    assert refused.value.code == "CONFIG_INVALID"
    assert "s3cret" not in refused.value.message + refused.value.remediation
    assert "s3cret" not in repr(load_settings({"BROLLY_SMTP_URL": "smtps://x:s3cret@h", "BROLLY_MAIL_FROM": "a@b.cd"}))
