"""The one door to an app's data: nothing else takes on a caller's role.

The role is set with ``set_config(…, true)``, local to the transaction: resetting a
pooled connection does not undo ``SET ROLE``, so a session-wide role would reach the
next borrower. It is also the form that takes the role as a bound value.

The door is for statements that we build. A free statement could undo the role; it
must run on a login that is the narrow role.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from brolly.core.caller import Caller
from brolly.pg.pool import Connection, Database

_TAKE_ROLE = (
    "select set_config('role', $1, true), set_config('app.role', $1, true), "
    "set_config('request.jwt.claim.sub', $2, true), set_config('request.jwt.claims', $3, true)"
)
_TAKE_PLATFORM_ROLE = (
    "select set_config('role', $1, true), set_config('search_path', 'pg_catalog', true), "
    "set_config('synchronous_commit', $2, true)"
)


@asynccontextmanager
async def as_caller(pool: Database, caller: Caller, *, read_only: bool = False) -> AsyncGenerator[Connection]:
    """A connection in a transaction with the caller's role and claims; commits when the block ends well.

    ``read_only`` is a second fence: Postgres then refuses writes whatever the role may do.
    """
    async with pool.acquire() as connection, connection.transaction(readonly=read_only):
        await connection.execute(_TAKE_ROLE, caller.role, caller.user_id or "", json.dumps(dict(caller.claims)))
        yield connection


@asynccontextmanager
async def as_platform(pool: Database, role: str, *, durable: bool = True) -> AsyncGenerator[Connection]:
    """As ``as_caller``, with a role of the platform's own, for what callers must not see (schema ``auth``).

    Only the slice that the role belongs to uses it. Names must be written with their schema: what
    the app's owner made is not on the search path, so that it cannot stand in for the built-in.
    Without ``durable`` the commit does not wait for the disk: for what may be lost with the machine.
    """
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_TAKE_PLATFORM_ROLE, role, "on" if durable else "off")
        yield connection
