"""What goes by way of the mailbox: confirming an address, a forgotten password, signing in without one.

Asking for a message is answered alike, and after the same time, whether there is an account or not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from pydantic import Field, model_validator

from brolly.auth.access import open_app, users_of
from brolly.auth.addresses import mailbox
from brolly.auth.codes import Kind, redeem
from brolly.auth.entry import Entry, answer, enter
from brolly.auth.events import note
from brolly.auth.hook import keep_hook
from brolly.auth.identities import prove_mailbox
from brolly.auth.limits import admit, forgive, right_code
from brolly.auth.mail import send_code
from brolly.auth.passwords import check_rules, hash_password
from brolly.auth.service import Reply
from brolly.auth.sessions import USER, end_sessions
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App

_PACE = 0.1
_TAKEN_OVER = (
    "The address is confirmed. As no access token of the account came along, its sessions from before were ended: "
    "sign in. If you did not sign up yourself, set a new password by forgot-password."
)


class Address(AppParams):
    """Body of what asks for a message."""

    email: str = Field(max_length=1000)


class Code(AppParams):
    """Body of what a message brought: the address and the code, or the token alone."""

    email: str | None = Field(None, max_length=1000)
    code: str | None = Field(None, max_length=20)
    token: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.token is None and (self.email is None or self.code is None):
            raise ValueError("send email and code, or token")
        if self.token is not None and self.code is not None:
            raise ValueError("send code or token, not both")
        return self


class NewPassword(Code):
    """Body of reset-password."""

    new_password: str


@asynccontextmanager
async def _steady() -> AsyncGenerator[None]:
    """End at a whole multiple of the pace, so that the time does not tell whether a message was written."""
    started = anyio.current_time()
    yield
    took = anyio.current_time() - started
    await anyio.sleep(_PACE - took % _PACE)


async def _send(
    deps: Deps, caller: Caller, params: Address, rule: str, kind: Kind, where: str
) -> tuple[App, tuple[int, ...]]:
    """Send a code to the account of that address, if ``where`` holds for it."""
    app = await open_app(deps, params.app_id)
    email = mailbox(params.email)
    await admit(deps, app, caller, rule, email)
    async with _steady():
        # Not durable: what a crash takes is asked for again, and a commit that waits for the disk would show.
        async with users_of(deps, app, durable=False) as connection:
            if kind == "magic_link":
                await connection.execute(
                    "insert into auth.users (email) values ($1) on conflict (email) do nothing", email
                )
            user = await connection.fetchrow(
                f"select {USER} from auth.users where email = $1 and disabled_at is null and {where}", email
            )
            mail = () if user is None else (await send_code(deps, app, connection, user, kind),)
        await note(deps, app, caller, f"{kind}_sent")
    return app, mail


async def resend_verification(deps: Deps, caller: Caller, params: Address) -> Reply:
    """Another code to confirm the address."""
    app, mail = await _send(deps, caller, params, "resend", "verify_email", "not email_verified")
    return Reply({"message": "If the address waits to be confirmed, a code was sent to it."}, app, mail)


async def forgot_password(deps: Deps, caller: Caller, params: Address) -> Reply:
    """A code to set a new password."""
    app, mail = await _send(deps, caller, params, "forgot", "reset_password", "true")
    return Reply({"message": "If there is an account with this address, a code was sent to it."}, app, mail)


async def send_magic_link(deps: Deps, caller: Caller, params: Address) -> Reply:
    """A code to sign in with; an address that is new gets an account."""
    app, mail = await _send(deps, caller, params, "magic", "magic_link", "true")
    return Reply({"message": "A code to sign in with was sent to the address."}, app, mail)


async def _admitted(deps: Deps, caller: Caller, params: Code, rule: str) -> tuple[App, str | None]:
    app = await open_app(deps, params.app_id)
    email = None if params.email is None else mailbox(params.email)
    await admit(deps, app, caller, rule, email)
    return app, email


def _checked(user: Any) -> Any:
    if user is None:
        raise AppError("AUTH_INVALID_CODE", "The code is wrong, was used already or has expired.")
    return user


async def verify_email(deps: Deps, caller: Caller, params: Code) -> Reply:
    """Confirm the address. Whoever made the account keeps their way in only where the request is theirs."""
    app, email = await _admitted(deps, caller, params, "verify")
    theirs = False
    async with users_of(deps, app) as connection:
        user = await redeem(deps, app, connection, "verify_email", email, params.code, params.token)
        if user is not None:
            theirs = user["email_verified"] or _is(caller, app, user)
            if theirs:
                await connection.execute("update auth.users set email_verified = true where id = $1", user["id"])
            else:
                # Published clients confirm before they sign in, so the password stays; a reset removes it.
                await prove_mailbox(connection, user, keep_password=True)
    await note(deps, app, caller, "verify_email", str(_checked(user)["id"]))
    return Reply({"message": "The address is confirmed." if theirs else _TAKEN_OVER}, app)


def _is(caller: Caller, app: App, user: Any) -> bool:
    """Whether the request carries that very user's access token."""
    return caller.kind == "user" and caller.claims.get("app_id") == app.id and caller.user_id == str(user["id"])


async def reset_password(deps: Deps, caller: Caller, params: NewPassword) -> Reply:
    """Set a new password; every session ends, a lock is lifted, and the mailbox is proven."""
    # Before the code is used up, so that it is still good for a second try.
    check_rules(params.new_password)
    app, email = await _admitted(deps, caller, params, "reset")
    hashed = await hash_password(deps, params.new_password)
    async with users_of(deps, app) as connection:
        user = await redeem(deps, app, connection, "reset_password", email, params.code, params.token)
        if user is not None:
            await prove_mailbox(connection, user)
            await connection.execute(
                "update auth.users set password_hash = $2, updated_at = now() where id = $1", user["id"], hashed
            )
            await end_sessions(connection, user["id"])
            await forgive(deps, app, connection, user["email"])
            await right_code(deps, app, connection, "reset", email)
    await note(deps, app, caller, "reset_password", str(_checked(user)["id"]))
    return Reply({"message": "The password was changed; sign in with it."}, app)


async def verify_magic_link(deps: Deps, caller: Caller, params: Code) -> Reply:
    """Sign in with the code from the message."""
    app, email = await _admitted(deps, caller, params, "magic_verify")
    new = False
    async with users_of(deps, app) as connection:
        user = await redeem(deps, app, connection, "magic_link", email, params.code, params.token)
        entry = Entry()
        if user is not None:
            # Made when the message was asked for, and nobody came in or set a password since.
            new = await connection.fetchval(
                "select last_sign_in_at is null and password_hash is null from auth.users where id = $1", user["id"]
            )
            await prove_mailbox(connection, user)
            await right_code(deps, app, connection, "magic_verify", email)
            user = await connection.fetchrow(f"select {USER} from auth.users where id = $1", user["id"])
            entry = await enter(deps, app, caller, connection, user)
        let_in = entry.grant is not None
        set_off = await keep_hook(deps, app, connection, "magic_link_login", user, when=let_in, new=new)
    body = await answer(deps, app, _checked(user), entry)
    await note(deps, app, caller, "magic_link_login", body["user"]["id"])
    set_off()
    return Reply(body, app)
