"""The second factor: enrolling, signing in with it, recovery codes, and what must not get past it."""

from __future__ import annotations

import base64
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from brolly.auth.access import users_of
from brolly.core.totp import STEP_SECONDS, matching_step, totp
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_mail import ANN, NEW, newest
from tests.api.test_auth_sessions import PASSWORD, code_of, log_in, post, sign_up


def codes_of(secret: str, count: int = 3) -> list[str]:
    """The codes of this step and of those around it, oldest first."""
    raw = base64.b32decode(secret + "=" * (-len(secret) % 8))
    step = int(time.time()) // STEP_SECONDS
    return [totp(raw, step + n) for n in range(-1, count - 1)]


async def confirmed(client: httpx.AsyncClient, app: App, deps: Deps | None = None) -> dict[str, Any]:
    """The tokens of a user whose address is confirmed, by the owner unless ``deps`` shows the code."""
    user = await sign_up(client, app)
    tokens = await log_in(client, app)
    if deps is None:
        response = await client.patch(f"/v1/{app.id}/admin/auth/users/{user['id']}", json={"email_verified": True})
    else:
        code, _ = await newest(deps, app, "verify_email")
        response = await post(client, app, "verify-email", tokens["access_token"], email=ANN, code=code)
    assert response.status_code == 200, response.text
    return tokens


