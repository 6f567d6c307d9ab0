"""Whether users are still welcome, for connections that outlive the moment in which their token was looked at."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from brolly.auth.access import users_of
from brolly.deps import Deps
from brolly.registry import App

_WELCOME = "select id::text from auth.users where id = any($1::uuid[]) and disabled_at is null"


async def ended_users(deps: Deps, app: App, ids: Collection[str]) -> set[str]:
    """Those of the users that were deleted or disabled."""
    known: dict[str, UUID] = {}
    for each in ids:
        with suppress(ValueError):
            known[each] = UUID(each)
    async with users_of(deps, app) as connection:
        rows = await connection.fetch(_WELCOME, list(known.values()))
    welcome = {row["id"] for row in rows}
    return {each for each in ids if each not in known or str(known[each]) not in welcome}
