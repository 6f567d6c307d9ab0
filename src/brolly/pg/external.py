"""A Postgres that someone else runs: reading its address, and saying everything that it lacks at once."""

from __future__ import annotations

import difflib
import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import asyncpg

from brolly.core.errors import AppError
from brolly.pg.server import Server

OLDEST = 15
FEWEST_CONNECTIONS = 20
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OPTIONS = ("host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey")
_SHAPE = "postgresql://user:password@host:5432/database?sslmode=require"
_REMEDY = f"Set BROLLY_DATABASE_URL to an address of the form {_SHAPE}."
_FINDINGS = """
select current_setting('server_version_num')::int as version,
       current_setting('max_connections')::int as connections,
       (select pg_encoding_to_char(encoding) from pg_database where datname = current_database()) as encoding,
       exists (select from pg_available_extensions where name = 'vector') as vector,
       rolsuper or rolcreatedb as createdb, rolsuper or rolcreaterole as createrole,
       quote_ident(rolname) as login, quote_ident(current_database()) as database
  from pg_roles where rolname = current_user
"""


def parse_dsn(dsn: str) -> Server:
    """The server named by a ``postgres://`` address; its messages never repeat the address, which holds a password."""
    try:
        url = urlsplit(dsn.strip())
        url_port = url.port
    except ValueError:
        raise _invalid(
            "its host or port cannot be read; special characters in the password must be written as %XX"
        ) from None
    if url.scheme not in ("postgres", "postgresql"):
        raise _invalid("it must begin with postgresql:// or postgres://")
    if url.fragment:
        raise _invalid("it contains a #, which must be written as %23")
    options = _read_options(url.query)
    host = options.get("host") or unquote(url.hostname or "")
    user = options.get("user") or unquote(url.username or "")
    database = options.get("dbname") or unquote(url.path.removeprefix("/"))
    _check_parts(url, host, user, database)
    port = _read_port(options.get("port"), url_port)
    password = options.get("password") or unquote(url.password or "")
    return Server(host, port, user, password, database, _read_ssl(host, options))


def _invalid(why: str) -> AppError:
    return AppError("CONFIG_INVALID", f"The database address is not valid: {why}.", remediation=_REMEDY)


def _read_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"those that are: {', '.join(_OPTIONS)}"
            raise _invalid(f"the option {name} is not known ({hint})")
        options[name] = value
    return options


def _check_parts(url: SplitResult, host: str, user: str, database: str) -> None:
    if "," in url.netloc.rpartition("@")[2] or "," in host:
        raise _invalid("it names several hosts, and only one is possible")
    if not host:
        raise _invalid("it names no host (a name, or ?host=/folder/of/the/socket)")
    if not user:
        raise _invalid("it names no user")
    if not database:
        raise _invalid("it names no database")


def _read_port(option: str | None, from_url: int | None) -> int:
    if option is None:
        return 5432 if from_url is None else from_url
    if not option.isdecimal() or not 0 < int(option) < 65536:
        raise _invalid(f"{option} is no port")
    return int(option)


def _read_ssl(host: str, options: dict[str, str]) -> ssl.SSLContext | str | None:
    """What libpq would do with the same options, as asyncpg wants to hear it."""
    mode = options.get("sslmode", "prefer")
    root, certificate = options.get("sslrootcert"), options.get("sslcert")
    if mode not in _SSL_MODES:
        raise _invalid(f"sslmode {mode} is not known; there are {', '.join(_SSL_MODES)}")
    if host.startswith("/"):
        return None
    if mode == "require" and root:
        mode = "verify-ca"
    if mode in ("disable", "allow", "prefer") or (mode == "require" and not certificate):
        return mode
    try:
        context = ssl.create_default_context(cafile=None if root in (None, "system") else root)
        context.check_hostname = mode == "verify-full"
        if mode == "require":
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate, options.get("sslkey"))
    except (OSError, ssl.SSLError) as error:
        raise _invalid(f"sslrootcert, sslcert or sslkey cannot be loaded ({error.strerror or error})") from None
    return context


async def check_external(server: Server) -> None:
    """Raise one error that names everything this server lacks, each with the statement that mends it."""
    connection = await _connect(server)
    try:
        found = dict((await connection.fetch(_FINDINGS))[0])
        problems = _find_problems(found)
        if found["vector"] and not await _may_create_vector(connection):
            problems.append(
                _problem(
                    f"The login {found['login']} may not create the extension vector.",
                    "As a superuser, in template1 and in this database: create extension vector;",
                )
            )
    finally:
        await connection.close(timeout=5)
    if problems:
        raise _lacking(server, problems)


def _problem(problem: str, fix: str) -> dict[str, str]:
    return {"problem": problem, "fix": fix}


def _lacking(server: Server, problems: list[dict[str, str]]) -> AppError:
    lines = [f"- {entry['problem']} {entry['fix']}" for entry in problems]
    return AppError(
        "CONFIG_INVALID",
        f"The Postgres at {server.host}:{server.port} cannot be used:\n" + "\n".join(lines),
        remediation="Mend each point listed, then start again.",
        details=problems,
    )


async def _connect(server: Server) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(**server.connect_args(), timeout=10)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        problem = _problem(
            f"It refuses the login {server.user} with this password.",
            f"As a superuser: alter role {_quote(server.user)} login password '…'; or check pg_hba.conf.",
        )
    except asyncpg.InvalidCatalogNameError:
        problem = _problem(
            f"The database {server.database} does not exist.",
            f"create database {_quote(server.database)} template template0 encoding 'UTF8';",
        )
    except asyncpg.PostgresError as error:
        problem = _problem(f"It refuses the connection ({type(error).__name__}).", "See the log of that Postgres.")
    except asyncpg.InterfaceError as error:
        problem = _problem(f"The connection cannot be made: {error}.", "Check BROLLY_DATABASE_URL.")
    except TimeoutError:
        problem = _problem("It does not answer within 10 s.", "Check the host, the port and the firewall.")
    except OSError as error:
        problem = _problem(
            f"It cannot be reached ({error.strerror or error}).", "Check that it runs, and the host and port."
        )
    raise _lacking(server, [problem])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _find_problems(found: dict[str, Any]) -> list[dict[str, str]]:
    """Compare what the server said with what we need."""
    login, database = found["login"], found["database"]
    checks = [
        (
            found["version"] >= OLDEST * 10000,
            f"It is Postgres {found['version'] // 10000}; {OLDEST} or later is needed.",
            "Move it to a newer version with pg_upgrade or pg_dumpall.",
        ),
        (
            found["vector"],
            "The extension pgvector is not installed there.",
            f"Install the package postgresql-{found['version'] // 10000}-pgvector on that machine.",
        ),
        (found["createdb"], f"The login {login} may not create databases.", f"alter role {login} createdb;"),
        (found["createrole"], f"The login {login} may not create roles.", f"alter role {login} createrole;"),
        (
            found["encoding"] == "UTF8",
            f"The database {database} has the encoding {found['encoding']}.",
            f"drop database {database}; create database {database} template template0 encoding 'UTF8';",
        ),
        (
            found["connections"] >= FEWEST_CONNECTIONS,
            f"It allows {found['connections']} connections; at least {FEWEST_CONNECTIONS} are needed.",
            "alter system set max_connections = 100; and restart it.",
        ),
    ]
    return [_problem(problem, fix) for holds, problem, fix in checks if not holds]


async def _may_create_vector(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Found by doing it and taking it back, since providers grant this in ways of their own."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute("create extension if not exists vector")
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await attempt.rollback()
    return True
