"""Who uses the gateway, for whose account, under which rules, and by whose providers."""

from __future__ import annotations

from dataclasses import dataclass

from brolly.ai.config import AiConfig, config_of, owned_provider
from brolly.ai.providers import Provider, platform_providers
from brolly.ai.spending import Account
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App


@dataclass(frozen=True, slots=True)
class Visit:
    """One use of the gateway. ``providers``: the owner's own first, then the server's."""

    deps: Deps
    caller: Caller
    app: App | None
    account: Account
    config: AiConfig
    providers: tuple[Provider, ...]


async def visit_app(deps: Deps, caller: Caller, app_id: str) -> Visit:
    """For an app: its keys and its users; nobody without credentials, since every call costs the owner money."""
    app = await deps.registry.open(caller, app_id)
    if caller.kind == "anonymous":
        raise AppError(
            "AUTH_REQUIRED",
            "Models answer to the app's users and keys alone, since its owner pays for each call.",
            remediation="Sign in at POST /auth/{app_id}/login and send its access_token (manage_auth_users list shows "
            "who can), or send a service key.",
        )
    refuse_readers(deps, caller)
    return of_app(deps, caller, app)


def of_app(deps: Deps, caller: Caller, app: App) -> Visit:
    """As ``visit_app``, where it is decided already that the caller may."""
    owned = owned_provider(deps, app)
    providers = platform_providers(deps.settings)
    user = caller.user_id or "" if caller.kind == "user" else ""
    account = Account(app.account_id, app.id, user)
    return Visit(deps, caller, app, account, config_of(app), (owned, *providers) if owned else providers)


def visit_account(deps: Deps, caller: Caller) -> Visit:
    """For no app: keys of the whole account, and those that were given the gateway."""
    if caller.kind != "service" or caller.account_id is None:
        raise AppError("AUTH_REQUIRED", "The gateway without an app needs a service key.")
    if not {"*", "ai:gateway"} & caller.scopes:
        raise AppError(
            "AUTH_FORBIDDEN",
            "The gateway without an app needs a key for the whole account, or one with the scope ai:gateway.",
            remediation="Call the app's own gateway, POST /v1/{app_id}/chat/completions, or make a key with "
            'manage_auth_config generate_service_key and additional_scopes ["ai:gateway"].',
        )
    refuse_readers(deps, caller)
    account = Account(caller.account_id, None)
    return Visit(deps, caller, None, account, config_of(None), platform_providers(deps.settings))


def refuse_readers(deps: Deps, caller: Caller) -> None:
    """Raise where nothing may be changed: a call spends."""
    if deps.settings.read_only or caller.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server or key is in read-only mode; calls of models spend, and are refused.",
            remediation="Use a server and key that are not read-only; manage_ai list_models and get_usage work as "
            "they are.",
        )


async def count_call(at: Visit) -> None:
    """Count a user's call; raises when they call too often."""
    if at.caller.kind != "user" or not at.config.user_calls:
        return
    subject = f"ai:{at.account.app_id}:{at.caller.user_id}"
    standing = await at.deps.rates.take_one(subject, at.config.user_calls)
    if not standing.admitted:
        raise AppError(
            "QUOTA_RATE_LIMIT",
            f"More than {standing.limit} calls of models in a minute by one user.",
            remediation="Wait for the number of seconds in Retry-After, or raise userRequestsPerMinute with manage_ai "
            "update_config.",
            details={"limit": standing.limit, "retry_after": standing.reset},
            retry_after=standing.reset,
        )
