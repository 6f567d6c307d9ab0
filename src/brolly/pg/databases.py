"""What Brolly keeps in a cluster: the shared roles, the template, one database and two logins per app.

Everything here runs as the administrator's login. Statements that cannot take bound
values (CREATE ROLE, CREATE DATABASE) get identifiers checked against ``APP_ID`` and
password verifiers in base64 only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Any

import anyio
import asyncpg

from brolly.core.caller import ROLES
from brolly.core.errors import AppError
from brolly.core.tokens import derive
from brolly.pg.locks import advisory_lock
from brolly.pg.migrate import fingerprint, latest, migrate
from brolly.pg.pool import (
    OWNER_ROLE,
    Connection,
    Database,
    door_login,
    function_login,
    login_password,
    owner_login,
)
from brolly.pg.server import Server

APP_ID = re.compile(r"^app_[0-9a-z]{12}$")
_CALLER_ROLES = ("butterbase_anon", "butterbase_user", "butterbase_service")
AUTH_ROLE = "brolly_auth"
"""Reads and writes schema ``auth``, where an app's end users are kept; no caller ever takes it on."""
STORAGE_ROLE = "brolly_storage"
"""The same for schema ``storage``, where an app's files are listed."""
FUNCTIONS_ROLE = "brolly_functions"
"""The same for schema ``functions``."""
REALTIME_ROLE = "brolly_realtime"
"""The same for schema ``realtime``; the triggers that record changes run as it."""
RAG_ROLE = "brolly_rag"
"""The same for schema ``rag``, where documents for search are listed; it passes where the service role does."""
_PLATFORM_ROLES = (AUTH_ROLE, STORAGE_ROLE, FUNCTIONS_ROLE, REALTIME_ROLE, RAG_ROLE)
_SCRAM_ROUNDS = 4096


