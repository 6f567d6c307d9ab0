"""Advisory locks of a database session, let go of however the block ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from brolly.pg.pool import Connection

_KEY = "hashtextextended($1, 0)"


@asynccontextmanager
async def advisory_lock(connection: Connection, name: str, *, wait: bool = True) -> AsyncGenerator[bool]:
    """Hold the lock of that name for the block; yields whether it is held (always, if ``wait``).

    Letting go is shielded from cancellation, and a connection that cannot let go is closed:
    a pooled connection that kept a lock would block everybody else.
    """
    held = True
    if wait:
        await connection.execute(f"select pg_advisory_lock({_KEY})", name)
    else:
        held = await connection.fetchval(f"select pg_try_advisory_lock({_KEY})", name)
    try:
        yield held
    finally:
        if held and not connection.is_closed():
            with anyio.CancelScope(shield=True):
                try:
                    with anyio.fail_after(5):
                        await connection.execute(f"select pg_advisory_unlock({_KEY})", name)
                except Exception:
                    connection.terminate()
                    raise
