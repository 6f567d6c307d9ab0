"""How an app's users sign in: lifetimes of tokens, what runs afterwards; and service keys, by their slice."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.auth.sessions import ttl_seconds
from brolly.auth.signing import LONGEST_TTL
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams, Params
from brolly.deps import Deps


class UpdateJwt(AppParams):
    """Parameters of update_jwt; what is left out stays."""

    access_token_ttl: str | None = Field(None, alias="accessTokenTtl")
    refresh_token_ttl_days: int | None = Field(None, alias="refreshTokenTtlDays", ge=1, le=365)

    @field_validator("access_token_ttl")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None and not 0 < ttl_seconds(value) <= LONGEST_TTL.total_seconds():
            raise ValueError(f"expected 1s to {LONGEST_TTL.days}d")
        return value


class AuthHook(AppParams):
    """Parameters of configure_auth_hook; without a function the hook is removed."""

    # Taken, but not told of in the list of tools, which has to stay short: the tool's page says it.
    post_auth_function: SkipJsonSchema[str | None] = None


class GenerateKey(Params):
    """Parameters of generate_service_key, which the slice of the keys checks further."""

    name: str = Field(min_length=1, max_length=100)
    app_id: str | None = None
    additional_scopes: list[str] = Field(default_factory=list[str], max_length=10)
    # Taken, but not told of: app_id says the one, and an account has no other organization.
    key_scope: SkipJsonSchema[Literal["account", "app"] | None] = None
    organization_id: SkipJsonSchema[str | None] = None


async def update_jwt(deps: Deps, caller: Caller, params: UpdateJwt) -> dict[str, Any]:
    """Set how long tokens live. Those already issued keep their time."""
    app = await deps.registry.get(caller, params.app_id)
    changes = params.model_dump(by_alias=True, exclude_none=True, exclude={"app_id"})
    if not changes:
        raise AppError("VALIDATION_MISSING_FIELD", "update_jwt needs accessTokenTtl or refreshTokenTtlDays.")
    config = await deps.control.fetchval(
        "update brolly.apps set jwt_config = jwt_config || $2::jsonb, updated_at = now() where id = $1 "
        "returning jwt_config::text",
        app.id,
        json.dumps(changes),
    )
    await deps.registry.changed(app.id)
    return {"message": "New tokens live as long.", "app_id": app.id, "jwt_config": json.loads(config)}


async def configure_auth_hook(deps: Deps, caller: Caller, params: AuthHook) -> dict[str, Any]:
    """Name the function that runs after each sign-in, or remove it."""
    app = await deps.registry.get(caller, params.app_id)
    name = params.post_auth_function
    has_function = deps.capabilities.get("has_function")
    if name is not None and (has_function is None or not await has_function(deps, app, name)):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"The app has no function {name!r}; a hook must exist before it is named.",
            remediation="Leave post_auth_function out of manage_auth_config configure_auth_hook to remove the hook.",
        )
    await deps.control.execute(
        "update brolly.apps set auth_hook_function = $2, updated_at = now() where id = $1", app.id, name
    )
    await deps.registry.changed(app.id)
    said = "The hook was removed." if name is None else f"{name} runs after each sign-in."
    return {"message": said, "app_id": app.id, "auth_hook_function": name}


async def generate_key(deps: Deps, caller: Caller, params: GenerateKey) -> dict[str, Any]:
    """Make a service key (a capability of the keys slice)."""
    return await deps.capabilities["mint_key"](deps, caller, **params.model_dump())