def scram_verifier(password: str) -> str:
    """What Postgres stores for a password (RFC 5803), so that no statement carries the password itself."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ROUNDS)
    client = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    b64 = [base64.b64encode(x).decode() for x in (salt, hashlib.sha256(client).digest(), server)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{b64[0]}${b64[1]}:{b64[2]}"


def _safe(app_id: str) -> str:
    if not APP_ID.match(app_id):
        raise ValueError(f"not an app id: {app_id!r}")
    return app_id


class Databases:
    """The administrator's hand: prepares the cluster, makes and removes app databases."""

    def __init__(
        self, server: Server, control: Database, secret: str, *, statement_timeout: int, base: str = "template0"
    ) -> None:
        """``base`` is what the template starts from: an operator whose login may not create extensions
        has them created in ``template1`` by a superuser.
        """
        self._base = base
        # Making an app holds a control connection and needs a second one now and then: never all of them.
        self.at_work = anyio.CapacityLimiter(4)
        self._server = server
        self._control = control
        self._secret = secret
        self._statement_timeout = statement_timeout
        # Two installations may share a cluster; each has its own template.
        self.template = f"{server.database}_template_{fingerprint('app')}"

    async def prepare(self) -> list[str]:
        """Bring roles, control database and template up to date; what was done, in words."""
        done: list[str] = []
        async with self._control.acquire() as connection, advisory_lock(connection, "brolly-cluster"):
            await self._create_roles(connection)
            done += [f"control {name}" for name in await migrate(connection, "control")]
            await self._check_secret(connection)
            await self._close_to_others(connection)
            if await self._create_template(connection):
                done.append(f"template {self.template}")
        return done

    async def _create_roles(self, connection: Connection) -> None:
        for role in (*_CALLER_ROLES, *_PLATFORM_ROLES, OWNER_ROLE):
            row = await connection.fetchrow(
                "select rolcanlogin or rolbypassrls or rolsuper as wide, pg_has_role(oid, 'member') as member "
                "from pg_roles where rolname = $1",
                role,
            )
            if row is None:
                await connection.execute(f"create role {role} nologin")
            elif row["wide"]:
                raise AppError(
                    "CONFIG_INVALID",
                    f"The role {role} exists with LOGIN, BYPASSRLS or SUPERUSER; Brolly needs it without these.",
                    remediation=f"Run ALTER ROLE {role} NOLOGIN NOBYPASSRLS NOSUPERUSER, or use another cluster.",
                )
            if role in (OWNER_ROLE, REALTIME_ROLE) and not (row and row["member"]):
                # An administrator who is not superuser may hand things only to a role it belongs to.
                await connection.execute(f"grant {role} to current_user")
        if not await connection.fetchval(f"select pg_has_role('{RAG_ROLE}', 'butterbase_service', 'usage')"):
            # The chunks of documents are tables of the app's, where the service role passes whatever the policies say.
            await connection.execute(f"grant butterbase_service to {RAG_ROLE}")

    async def _check_secret(self, connection: Connection) -> None:
        check = derive(self._secret, "installation-check")
        await connection.execute(
            "insert into brolly.installation (secret_check) values ($1) on conflict do nothing", check
        )
        if await connection.fetchval("select secret_check from brolly.installation") != check:
            raise AppError(
                "CONFIG_INVALID",
                "This database was set up with another installation secret.",
                remediation="Set BROLLY_SECRET (or secret.key in the data folder) to the secret of the server that "
                "created it; database logins are derived from it.",
            )

    async def _close_to_others(self, connection: Connection) -> None:
        """An app's logins may enter their own database alone: not the control database, nor, in a cluster
        that is ours, those that every cluster has.
        """
        ours = ("postgres", "template1") if self._base == "template0" else ()
        for name in (self._server.database, *ours):
            await connection.execute(f'revoke connect on database "{name}" from public')

    async def _create_template(self, connection: Connection) -> bool:
        exists = "select 1 from pg_database where datname = $1"
        if await connection.fetchval(exists, self.template):
            return False
        building = f"{self.template}_new"
        await connection.execute(f'drop database if exists "{building}" with (force)')
        await connection.execute(f'create database "{building}" template {self._base}')
        await connection.execute(f'revoke all on database "{building}" from public')
        inside: Any = await asyncpg.connect(**self._server.connect_args(database=building))
        try:
            await migrate(inside, "app")
        finally:
            await inside.close()
        # A database cannot be cloned while somebody is connected to it.
        await connection.execute(f'alter database "{building}" with allow_connections false')
        await connection.execute(f'alter database "{building}" rename to "{self.template}"')
        await self._drop_old_templates(connection)
        return True

    async def _drop_old_templates(self, connection: Connection) -> None:
        rows = await connection.fetch("select datname from pg_database where datname <> $1", self.template)
        pattern = re.compile(re.escape(self._server.database) + r"_template_[0-9a-f]{12}")
        for row in rows:
            if pattern.fullmatch(row["datname"]):
                await connection.execute(f'drop database if exists "{row["datname"]}"')

    async def create_logins(self, connection: Connection, app_id: str) -> None:
        """The app's two logins, in the caller's transaction."""
        door, owner = door_login(_safe(app_id)), owner_login(app_id)
        for login in (door, owner):
            verifier = scram_verifier(login_password(self._secret, login))
            await connection.execute(
                f"create role {login} login noinherit nosuperuser nocreatedb nocreaterole password '{verifier}'"
            )
        # An administrator who is not superuser may end sessions only of roles that it belongs to.
        await connection.execute(f"grant {door}, {owner} to current_user")
        await connection.execute(f"grant {', '.join((*_CALLER_ROLES, *_PLATFORM_ROLES))} to {door}")
        await connection.execute(f"grant {OWNER_ROLE} to {owner}")
        await connection.execute(f"alter role {door} set statement_timeout = '{int(self._statement_timeout)}s'")
        await connection.execute(f"alter role {door} set idle_in_transaction_session_timeout = '60s'")
        await self._bound(connection, door)
        # A statement whose client has gone is ended, also when the request to cancel it came too early.
        await connection.execute(f"alter role {door} set client_connection_check_interval = '2s'")

    async def create_function_logins(self, app_id: str) -> None:
        """One login for each role that an app's functions may have, which can take on that role alone.

        Statements that functions send are not ours: whatever they do to the role or the session, behind the
        login there is nothing wider. Repeating it does no harm.
        """
        name = _safe(app_id)
        async with self._control.acquire() as connection, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"function-logins:{name}")
            for kind, role in ROLES.items():
                login = function_login(name, kind)
                if await connection.fetchval("select 1 from pg_roles where rolname = $1", login):
                    continue
                verifier = scram_verifier(login_password(self._secret, login))
                await connection.execute(
                    f"create role {login} login noinherit nosuperuser nocreatedb nocreaterole password '{verifier}'"
                )
                await connection.execute(f"grant {login} to current_user")
                await connection.execute(f"grant {role} to {login}")
                await connection.execute(f"grant connect on database {name} to {login}")
                await connection.execute(f"alter role {login} set statement_timeout = '{self._statement_timeout}s'")
                await connection.execute(f"alter role {login} set idle_in_transaction_session_timeout = '15s'")
                await connection.execute(f"alter role {login} set lock_timeout = '10s'")
                await self._bound(connection, login)
                await connection.execute(f"alter role {login} set client_connection_check_interval = '2s'")

    async def _bound(self, connection: Connection, door: str) -> None:
        """Limits that not every server knows, or lets everybody set."""
        row = await connection.fetchrow(
            "select rolsuper, current_setting('server_version_num')::int as version "
            "from pg_roles where rolname = current_user"
        )
        if row["version"] >= 170000:
            await connection.execute(f"alter role {door} set transaction_timeout = '60s'")
        if row["rolsuper"]:
            # What does not fit into memory goes to disk, which all apps share.
            await connection.execute(f"alter role {door} set temp_file_limit = '512MB'")

    async def create_database(self, connection: Connection, app_id: str) -> None:
        """Clone the template; CONNECT for the app's logins and nobody else.

        A clone starts open to every login; ``connection limit 0`` keeps all but superusers
        out until the grants are in place.
        """
        name = _safe(app_id)
        await connection.execute(f'create database {name} template "{self.template}" connection limit 0')
        async with connection.transaction():
            await connection.execute(f"revoke all on database {name} from public")
            await connection.execute(f"grant connect on database {name} to {door_login(name)}, {owner_login(name)}")
            await connection.execute(f"alter database {name} with connection limit -1")

    async def drop_database(self, connection: Connection, app_id: str) -> None:
        """Remove the app's database and logins; repeating it does no harm."""
        name = _safe(app_id)
        await connection.execute(f"drop database if exists {name} with (force)")
        logins = [door_login(name), owner_login(name), *(function_login(name, kind) for kind in ROLES)]
        await connection.execute(f"drop role if exists {', '.join(logins)}")

    async def migrate_database(self, app_id: str) -> list[str]:
        """Bring one app's database up to date; the names of the migrations applied."""
        inside: Any = await asyncpg.connect(**self._server.connect_args(database=_safe(app_id)))
        try:
            # Logins made by an earlier version lack the roles that came since.
            await inside.execute(f"grant {', '.join(_PLATFORM_ROLES)} to {door_login(app_id)}")
            return await migrate(inside, "app")
        finally:
            await inside.close()

    @property
    def server(self) -> Server:
        """Where the cluster answers, with its administrator's login."""
        return self._server

    @property
    def app_version(self) -> int:
        """The number of the newest app migration."""
        return latest("app")
