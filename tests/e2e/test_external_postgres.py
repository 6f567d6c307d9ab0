"""Addresses of external databases, and the check of one against a real server."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio

from brolly.core.errors import AppError
from brolly.pg.embedded import embedded_postgres, runas
from brolly.pg.external import check_external, parse_dsn
from brolly.pg.server import Server

PASSWORD = "p@ss/wörd#1"


def new_home() -> Path:
    return Path(tempfile.mkdtemp(prefix="brolly-test-")).resolve()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[Server]:
    home = new_home()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.callback(shutil.rmtree, runas.SHELF / "clusters" / runas.digest(home), ignore_errors=True)
        postgres = await stack.enter_async_context(embedded_postgres(home, PASSWORD))
        connection = await asyncpg.connect(**postgres.server.connect_args())
        await connection.execute("create role weak login password 'weak'")
        await connection.execute("create role able login createdb createrole password 'able'")
        await connection.execute("create database latin template template0 encoding 'LATIN1' locale 'C'")
        yield postgres.server
        await connection.close()


def address(server: Server, user: str, password: str, database: str = "brolly") -> str:
    return f"postgresql://{quote(user)}:{quote(password, safe='')}@/{database}?host={quote(server.host)}&port=5432"


async def complaints(dsn: str) -> list[dict[str, str]]:
    with pytest.raises(AppError) as failed:
        await check_external(parse_dsn(dsn))
    assert failed.value.code == "CONFIG_INVALID"
    for entry in failed.value.details:
        assert entry["problem"] in failed.value.message
        assert entry["fix"] in failed.value.message
    return failed.value.details


async def test_a_good_login_passes(server: Server) -> None:
    given = parse_dsn(address(server, "brolly", PASSWORD))
    assert given == server
    await check_external(given)


async def test_a_login_without_rights_hears_of_all_it_lacks(server: Server) -> None:
    found = await complaints(address(server, "weak", "weak", "latin"))
    fixes = [entry["fix"] for entry in found]
    assert "alter role weak createdb;" in fixes
    assert "alter role weak createrole;" in fixes
    assert any("LATIN1" in entry["problem"] for entry in found)
    assert any("create extension vector" in fix for fix in fixes)


async def test_following_the_advice_mends_it(server: Server) -> None:
    found = await complaints(address(server, "able", "able"))
    assert [entry["problem"] for entry in found] == ["The login able may not create the extension vector."]
    connection = await asyncpg.connect(**server.connect_args())
    await connection.execute("create extension vector")
    await connection.close()
    await check_external(parse_dsn(address(server, "able", "able")))


async def test_what_keeps_it_from_connecting_is_said(server: Server) -> None:
    [wrong] = await complaints(address(server, "brolly", "wrong"))
    assert "refuses the login brolly" in wrong["problem"]
    [missing] = await complaints(address(server, "brolly", PASSWORD, "nowhere"))
    assert missing["fix"].startswith('create database "nowhere"')
    [socketless] = await complaints("postgresql://a:b@/c?host=/nonexistent")
    assert "cannot be reached" in socketless["problem"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        [silent] = await complaints(f"postgresql://a:b@127.0.0.1:{unused.getsockname()[1]}/c")
    assert "cannot be reached" in silent["problem"]


async def test_another_user_needs_its_own_password(server: Server) -> None:
    with pytest.raises(ValueError, match="its own password"):
        server.connect_args(user="weak")
    connection = await asyncpg.connect(**server.connect_args(user="weak", password="weak", database="postgres"))
    assert await connection.fetchval("select current_user || '@' || current_database()") == "weak@postgres"
    await connection.close()


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgres://u:p@db.example/x", ("db.example", 5432, "u", "p", "x", "prefer")),
        ("postgresql://u:p%40%2F@db:6543/x?sslmode=require", ("db", 6543, "u", "p@/", "x", "require")),
        ("postgresql:///x?host=/run/pg&user=u&password=p&port=5433", ("/run/pg", 5433, "u", "p", "x", None)),
        ("postgresql://u@%2Frun%2Fpg/x", ("/run/pg", 5432, "u", "", "x", None)),
        ("postgresql://u:p@[::1]/x?sslmode=disable", ("::1", 5432, "u", "p", "x", "disable")),
    ],
)
def test_addresses_are_read_as_libpq_reads_them(dsn: str, expected: tuple[object, ...]) -> None:
    given = parse_dsn(dsn)
    assert (given.host, given.port, given.user, given.password, given.database, given.ssl) == expected


def test_a_verified_connection_checks_the_name() -> None:
    context = parse_dsn("postgresql://u:p@db/x?sslmode=verify-full").ssl
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("mysql://u:secret@h/x", "must begin with postgresql://"),
        ("host=h password=secret", "must begin with postgresql://"),
        ("postgresql://u:secret@h:port/x", "cannot be read"),
        ("postgresql://u:sec#secret@h/x", "cannot be read|%23"),
        ("postgresql://u:secret@h1,h2/x", "several hosts"),
        ("postgresql://u:secret@/x", "no host"),
        ("postgresql://h/x", "no user"),
        ("postgresql://u:secret@h", "no database"),
        ("postgresql://u:secret@h/x?sslmod=require", "did you mean sslmode"),
        ("postgresql://u:secret@h/x?channel_binding=require", "channel_binding is not known"),
        ("postgresql://u:secret@h/x?sslmode=yes", "there are disable"),
        ("postgresql://u:secret@h/x?port=70000", "no port"),
        ("postgresql://u:secret@h/x?sslmode=verify-ca&sslrootcert=/nonexistent", "cannot be loaded"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(dsn: str, reason: str) -> None:
    with pytest.raises(AppError, match=reason) as failed:
        parse_dsn(dsn)
    assert failed.value.code == "CONFIG_INVALID"
    assert "secret" not in failed.value.message + failed.value.remediation
