"""Who uses which app's files, what they may see and change, and the way to the rows that say so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.databases import STORAGE_ROLE
from brolly.pg.pool import Connection
from brolly.pg.session import as_platform
from brolly.registry import App
from brolly.storage.config import config_of
from brolly.storage.names import object_key

COLUMNS = (
    "id, user_id, folder, filename, content_type, size_bytes, etag, sha256, public, status, created_at, expires_at, "
    "uploaded_at, updated_at"
)
SIGN_IN = "Sign in at POST /auth/{app_id}/login and send its access_token; manage_auth_users list shows who can."


@dataclass(frozen=True, slots=True)
class File:
    """One row of ``storage.objects``."""

    id: UUID
    user_id: str | None
    folder: str
    filename: str
    content_type: str
    size_bytes: int
    etag: str | None
    sha256: str | None
    public: bool
    status: str
    created_at: datetime
    expires_at: datetime | None
    uploaded_at: datetime | None
    updated_at: datetime

    def key(self, app: App) -> str:
        """Where the store has the bytes."""
        return object_key(app.id, self.id)


@dataclass(frozen=True, slots=True)
class Visit:
    """Who uses which app's files."""

    deps: Deps
    app: App
    who: Caller

    @property
    def user_id(self) -> str | None:
        """Whose the new files are: the user's; nobody's when a service key sends them."""
        return self.who.user_id if self.who.kind == "user" else None

    def may_read(self, file: File) -> bool:
        """The rules in their order: service key, own, public, open to every user of the app; nobody else.

        Of a file whose bytes have not come, those who may not change it are not told: see ``service.present``.
        """
        if self.may_change(file):
            return True
        return file.public or (self.who.kind == "user" and config_of(self.app).public_read)

    def may_change(self, file: File) -> bool:
        """Delete, rename, publish: a service key, and whoever sent it."""
        if self.who.kind == "service":
            return True
        return self.who.kind == "user" and self.who.user_id is not None and file.user_id == self.who.user_id

    def require_sender(self) -> None:
        """Raise unless this caller may have files at all."""
        if self.who.kind == "anonymous":
            raise AppError(
                "AUTH_REQUIRED", "Files belong to somebody: this needs a signed-in user.", remediation=SIGN_IN
            )


async def visit(
    deps: Deps, caller: Caller, app_id: str, as_role: str | None = None, as_user: str | None = None
) -> Visit:
    """The app, and the role in which the caller uses it; a service key may act as another."""
    app = await deps.registry.open(caller, app_id)
    if as_role is None and as_user is None:
        return Visit(deps, app, caller)
    if as_role not in ("anon", "user"):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "X-Butterbase-As-Role takes anon or user; X-Butterbase-As-User goes with user.",
            remediation="Repeat with both headers for a user, or with neither; manage_auth_users list has the ids.",
        )
    who = caller.simulate(as_role, as_user)
    if who.kind == "anonymous" and app.access_mode == "authenticated":
        raise AppError("AUTH_REQUIRED", f"The access mode of {app_id} is authenticated.", remediation=SIGN_IN)
    return Visit(deps, app, who)


@asynccontextmanager
async def files_of(deps: Deps, app: App) -> AsyncGenerator[Connection]:
    """A connection in a transaction that may read and write the app's schema ``storage``."""
    async with as_platform(deps.pools.door(app), STORAGE_ROLE) as connection:
        yield connection


def missing(object_id: str) -> AppError:
    """The answer for a file that does not exist, and for one that this caller may not see."""
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"There is no file {object_id[:64]!a} for you in this app.",
        remediation="Call manage_storage with action list for the files that exist.",
    )


def file_of(row: Any) -> File:
    """The record of a row selected with ``COLUMNS``."""
    return File(**dict(row))


def read_id(object_id: str) -> UUID:
    """The id; what is none names no file."""
    try:
        found = UUID(object_id)
    except ValueError:
        raise missing(object_id) from None
    if str(found) != object_id.lower():
        raise missing(object_id)
    return found


async def find(at: Visit, object_id: str) -> File:
    """The file, for whoever may see it; 404 for everybody else."""
    wanted = read_id(object_id)
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            f"select {COLUMNS} from storage.objects where id = $1 and status <> 'deleting'", wanted
        )
    if row is None or not at.may_read(file_of(row)):
        raise missing(object_id)
    return file_of(row)


async def find_own(at: Visit, object_id: str) -> File:
    """As ``find``, for whoever may change it."""
    file = await find(at, object_id)
    if not at.may_change(file):
        raise missing(object_id)
    return file
