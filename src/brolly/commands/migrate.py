"""migrate: the control database, the template and every app's database, brought up to date or only looked at."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from brolly.app import open_deps, read_secret
from brolly.apps.provision import migrate_all
from brolly.commands.terminal import is_terminal, run, spinner, write, write_json, write_table
from brolly.core.settings import Settings, load_settings
from brolly.core.tokens import derive
from brolly.pg.embedded import embedded_postgres
from brolly.pg.external import check_external, parse_dsn
from brolly.pg.migrate import fingerprint, latest, migrations
from brolly.pg.pool import Database
from brolly.pg.server import Server

Steps = list[tuple[str, str]]
"""A database and the migration that it got or lacks."""


def migrate_databases(home: Path | None, check: bool, as_json: bool) -> int:
    """Do it, or with ``check`` say what is pending; the exit code."""
    settings = load_settings(home=home)
    steps = run(_pending if check else _apply, settings)
    if as_json:
        write_json([{"database": database, "migration": name} for database, name in steps])
    elif steps:
        write_table(["database", "pending" if check else "applied"], steps)
    elif is_terminal():
        write("Everything is up to date.")
    return 1 if check and steps else 0


async def _apply(settings: Settings) -> Steps:
    steps: Steps = []
    with spinner("Bringing the databases up to date…") as show:

        def log(line: str) -> None:
            show(line)
            if line.startswith("migrated: "):
                database, _, name = line.removeprefix("migrated: ").partition(" ")
                steps.append((database, name))

        async with open_deps(settings, log) as deps:
            show("Bringing the apps up to date…")
            for app_id, names in (await migrate_all(deps)).items():
                steps += [(app_id, name) for name in names]
    return steps


async def _pending(settings: Settings) -> Steps:
    """What the next start would apply. Changes nothing, not even by making a cluster."""
    if not settings.database_url and not (settings.home / "postgres").exists():
        return [("control", migration.name) for migration in migrations("control")]
    with spinner("Looking at the databases…"):
        async with _server(settings) as server:
            control = Database(server, size=1)
            try:
                return await _missing(control, server)
            finally:
                await control.close()


@asynccontextmanager
async def _server(settings: Settings) -> AsyncGenerator[Server]:
    if settings.database_url:
        server = parse_dsn(settings.database_url)
        await check_external(server)
        yield server
    else:
        password = derive(read_secret(settings), "postgres-administrator")
        async with embedded_postgres(settings.home, password) as embedded:
            yield embedded.server


async def _missing(control: Database, server: Server) -> Steps:
    known = await control.fetchval("select to_regclass('brolly.applied_migrations') is not null")
    rows = await control.fetch("select version from brolly.applied_migrations") if known else []
    done = {row["version"] for row in rows}
    steps = [("control", m.name) for m in migrations("control") if m.version not in done]
    template = f"{server.database}_template_{fingerprint('app')}"
    if not await control.fetchval("select exists (select from pg_database where datname = $1)", template):
        steps.append(("template", template))
    if await control.fetchval("select to_regclass('brolly.apps') is not null"):
        behind = await control.fetch(
            "select id, app_version from brolly.apps where status = 'ready' and app_version < $1 order by created_at",
            latest("app"),
        )
        for row in behind:
            steps += [(row["id"], m.name) for m in migrations("app") if m.version > row["app_version"]]
    return steps