async def enrolled(
    client: httpx.AsyncClient, app: App, deps: Deps | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A user whose second factor is in force; the tokens, and what enrolling answered."""
    tokens = await confirmed(client, app, deps)
    factor = (await post(client, app, "mfa/enroll", tokens["access_token"])).json()
    # The oldest code that holds, so that later ones are still unused.
    response = await post(client, app, "mfa/activate", tokens["access_token"], code=codes_of(factor["secret"])[0])
    assert response.status_code == 200, response.text
    return tokens, factor


async def challenge(client: httpx.AsyncClient, app: App) -> str:
    response = await post(client, app, "login", email=ANN, password=PASSWORD)
    assert (response.status_code, code_of(response)) == (403, "MFA_REQUIRED")
    body = response.json()
    assert body["mfa_token"] == body["mfaToken"]
    assert "access_token" not in response.text
    return body["mfa_token"]


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    assert totp(b"12345678901234567890", seconds // 30) == code
    assert matching_step(b"12345678901234567890", code, seconds + 30) == seconds // 30
    assert matching_step(b"12345678901234567890", code, seconds + 90) is None


async def test_enrolling_shows_what_an_authenticator_needs(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    tokens = await confirmed(anon_http, app, deps)
    response = await post(anon_http, app, "mfa/enroll", tokens["access_token"])
    assert response.status_code == 200
    factor = response.json()
    assert set(factor) == {"secret", "otpauth_url", "recovery_codes"}
    url = urlsplit(factor["otpauth_url"])
    assert (url.scheme, url.netloc) == ("otpauth", "totp")
    assert parse_qs(url.query)["secret"] == [factor["secret"]]
    assert len(set(factor["recovery_codes"])) == 10
    async with users_of(deps, app) as connection:
        kept = str(dict(await connection.fetchrow("select * from auth.users")))
        kept += str(await connection.fetch("select * from auth.recovery_codes"))
    assert factor["secret"] not in kept
    assert factor["recovery_codes"][0].replace("-", "") not in kept
    # It holds only once its first code was sent.
    await log_in(anon_http, app)
    assert (await post(anon_http, app, "mfa/activate", tokens["access_token"], code="000000x")).status_code == 400
    await log_in(anon_http, app)
    assert (await post(anon_http, app, "mfa/enroll")).status_code == 401


async def test_signing_in_takes_both_factors(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    _, factor = await enrolled(anon_http, app, deps)
    token = await challenge(anon_http, app)
    code = codes_of(factor["secret"])[1]
    response = await post(anon_http, app, "mfa/verify", mfaToken=token, code=code)
    assert response.status_code == 200
    assert {"access_token", "refresh_token", "user"} <= set(response.json())
    # Neither the token nor the code holds twice.
    assert code_of(await post(anon_http, app, "mfa/verify", mfa_token=token, code=code)) == "AUTH_INVALID_CODE"
    token = await challenge(anon_http, app)
    assert code_of(await post(anon_http, app, "mfa/verify", mfa_token=token, code=code)) == "AUTH_INVALID_CODE"


async def test_a_recovery_code_works_once(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    _, factor = await enrolled(anon_http, app, deps)
    code = factor["recovery_codes"][3].lower()
    token = await challenge(anon_http, app)
    assert (await post(anon_http, app, "mfa/verify", mfa_token=token, code=code)).status_code == 200
    token = await challenge(anon_http, app)
    assert (await post(anon_http, app, "mfa/verify", mfa_token=token, code=code)).status_code == 400
    other = factor["recovery_codes"][4]
    assert (await post(anon_http, app, "mfa/verify", mfa_token=token, code=other)).status_code == 200


async def test_a_token_takes_five_tries_and_five_minutes(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    _, factor = await enrolled(http, app, deps)
    token = await challenge(http, app)
    for _ in range(5):
        assert (await post(http, app, "mfa/verify", mfa_token=token, code="abcdef")).status_code == 400
    good = codes_of(factor["secret"])[1]
    assert code_of(await post(http, app, "mfa/verify", mfa_token=token, code=good)) == "AUTH_INVALID_CODE"
    token = await challenge(http, app)
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.codes set expires_at = now()")
    assert code_of(await post(http, app, "mfa/verify", mfa_token=token, code=good)) == "AUTH_INVALID_CODE"
    assert code_of(await post(http, app, "mfa/verify", mfa_token="x", code=good)) == "AUTH_INVALID_CODE"


async def test_guessing_the_second_factor_locks_the_account(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    """The right password in between does not begin the row of failures anew."""
    await enrolled(http, app, deps)
    seen: list[str] = []
    for _ in range(3):
        response = await post(http, app, "login", email=ANN, password=PASSWORD)
        seen.append(code_of(response))
        for _ in range(4):
            tried = await post(http, app, "mfa/verify", mfa_token=response.json()["mfa_token"], code="abcdef")
            seen.append(code_of(tried))
    assert seen.count("AUTH_INVALID_CODE") == 10
    assert seen[-2:] == ["ACCOUNT_LOCKED"] * 2
    assert code_of(await post(http, app, "login", email=ANN, password=PASSWORD)) == "ACCOUNT_LOCKED"


async def test_neither_magic_link_nor_reset_gets_past_it(http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    tokens, _ = await enrolled(http, app, deps)
    await post(http, app, "magic-link", email=ANN)
    code, _ = await newest(deps, app, "magic_link")
    response = await post(http, app, "magic-link/verify", email=ANN, code=code)
    assert (response.status_code, code_of(response)) == (403, "MFA_REQUIRED")
    assert response.json()["mfa_token"]
    await post(http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    await post(http, app, "reset-password", email=ANN, code=code, new_password=NEW)
    response = await post(http, app, "login", email=ANN, password=NEW)
    assert code_of(response) == "MFA_REQUIRED"
    assert code_of(await post(http, app, "mfa/enroll", tokens["access_token"])) == "RESOURCE_CONFLICT"


async def test_it_is_removed_for_a_code(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    tokens, factor = await enrolled(anon_http, app, deps)
    address, headers = f"/auth/{app.id}/mfa", {"Authorization": f"Bearer {tokens['access_token']}"}
    response = await anon_http.request("DELETE", address, json={"code": "123"}, headers=headers)
    assert code_of(response) == "AUTH_INVALID_CODE"
    await challenge(anon_http, app)
    code = factor["recovery_codes"][0]
    assert (await anon_http.request("DELETE", address, json={"code": code})).status_code == 401
    response = await anon_http.request("DELETE", address, json={"code": code}, headers=headers)
    assert response.status_code == 200
    await log_in(anon_http, app)


async def test_an_unconfirmed_address_gets_no_second_factor(anon_http: httpx.AsyncClient, app: App) -> None:
    await sign_up(anon_http, app)
    tokens = await log_in(anon_http, app)
    response = await post(anon_http, app, "mfa/enroll", tokens["access_token"])
    assert (response.status_code, code_of(response)) == (403, "AUTH_FORBIDDEN")
    assert "verify-email" in response.text
    await log_in(anon_http, app)


@pytest.mark.parametrize("by", ["code", "token"])
async def test_confirming_shuts_out_who_signed_up_with_anothers_address(
    anon_http: httpx.AsyncClient, deps: Deps, app: App, by: str
) -> None:
    """As it was when a factor could still be enrolled unconfirmed: the factor is there before the owner confirms."""
    intruder, factor = await enrolled(anon_http, app, deps)
    async with users_of(deps, app) as connection:
        await connection.execute("update auth.users set email_verified = false")
    await post(anon_http, app, "verify-email/resend", email=ANN)
    code, token = await newest(deps, app, "verify_email")
    mfa_token = await challenge(anon_http, app)
    body = {"email": ANN, "code": code} if by == "code" else {"token": token}
    response = await post(anon_http, app, "verify-email", **body)
    assert response.status_code == 200
    assert "forgot-password" in response.json()["message"]
    assert (await post(anon_http, app, "refresh", refresh_token=intruder["refresh_token"])).status_code == 401
    # The factor is gone, so a password alone signs in, until it is reset.
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 200
    for used in (codes_of(factor["secret"])[1], factor["recovery_codes"][0]):
        assert (await post(anon_http, app, "mfa/verify", mfa_token=mfa_token, code=used)).status_code == 400
    await post(anon_http, app, "forgot-password", email=ANN)
    code, _ = await newest(deps, app, "reset_password")
    await post(anon_http, app, "reset-password", email=ANN, code=code, new_password=NEW)
    assert (await post(anon_http, app, "login", email=ANN, password=NEW)).status_code == 200
    assert (await post(anon_http, app, "login", email=ANN, password=PASSWORD)).status_code == 401


async def test_activating_ends_the_users_other_sessions(anon_http: httpx.AsyncClient, deps: Deps, app: App) -> None:
    mine = await confirmed(anon_http, app, deps)
    elsewhere = await log_in(anon_http, app)
    mine = (await post(anon_http, app, "refresh", refresh_token=mine["refresh_token"])).json()
    await sign_up(anon_http, app, "bob@example.com")
    bob = await log_in(anon_http, app, "bob@example.com")
    factor = (await post(anon_http, app, "mfa/enroll", mine["access_token"])).json()
    wrong = await post(anon_http, app, "mfa/activate", mine["access_token"], code="abcdef")
    assert wrong.status_code == 400
    elsewhere = (await post(anon_http, app, "refresh", refresh_token=elsewhere["refresh_token"])).json()
    right = codes_of(factor["secret"])[1]
    assert (await post(anon_http, app, "mfa/activate", mine["access_token"], code=right)).status_code == 200
    assert (await post(anon_http, app, "refresh", refresh_token=elsewhere["refresh_token"])).status_code == 401
    for kept in (mine, bob):
        assert (await post(anon_http, app, "refresh", refresh_token=kept["refresh_token"])).status_code == 200
