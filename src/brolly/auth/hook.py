"""The function of the app that runs after each sign-up and sign-in. It is set off once all is committed."""

from __future__ import annotations

import logging
from typing import Any, Literal

from brolly.deps import Deps
from brolly.registry import App

log = logging.getLogger("brolly.auth")

Event = Literal["signup", "login", "oauth_login", "magic_link_login"]


async def run_hook(
    deps: Deps, app: App, event: Event, user: Any, *, provider: str = "email", new: bool = False
) -> None:
    """Set the hook off (capability ``run_auth_hook``). Never waits for it, and never keeps anybody from signing in.

    ``provider`` is how the user came in this time; the user's own is how the account was made.
    """
    run = deps.capabilities.get("run_auth_hook")
    if run is None or app.auth_hook_function is None:
        return
    names = ("email", "provider", "display_name", "avatar_url")
    shown = {"id": str(user["id"]), **{name: user[name] for name in names}}
    try:
        await run(deps, app, {"event": event, "user": shown, "isNewUser": new, "provider": provider})
    except Exception:
        log.exception("the auth hook of %s was not set off", app.id)
