"""How often somebody may try: the lock-out after failures in a row, and limits per address."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from brolly.web import build_web
from tests.api.test_auth_mail import ANN, newest, other
from tests.api.test_auth_sessions import PASSWORD, code_of, log_in, post, sign_up
from tests.conftest import http_client, make_owner


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


def client_at(deps: Deps, ip: str) -> httpx.AsyncClient:
    """A client without credentials, at that address."""
    transport = httpx.ASGITransport(build_web(deps), raise_app_exceptions=False, client=(ip, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://brolly.test")


@pytest.mark.parametrize("path", ["forgot-password", "magic-link", "verify-email/resend", "signup"])
async def test_one_address_cannot_use_up_what_an_account_allows(deps: Deps, app: App, path: str) -> None:
    body = {"email": ANN, "password": PASSWORD} if path == "signup" else {"email": ANN}
    async with client_at(deps, "192.0.2.1") as intruder, client_at(deps, "192.0.2.2") as owner:
        answers = [(await post(intruder, app, path, **body)).status_code for _ in range(25)]
        assert answers[-15:] == [429] * 15
        assert (await post(owner, app, path, **body)).status_code != 429


async def test_strangers_do_not_lock_out_an_address_that_signed_in_before(deps: Deps, app: App) -> None:
    async with (
        client_at(deps, "192.0.2.1") as owner,
        client_at(deps, "192.0.2.2") as one,
        client_at(deps, "192.0.2.3") as two,
    ):
        await sign_up(owner, app)
        await log_in(owner, app)
        for intruder in (one, two):
            for _ in range(9):
                await post(intruder, app, "login", email=ANN, password="Wrong-horse-7")
        assert code_of(await post(two, app, "login", email=ANN, password=PASSWORD)) == "ACCOUNT_LOCKED"
        await log_in(owner, app)


async def test_a_known_address_is_locked_after_ten_failures_as_well(deps: Deps, app: App) -> None:
    async with client_at(deps, "192.0.2.1") as owner:
        await sign_up(owner, app)
        await log_in(owner, app)
        for n in range(11):
            if n % 5 == 0:
                async with users_of(deps, app) as connection:
                    # Fewer attempts than the address is allowed are left as they are: the row of failures.
                    await connection.execute("update auth.limits set hits = 0 where until < now() + interval '16 min'")
            response = await post(owner, app, "login", email=ANN, password="Wrong-horse-7")
        assert code_of(response) == "ACCOUNT_LOCKED"


async def test_wrong_codes_are_capped_by_the_day_and_a_link_still_works(
    http: httpx.AsyncClient, deps: Deps, app: App
) -> None:
    await sign_up(http, app)
    answers: list[str] = []
    for n in range(51):
        if n % 5 == 0:
            async with users_of(deps, app) as connection:
                await connection.execute("update auth.limits set until = now() where until < now() + interval '16 min'")
            await post(http, app, "magic-link", email=ANN)
            code, _ = await newest(deps, app, "magic_link")
        answers.append(code_of(await post(http, app, "magic-link/verify", email=ANN, code=other(code))))
    assert answers == ["AUTH_INVALID_CODE"] * 50 + ["QUOTA_RATE_LIMIT"]
    _, token = await newest(deps, app, "magic_link")
    assert (await post(http, app, "magic-link/verify", token=token)).status_code == 200


async def test_a_right_code_does_not_count_towards_the_cap(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    await post(http, app, "magic-link", email=ANN)
    code, _ = await newest(deps, app, "magic_link")
    assert (await post(http, app, "magic-link/verify", email=ANN, code=code)).status_code == 200
    async with users_of(deps, app) as connection:
        capped = "select hits from auth.limits where until between now() + interval '23 h' and now() + interval '25 h'"
        assert [row["hits"] for row in await connection.fetch(capped)] == [0]


async def test_a_key_that_may_only_read_is_limited_by_address(deps: Deps, app: App) -> None:
    _, reader = await make_owner(deps, ("*", "read"), app.account_id)
    async with http_client(deps, reader) as client:
        answers = [
            await post(client, app, "login", email=f"u{n}@example.com", password="Wrong-horse-7") for n in range(11)
        ]
    assert [a.status_code for a in answers][-2:] == [401, 429]
