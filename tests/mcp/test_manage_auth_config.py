"""manage_auth_config update_jwt and configure_auth_hook, by their effect. Keys are in test_keys."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_sessions import log_in, sign_up
from tests.conftest import ToolFailed


async def refusal(mcp: Any, **arguments: Any) -> str:
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_auth_config", **arguments)
    return failed.value.code


async def test_new_tokens_live_as_long_as_configured(http: httpx.AsyncClient, mcp: Any, deps: Deps, app: App) -> None:
    await sign_up(http, app)
    assert (await log_in(http, app))["expires_in"] == 900
    done = await mcp("manage_auth_config", action="update_jwt", app_id=app.id, accessTokenTtl="2h")
    assert done["jwt_config"] == {"accessTokenTtl": "2h", "refreshTokenTtlDays": 7}
    assert done["app_id"] == app.id
    assert (await log_in(http, app))["expires_in"] == 7200
    response = await http.patch(f"/v1/{app.id}/config/jwt", json={"refreshTokenTtlDays": 30})
    assert response.json()["jwt_config"] == {"accessTokenTtl": "2h", "refreshTokenTtlDays": 30}
    await log_in(http, app)
    async with users_of(deps, app) as connection:
        days = await connection.fetchval("select extract(day from max(expires_at) - now())::int from auth.sessions")
    assert days in (29, 30)


@pytest.mark.parametrize(
    "arguments",
    [
        {"accessTokenTtl": "15"},
        {"accessTokenTtl": "0m"},
        {"accessTokenTtl": "31d"},
        {"accessTokenTtl": "15m; drop"},
        {"refreshTokenTtlDays": 0},
        {"refreshTokenTtlDays": 366},
    ],
)
async def test_lifetimes_that_make_no_sense_are_refused(mcp: Any, app: App, arguments: dict[str, Any]) -> None:
    assert await refusal(mcp, action="update_jwt", app_id=app.id, **arguments) == "VALIDATION_INVALID_SCHEMA"


async def test_nothing_to_change_is_an_error(mcp: Any, app: App) -> None:
    assert await refusal(mcp, action="update_jwt", app_id=app.id) == "VALIDATION_MISSING_FIELD"
    assert await refusal(mcp, action="update_jwt", app_id="app_000000000000", accessTokenTtl="1h") == (
        "RESOURCE_NOT_FOUND"
    )


async def test_a_hook_must_exist_before_it_is_named(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    code = await refusal(mcp, action="configure_auth_hook", app_id=app.id, post_auth_function="welcome")
    assert code == "VALIDATION_INVALID_SCHEMA"
    done = await mcp("manage_auth_config", action="configure_auth_hook", app_id=app.id)
    assert done["auth_hook_function"] is None
    response = await http.patch(f"/v1/{app.id}/config/auth-hooks", json={"post_auth_function": None})
    assert response.json()["auth_hook_function"] is None
