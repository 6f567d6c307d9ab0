"""Which account a person from a provider has: the one they had before, one that is joined by address, or a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brolly.auth.addresses import is_placeholder
from brolly.auth.oauth_profiles import Profile
from brolly.auth.sessions import USER, end_sessions
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.pg.pool import Connection

_KNOWN = (
    f"select {', '.join('u.' + name for name in USER.split(', '))} from auth.users u "
    "where u.id = (select user_id from auth.identities where provider = $1 and provider_uid = $2) for no key update"
)
_SEEN = (
    "update auth.identities set last_sign_in_at = now(), email = coalesce($3, email) "
    "where provider = $1 and provider_uid = $2"
)
_BY_ADDRESS = f"select {USER} from auth.users where email = $1 for no key update"
_ADD_USER = (
    "insert into auth.users (email, email_verified, display_name, avatar_url, provider, provider_uid) "
    f"values ($1, $2, $3, $4, $5, $6) on conflict (email) do nothing returning {USER}"
)
_ADD = (
    "insert into auth.identities (provider, provider_uid, user_id, email) values ($1, $2, $3, $4) "
    "on conflict do nothing returning 1"
)


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a person, and whether it was made just now."""

    user: Any
    new: bool = False


async def account_of(connection: Connection, provider: str, profile: Profile) -> Account:
    """The account that this person signs in to. Raises, with nothing done, when it cannot be known to be theirs.

    An account is joined by address only when the provider says that the address is this person's. If
    nobody had proven the address to the account before, it is taken over, as by a code from the mailbox.
    """
    # Two browsers of one person at once: the second finds what the first made.
    await connection.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"oauth:{provider}:{profile.uid}"
    )  # fmt: skip
    known = await connection.fetchrow(_KNOWN, provider, profile.uid)
    if known is not None:
        await connection.execute(_SEEN, provider, profile.uid, profile.email)
        return Account(known)
    if profile.email is None:
        return await _new(connection, provider, profile, profile.addresses(provider))
    there = await connection.fetchrow(_BY_ADDRESS, profile.email)
    if there is None:
        return await _new(connection, provider, profile, [profile.email])
    if not profile.verified:
        raise AppError(
            "OAUTH_EMAIL_NOT_VERIFIED",
            f"There is an account with this address, and {provider} does not say that the address is this person's.",
        )
    await prove_mailbox(connection, there)
    await _link(connection, provider, profile, there["id"])
    return Account(await connection.fetchrow(f"select {USER} from auth.users where id = $1", there["id"]))


async def _new(connection: Connection, provider: str, profile: Profile, addresses: list[str]) -> Account:
    for address in addresses:
        user = await connection.fetchrow(
            _ADD_USER, address, profile.verified, profile.name, profile.avatar_url, provider, profile.uid
        )
        if user is not None:
            await _link(connection, provider, profile, user["id"])
            return Account(user, new=True)
    # Somebody signed up with the address in this very moment, or stands in for it.
    raise AppError("RESOURCE_CONFLICT", "Another account was made at the same time; sign in again.", remediation=AGAIN)


AGAIN = "Begin again at GET /auth/{app_id}/oauth/{provider}; manage_oauth get shows which providers there are."


async def _link(connection: Connection, provider: str, profile: Profile, user_id: Any) -> None:
    if await connection.fetchval(_ADD, provider, profile.uid, user_id, profile.email) is None:
        raise AppError(
            "OAUTH_IDENTITY_ALREADY_LINKED",
            f"The account with this address belongs to another person of {provider}.",
        )


async def prove_mailbox(connection: Connection, user: Any, *, keep_password: bool = False) -> None:
    """The user reads mail at the address. Whoever made the account before that was proven may have been
    somebody else, who must not keep a way into it: its password, second factor, sessions and identities at
    providers go.
    """
    if user["email_verified"]:
        return
    await connection.execute(
        "update auth.users set email_verified = true, password_hash = case when $2 then password_hash end, "
        "mfa_secret = null, mfa_enabled_at = null, updated_at = now() where id = $1",
        user["id"],
        keep_password,
    )
    await connection.execute("delete from auth.recovery_codes where user_id = $1", user["id"])
    await connection.execute("delete from auth.identities where user_id = $1", user["id"])
    await end_sessions(connection, user["id"])


async def identities_of(connection: Connection, user_id: Any) -> list[dict[str, Any]]:
    """The providers through which the user signs in."""
    rows = await connection.fetch(
        "select provider, provider_uid, email, created_at, last_sign_in_at from auth.identities "
        "where user_id = $1 order by created_at, provider",
        user_id,
    )
    return [
        {
            "provider": row["provider"],
            "provider_uid": row["provider_uid"],
            "email": row["email"],
            "created_at": iso(row["created_at"]),
            "last_sign_in_at": iso(row["last_sign_in_at"]),
        }
        for row in rows
    ]


def has_mailbox(user: Any) -> bool:
    """Whether mail can reach the user."""
    return not is_placeholder(user["email"])
