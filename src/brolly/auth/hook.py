"""The function of the app that runs after each sign-up and sign-in. It is set off once all is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App

log = logging.getLogger("brolly.auth")

Event = Literal["signup", "login", "oauth_login", "magic_link_login"]


def _nothing() -> None:
    pass


async def keep_hook(
    deps: Deps,
    app: App,
    connection: Connection,
    event: Event,
    user: Any,
    *,
    when: bool,
    provider: str = "email",
    new: bool = False,
) -> Callable[[], None]:
    """Keep the event for the hook (capability ``keep_auth_hook``), bound to the sign-in's transaction.

    What comes back sets the hook off; call it after the commit. It waits for nothing, and neither of the two ever
    keeps anybody from signing in. ``when``: whether somebody was let in at all. ``provider`` is how the user came in
    this time; the user's own is how the account was made.
    """
    keep = deps.capabilities.get("keep_auth_hook")
    if keep is None or app.auth_hook_function is None or not when:
        return _nothing
    names = ("email", "provider", "display_name", "avatar_url")
    shown = {"id": str(user["id"]), **{name: user[name] for name in names}}
    payload = {"event": event, "user": shown, "isNewUser": new, "provider": provider}
    try:
        return await keep(deps, app, connection, payload)
    except Exception:
        log.exception("the auth hook of %s was not set off", app.id)
        return _nothing
