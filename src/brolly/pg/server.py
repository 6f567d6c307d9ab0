"""Where a Postgres cluster answers and who administers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """One Postgres cluster: its address, its administrator and the control database."""

    host: str
    """Folder of the unix socket, or host name."""
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ssl: SSLContext | str | None = None
    """What asyncpg takes as ``ssl``; None where the connection never leaves the machine."""

    def connect_args(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None
    ) -> dict[str, Any]:
        """Keyword arguments for ``asyncpg.connect`` and ``create_pool``; another user needs its own password."""
        if user is not None and user != self.user and password is None:
            raise ValueError("another user than the administrator needs its own password")
        secret = self.password if password is None else password
        return {
            "host": self.host,
            "port": self.port,
            "user": user or self.user,
            # An empty one would keep asyncpg from trying a password file.
            "password": secret or None,
            "database": database or self.database,
            # Said outright, as asyncpg would otherwise take PGSSLMODE from the environment.
            "ssl": False if self.ssl is None else self.ssl,
        }
