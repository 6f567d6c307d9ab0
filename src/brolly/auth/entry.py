"""The last step of every way in: a session, or the question for the second factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brolly.auth.codes import make_code
from brolly.auth.limits import forgive_one, signed_in
from brolly.auth.sessions import Grant, open_session, token_set
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody gets who has shown who it is: a session, or a token for the second factor."""

    grant: Grant | None = None
    mfa_token: str = ""
    disabled: bool = False


async def enter(
    deps: Deps, app: App, caller: Caller, connection: Connection, user: Any, *, counted: bool = False
) -> Entry:
    """Let the user in, in the caller's transaction. ``counted``: ``admit`` counted this attempt as a failure."""
    if user["disabled_at"] is not None:
        return Entry(disabled=True)
    if user["mfa_enabled_at"] is not None:
        if counted:
            # The row of failures ends with the second factor, not with the first.
            await forgive_one(deps, app, connection, caller, user["email"])
        _, token = await make_code(deps, app, connection, user["id"], "mfa")
        return Entry(mfa_token=token)
    await signed_in(deps, app, connection, caller, user["email"])
    return Entry(await open_session(connection, app, user["id"], caller))


async def answer(deps: Deps, app: App, user: Any, entry: Entry) -> dict[str, Any]:
    """The token set; raises when the account is disabled or a second factor is needed. After the commit."""
    if entry.disabled:
        raise AppError("ACCOUNT_DISABLED", "This account is disabled.")
    if entry.mfa_token:
        raise AppError(
            "MFA_REQUIRED",
            "This account needs a second factor.",
            details={"mfa_token": entry.mfa_token, "mfaToken": entry.mfa_token},
        )
    if entry.grant is None:
        raise RuntimeError("an entry without a session")
    return await token_set(deps, app, user, entry.grant)
