"""How often somebody may try: the lock-out after failures in a row, and limits per address."""

from __future__ import annotations

import asyncio

import httpx

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_sessions import PASSWORD, code_of, log_in, post, sign_up
from tests.conftest import http_client


async def test_ten_failures_in_a_row_lock_the_account_whether_it_exists_or_not(
    anon_http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(anon_http, app)
    for email in ("ann@example.com", "nobody@example.com"):
        async with users_of(deps, app) as connection:
            await connection.execute("delete from auth.limits")
        for _ in range(10):
            response = await post(anon_http, app, "login", email=email, password="Wrong-horse-7")
            assert code_of(response) == "AUTH_INVALID_CREDENTIALS"
        response = await post(anon_http, app, "login", email=email, password=PASSWORD)
        assert (response.status_code, code_of(response)) == (403, "ACCOUNT_LOCKED")
        assert 1700 < int(response.headers["retry-after"]) <= 1800
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.limits set until = now()")
    assert (await post(anon_http, app, "login", email="ann@example.com", password=PASSWORD)).status_code == 200


async def test_failures_at_the_same_moment_are_all_counted(deps: Deps, http: httpx.AsyncClient, app: App) -> None:
    await sign_up(http, app)
    answers = await asyncio.gather(
        *(post(http, app, "login", email="ann@example.com", password="Wrong-horse-7") for _ in range(25))
    )
    codes = sorted(code_of(a) for a in answers)
    assert codes == ["ACCOUNT_LOCKED"] * 15 + ["AUTH_INVALID_CREDENTIALS"] * 10


async def test_a_success_ends_the_row_of_failures(http: httpx.AsyncClient, app: App) -> None:
    await sign_up(http, app)
    for _ in range(2):
        for _ in range(9):
            await post(http, app, "login", email="ann@example.com", password="Wrong-horse-7")
        await log_in(http, app)


async def test_one_address_may_try_so_often_and_not_more(
    deps: Deps, anon_http: httpx.AsyncClient, owner_key: str, app: App
) -> None:
    for n in range(5):
        await sign_up(anon_http, app, f"user{n}@example.com")
    response = await post(anon_http, app, "signup", email="more@example.com", password=PASSWORD)
    assert (response.status_code, code_of(response)) == (429, "QUOTA_RATE_LIMIT")
    assert 1 <= int(response.headers["retry-after"]) <= 900
    # The owner's server has one address for all its users.
    await sign_up_with_key(deps, owner_key, app)
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.limits set until = now()")
    await sign_up(anon_http, app, "more@example.com")


async def sign_up_with_key(deps: Deps, key: str, app: App) -> None:
    async with http_client(deps, key) as client:
        await sign_up(client, app, "server@example.com")
