"""manage_auth_users, by what it does to signing in."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import bcrypt
import httpx
import pytest

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_mail import newest
from tests.api.test_auth_mfa import enrolled
from tests.api.test_auth_sessions import PASSWORD, code_of, log_in, post, sign_up
from tests.conftest import ToolFailed, http_client, make_owner

ANN = "ann@example.com"
# The example that Firebase publishes with its own implementation.
FIREBASE = (
    "$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,"
    "sk=jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=="
    "$42xEC+ixf3L2lw==$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=="
)


async def refusal(mcp: Any, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_auth_users", **arguments)
    return failed.value.error


async def test_users_are_listed_newest_first_page_by_page(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    for n in range(5):
        await sign_up(http, app, f"user{n}@example.com")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await mcp("manage_auth_users", action="list", app_id=app.id, limit=2, **cursor)
        assert page["untrusted"] is True
        seen += [user["email"] for user in page["users"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"user{n}@example.com" for n in (4, 3, 2, 1, 0)]
    page = await mcp("manage_auth_users", action="list", app_id=app.id, email="USER3@example.com")
    assert [user["email"] for user in page["users"]] == ["user3@example.com"]
    for bad in ("x", "W10=", "eyJhIjoxfQ==", "\u00e4"):
        error = await refusal(mcp, action="list", app_id=app.id, cursor=bad)
        assert error["code"] == "VALIDATION_INVALID_TYPE"


async def test_a_user_is_shown_without_hashes_and_secrets(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    _, factor = await enrolled(http, app)
    listed = (await mcp("manage_auth_users", action="list", app_id=app.id))["users"][0]
    user = (await mcp("manage_auth_users", action="get", app_id=app.id, user_id=listed["id"]))["user"]
    assert user["mfa_enabled"] is user["has_password"] is True
    assert (user["sessions"], user["locked"], user["locked_until"]) == (1, False, None)
    assert "argon2" not in str(user) + str(listed)
    assert factor["secret"] not in str(user)


async def test_a_disabled_user_is_kept_out_until_enabled(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    user = await sign_up(http, app)
    tokens = await log_in(http, app)
    shown = await mcp("manage_auth_users", action="update", app_id=app.id, user_id=user["id"], set={"disabled": True})
    assert shown["user"]["disabled"] is True
    assert code_of(await post(http, app, "login", email=ANN, password=PASSWORD)) == "ACCOUNT_DISABLED"
    refreshed = await post(http, app, "refresh", refresh_token=tokens["refresh_token"])
    assert code_of(refreshed) == "AUTH_INVALID_REFRESH_TOKEN"
    await mcp("manage_auth_users", action="update", app_id=app.id, user_id=user["id"], set={"disabled": False})
    await log_in(http, app)


async def test_an_update_does_what_it_names_and_nothing_else(
    http: httpx.AsyncClient, mcp: Any, deps: Deps, app: App
) -> None:
    user = await sign_up(http, app)
    for _ in range(11):
        response = await post(http, app, "login", email=ANN, password="Wrong-horse-7")
    assert code_of(response) == "ACCOUNT_LOCKED"
    change = {"action": "update", "app_id": app.id, "user_id": user["id"]}
    shown = (await mcp("manage_auth_users", **change, set={"email_verified": True}))["user"]
    assert (shown["email_verified"], shown["locked"], shown["disabled"]) == (True, True, False)
    assert shown["locked_until"]
    shown = (await mcp("manage_auth_users", **change, set={"locked": False}))["user"]
    assert (shown["email_verified"], shown["locked"]) == (True, False)
    assert (await log_in(http, app))["user"]["email_verified"] is True
    for wrong in ({}, {"locked": True}, {"password": "x"}, {"disabled": "maybe"}):
        error = await refusal(mcp, **change, set=wrong)
        assert error["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_a_lost_second_factor_is_removed(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    tokens, _ = await enrolled(http, app)
    user_id = tokens["user"]["id"]
    await mcp("manage_auth_users", action="update", app_id=app.id, user_id=user_id, set={"mfa_enabled": False})
    await log_in(http, app)


async def test_deleting_asks_and_ends_every_session(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    user = await sign_up(http, app)
    tokens = await log_in(http, app)
    error = await refusal(mcp, action="delete", app_id=app.id, user_id=user["id"])
    assert error["code"] == "CONFIRMATION_REQUIRED"
    assert "1 sessions" in error["message"]
    gone = await mcp("manage_auth_users", action="delete", app_id=app.id, user_id=user["id"], confirm=True)
    assert gone == {"deleted": True, "user_id": user["id"], "email": ANN}
    assert (await post(http, app, "refresh", refresh_token=tokens["refresh_token"])).status_code == 401
    assert (await refusal(mcp, action="get", app_id=app.id, user_id=user["id"]))["code"] == "RESOURCE_NOT_FOUND"
    assert (await refusal(mcp, action="get", app_id=app.id, user_id="1; drop"))["code"] == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        (bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode(), PASSWORD),
        (bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4, b"2a")).decode(), "x" * 80),
        (FIREBASE, "user1password"),
        ("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$dxeVC0mNBJyWUjpZl3X1ow", None),
    ],
    # The hashes have another salt at each start, and processes that share the tests must agree on their names.
    ids=["bcrypt 2b", "bcrypt 2a", "firebase", "argon2id"],
)
async def test_an_imported_hash_holds_and_is_made_anew(
    http: httpx.AsyncClient, mcp: Any, deps: Deps, app: App, stored: str, password: str | None
) -> None:
    user_id = str(uuid4())
    users = [{"email": "Ann@Example.com", "id": user_id, "password_hash": stored, "created_at": "2020-01-01T00:00:00Z"}]
    done = await mcp("manage_auth_users", action="import", app_id=app.id, users=users)
    assert done == {"imported": 1, "skipped": []}
    assert (await post(http, app, "login", email=ANN, password="Wrong-horse-7")).status_code == 401
    if password is None:
        return
    for _ in range(2):
        response = await post(http, app, "login", email=ANN, password=password)
        assert response.status_code == 200
        assert response.json()["user"]["id"] == user_id
        async with users_of(deps, app) as connection:
            assert (await connection.fetchval("select password_hash from auth.users")).startswith("$argon2id$v=19$m=19")


async def test_an_import_skips_who_exists_and_refuses_what_is_wrong_whole(
    http: httpx.AsyncClient, mcp: Any, app: App
) -> None:
    await sign_up(http, app)
    done = await mcp("manage_auth_users", action="import", app_id=app.id, users=[{"email": ANN}, {"email": "b@x.yz"}])
    assert done["imported"] == 1
    assert [(s["index"], s["email"]) for s in done["skipped"]] == [(0, ANN)]
    secret = "5f4dcc3b5aa765d61d8327deb882cf99"
    bad = [{"email": "c@x.yz"}, {"email": "d@x.yz", "password_hash": secret}, {"email": "nobody"}, {"mail": "x"}]
    error = await refusal(mcp, action="import", app_id=app.id, users=bad)
    assert error["code"] == "VALIDATION_INVALID_SCHEMA"
    assert [issue.split(":")[0] for issue in error["details"]["issues"]] == [
        "users.1.password_hash",
        "users.2",
        "users.3.email",
        "users.3.mail",
    ]
    assert secret not in str(error)
    assert len((await mcp("manage_auth_users", action="list", app_id=app.id))["users"]) == 2
    for costly in ("$2b$31$" + "a" * 53, FIREBASE.replace("n=14", "n=30"), "$argon2id$v=19$m=9999999,t=2,p=1$a$b"):
        error = await refusal(mcp, action="import", app_id=app.id, users=[{"email": "e@x.yz", "password_hash": costly}])
        assert error["code"] == "VALIDATION_INVALID_SCHEMA"


async def test_the_outbox_is_the_owners_alone(
    http: httpx.AsyncClient, anon_http: httpx.AsyncClient, deps: Deps, mcp: Any, app: App
) -> None:
    await sign_up(http, app)
    tokens = await log_in(http, app)
    code, _ = await newest(deps, app, "verify_email")
    (message,) = (await mcp("manage_auth_users", action="outbox", app_id=app.id))["messages"]
    assert (message["to"], message["kind"], message["sent_at"]) == (ANN, "verify_email", None)
    assert code in message["body"]
    address = f"/v1/{app.id}/auth/outbox"
    assert (await http.get(address)).json()["messages"] == [message]
    assert (await anon_http.get(address)).status_code == 401
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert (await anon_http.get(address, headers=headers)).status_code == 401
    # A code is a way in, so a key that may only read does not see it.
    _, reader = await make_owner(deps, ("*", "read"), app.account_id)
    async with http_client(deps, reader) as client:
        assert (await client.get(address)).json()["messages"] == [{**message, "body": None}]
    _, key = await make_owner(deps)
    async with http_client(deps, key) as stranger:
        for path in (address, f"/v1/{app.id}/admin/auth/users"):
            assert (await stranger.get(path)).status_code == 404


async def test_the_same_over_http(http: httpx.AsyncClient, app: App) -> None:
    user = await sign_up(http, app)
    address = f"/v1/{app.id}/admin/auth/users"
    body = (await http.get(address, params={"limit": 50})).json()
    assert ([u["id"] for u in body["users"]], body["next_cursor"]) == ([user["id"]], None)
    assert (await http.get(address, params={"cursor": "x"})).status_code == 400
    patched = await http.patch(f"{address}/{user['id']}", json={"email_verified": True})
    assert patched.json()["user"]["email_verified"] is True
    assert (await http.get(f"{address}/{user['id']}")).json()["user"]["email_verified"] is True
    assert (await http.post(address, json={"users": [{"email": "b@x.yz"}]})).json()["imported"] == 1
    gone = await http.delete(f"{address}/{user['id']}")
    assert gone.json() == {"deleted": True, "user_id": user["id"], "email": ANN}
    assert (await http.delete(f"{address}/{user['id']}")).status_code == 404
