"""The one runner of migrations: numbered SQL files, each in a transaction, recorded with a checksum."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from brolly.core.errors import AppError
from brolly.pg.locks import advisory_lock
from brolly.pg.pool import Connection

Kind = Literal["control", "app"]
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")

_TABLE = """
create schema if not exists brolly;
create table if not exists brolly.applied_migrations (
    version     integer primary key,
    name        text not null,
    checksum    text not null,
    applied_at  timestamptz not null default now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name and text."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@cache
def migrations(kind: Kind) -> tuple[Migration, ...]:
    """The files of that kind in order. Raises when numbers have gaps or doubles."""
    folder = resources.files("brolly") / "migrations" / kind
    found: list[Migration] = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if match := _NAME.match(entry.name):
            found.append(Migration(int(match.group(1)), entry.name, entry.read_text("utf-8")))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"the {kind} migrations are not numbered 1, 2, 3, …: {[m.name for m in found]}")
    return tuple(found)


def latest(kind: Kind) -> int:
    """The highest number."""
    return len(migrations(kind))


def fingerprint(kind: Kind) -> str:
    """Twelve hex digits that change with any file of that kind."""
    return hashlib.sha256("".join(m.checksum for m in migrations(kind)).encode()).hexdigest()[:12]


async def migrate(connection: Connection, kind: Kind) -> list[str]:
    """Apply what is missing, under a lock; the names applied.

    Raises ``CONFIG_INVALID`` when the database is newer than this version of Brolly, or
    when a file differs from what was applied under its number.
    """
    async with advisory_lock(connection, "brolly-migrate"):
        async with connection.transaction():
            await connection.execute(_TABLE)
        rows = await connection.fetch("select version, name, checksum from brolly.applied_migrations")
        known = {m.version: m for m in migrations(kind)}
        for row in rows:
            _check(kind, known.get(row["version"]), row["version"], row["checksum"])
        done = {row["version"] for row in rows}
        return [await _apply(connection, m) for m in known.values() if m.version not in done]


def _check(kind: Kind, ours: Migration | None, version: int, checksum: str) -> None:
    if ours is None:
        raise AppError(
            "CONFIG_INVALID",
            f"The {kind} database has migration {version}, which this version of Brolly does not know.",
            remediation="Start the newer version of Brolly that wrote it.",
        )
    if ours.checksum != checksum:
        raise AppError(
            "CONFIG_INVALID",
            f"Migration {ours.name} of the {kind} database was applied with another content.",
            remediation="Start the version of Brolly that wrote it; applied migrations are never edited.",
        )


async def _apply(connection: Connection, migration: Migration) -> str:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into brolly.applied_migrations (version, name, checksum) values ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
    return migration.name
