"""The one door to an app's data: nothing else takes on a caller's role.

The role is set with ``set_config(…, true)``, local to the transaction: resetting a
pooled connection does not undo ``SET ROLE``, so a session-wide role would reach the
next borrower. It is also the form that takes the role as a bound value.

The door is for statements that we build. A free statement could undo the role; it
must run on a login that is the narrow role.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from brolly.core.caller import Caller
from brolly.pg.pipeline import Result, Step
from brolly.pg.pool import Connection, Database

_TAKE_ROLE = (
    "select set_config('role', $1, true), set_config('app.role', $1, true), "
    "set_config('request.jwt.claim.sub', $2, true), set_config('request.jwt.claims', $3, true)"
)
_TAKE_PLATFORM_ROLE = (
    "select set_config('role', $1, true), set_config('search_path', 'pg_catalog', true), "
    "set_config('synchronous_commit', $2, true)"
)
_TAKE_ROLE_READ_ONLY = _TAKE_ROLE.replace("select ", "select set_config('transaction_read_only', 'on', true), ", 1)
_TAKE_ROLE_FOR_A_WHILE = _TAKE_ROLE_READ_ONLY.replace(
    "select ", "select set_config('statement_timeout', $4, true), ", 1
)
_KEPT_CLAIMS = 1000
_claims_texts: OrderedDict[int, tuple[Mapping[str, Any], str]] = OrderedDict()


@asynccontextmanager
async def as_caller(pool: Database, caller: Caller, *, read_only: bool = False) -> AsyncGenerator[Connection]:
    """A connection in a transaction with the caller's role and claims; commits when the block ends well.

    ``read_only`` is a second fence: Postgres then refuses writes whatever the role may do.
    """
    async with pool.acquire() as connection, connection.transaction(readonly=read_only):
        await connection.execute(_TAKE_ROLE, caller.role, caller.user_id or "", json.dumps(dict(caller.claims)))
        yield connection


async def run_as_caller(
    pool: Database, caller: Caller, text: str, args: Sequence[Any], *, read_only: bool = False
) -> Result:
    """One statement as in ``as_caller``, with a single exchange of messages: what takes on the role, and the statement.

    They are one transaction, in which the statement is planned after the role was taken. It has an end when this
    returns, and was rolled back whole when this raises.
    """
    take = _TAKE_ROLE_READ_ONLY if read_only else _TAKE_ROLE
    who = (caller.role, caller.user_id or "", _claims_text(caller.claims))
    # A plan made for one role is made anew for the next, so each has its own.
    return (await pool.pipeline((Step(take, who), Step(text, args, caller.role))))[1]


def _claims_text(claims: Mapping[str, Any]) -> str:
    """The claims as JSON. Those of a token that comes again are the same object, never changed."""
    known = _claims_texts.get(id(claims))
    if known is not None and known[0] is claims:
        return known[1]
    text = json.dumps(dict(claims))
    _claims_texts[id(claims)] = claims, text
    if len(_claims_texts) > _KEPT_CLAIMS:
        _claims_texts.popitem(last=False)
    return text


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


async def run_as_platform(pool: Database, role: str, text: str, args: Sequence[Any], *, durable: bool = True) -> Result:
    """One statement as in ``as_platform``, with a single exchange of messages."""
    return (await pool.pipeline((take_platform_role(role, durable=durable), Step(text, args, role))))[1]


def take_platform_role(role: str, *, durable: bool = True) -> Step:
    """What a transaction of the platform's begins with."""
    return Step(_TAKE_PLATFORM_ROLE, (role, "on" if durable else "off"))


def take_role(role: str, user_id: str, claims: str, timeout_ms: int) -> Step:
    """What a caller's transaction that writes nothing begins with; ``claims`` as JSON, the limit for each statement."""
    return Step(_TAKE_ROLE_FOR_A_WHILE, (role, user_id, claims, str(timeout_ms)))
