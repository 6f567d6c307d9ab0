"""Signing in through a provider: away to it with a state that is bound to the browser, and back with a code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from pydantic import Field

from brolly.auth.access import open_app, users_of
from brolly.auth.entry import answer, enter
from brolly.auth.events import note
from brolly.auth.hook import keep_hook
from brolly.auth.identities import account_of
from brolly.auth.limits import admit
from brolly.auth.mail import send_code
from brolly.auth.oauth_client import authorization_address, profile_for, provider_error, read_user
from brolly.auth.oauth_config import Config, callback_address, find
from brolly.auth.oauth_providers import NAME
from brolly.auth.oauth_redirects import check_redirect_to, check_redirect_uri, with_query
from brolly.auth.oauth_states import Begun, Taken, begin, make, take
from brolly.auth.service import Reply
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App

_PROVIDER_FAILED = ("OAUTH_PROVIDER_ERROR", "OAUTH_PROVIDER_UNAVAILABLE")
LONGEST = 4000


class Start(AppParams):
    """Query of the start."""

    provider: str = Field(max_length=100)
    redirect_uri: str | None = Field(None, max_length=LONGEST)
    redirect_to: str | None = Field(None, max_length=LONGEST)


class Return(AppParams):
    """What the provider sends back through the browser."""

    provider: str = Field(max_length=100)
    state: str | None = Field(None, max_length=LONGEST)
    code: str | None = Field(None, max_length=LONGEST)
    error: str | None = Field(None, max_length=LONGEST)
    error_description: str | None = Field(None, max_length=LONGEST)
    iss: str | None = Field(None, max_length=LONGEST)
    user: str | None = Field(None, max_length=LONGEST)


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the browser goes, and what it takes along (None when the sign-in does not begin)."""

    address: str
    begun: Begun | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """What the browser gets at the end: the page at ``address``, or the reply itself where no page was named."""

    reply: Reply | None = None
    address: str = ""


async def start(deps: Deps, caller: Caller, params: Start) -> Departure:
    """Send the browser to the provider."""
    app = await open_app(deps, params.app_id)
    await admit(deps, app, caller, "oauth")
    config = await _enabled(deps, app, params.provider)
    own = callback_address(deps, app, config.name)
    redirect_uri = check_redirect_uri(config.redirect_uris, params.redirect_uri, own)
    redirect_to = None if params.redirect_to is None else check_redirect_to(app, params.redirect_to)
    begun = make()
    try:
        address = await authorization_address(deps, config, begun, redirect_uri)
    except AppError as error:
        if redirect_to is None or error.code not in _PROVIDER_FAILED:
            raise
        return Departure(with_query(redirect_to, _told(error)))
    await begin(deps, app, config.name, begun, redirect_uri, redirect_to)
    return Departure(address, begun)


async def _enabled(deps: Deps, app: App, name: str) -> Config:
    config = None
    if NAME.fullmatch(name):
        async with users_of(deps, app) as connection:
            config = await find(deps, app, connection, name)
    if config is None or not config.enabled:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            "The app's users cannot sign in through this provider.",
            remediation="Let the app's owner set it up with manage_oauth configure; manage_oauth get shows which "
            "there are.",
        )
    return config


async def finish(deps: Deps, caller: Caller, params: Return, browser: str | None) -> Landing:
    """Let in who comes back. Once it is known where the sign-in began, failures are told to that page too."""
    app = await open_app(deps, params.app_id)
    await admit(deps, app, caller, "oauth_callback")
    try:
        taken = await take(deps, app, params.provider, params.state, browser)
    except AppError as error:
        await note(deps, app, caller, "oauth_login", error=error.code)
        raise
    try:
        reply = await _enter(deps, app, caller, params, taken)
    except AppError as error:
        if error.code != "MFA_REQUIRED":
            await note(deps, app, caller, "oauth_login", error=error.code)
        if taken.redirect_to is None:
            raise
        return Landing(address=with_query(taken.redirect_to, _told(error)))
    if taken.redirect_to is None:
        return Landing(reply)
    names = ("access_token", "refresh_token", "expires_in", "token_type")
    return Landing(reply, with_query(taken.redirect_to, {name: str(reply.body[name]) for name in names}))


async def _enter(deps: Deps, app: App, caller: Caller, params: Return, taken: Taken) -> Reply:
    config = await _enabled(deps, app, params.provider)
    if params.error is not None:
        raise provider_error(config.name, "the provider did not let the user in", params.error)
    if not params.code:
        raise provider_error(config.name, "the provider sent no code")
    profile = await profile_for(deps, config, taken, params.code, params.iss, read_user(params.user))
    mail: tuple[int, ...] = ()
    async with users_of(deps, app) as connection:
        account = await account_of(connection, config.name, profile)
        if account.new and profile.email is not None and not profile.verified:
            mail = (await send_code(deps, app, connection, account.user, "verify_email"),)
        entry = await enter(deps, app, caller, connection, account.user)
        about: dict[str, Any] = {"when": entry.grant is not None, "provider": config.name, "new": account.new}
        set_off = await keep_hook(deps, app, connection, "oauth_login", account.user, **about)
    user_id = str(account.user["id"])
    if account.new:
        await note(deps, app, caller, "signup", user_id)
    body = await answer(deps, app, account.user, entry)
    await note(deps, app, caller, "oauth_login", user_id)
    set_off()
    return Reply(body, app, mail)


def _told(error: AppError) -> dict[str, str]:
    """The error as parameters for a page: our code in small letters, words, and what goes with them."""
    told = {"error": error.code.lower(), "error_description": error.message}
    details = cast(dict[str, Any], error.details or {})
    kept = {name: details[name] for name in ("provider_error", "mfa_token") if name in details}
    return {**told, **{name: str(value) for name, value in kept.items()}}
