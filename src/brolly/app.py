"""Opens and closes ``Deps``: secret, Postgres, pools, object store, listener, workers."""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from brolly.blob.opening import open_blob
from brolly.blob.store import BlobStore
from brolly.core.errors import AppError
from brolly.core.settings import Settings, child_environment
from brolly.core.tokens import derive, new_secret
from brolly.core.worker import Worker, start_workers
from brolly.deps import Deps
from brolly.engines.deno import Bounds, Engine
from brolly.engines.deno import Limits as EngineLimits
from brolly.engines.embedding import LocalModel
from brolly.engines.outgoing import Outgoing
from brolly.pg.catalog import Snapshot
from brolly.pg.catalogs import Catalogs
from brolly.pg.databases import Databases
from brolly.pg.embedded import EmbeddedPostgres, embedded_postgres
from brolly.pg.external import check_external, parse_dsn
from brolly.pg.listen import Listener
from brolly.pg.pool import AppPools, Database, Limits
from brolly.pg.snapshot import read_snapshot
from brolly.rate_limit import RateLimits
from brolly.registry import App, Registry
from brolly.slices import SLICES

CATALOG_CHANNEL = "brolly_catalog"
CONTROL_CONNECTIONS = 10

Log = Callable[[str], None]


def private_folder(path: Path) -> Path:
    """The folder, made if missing, closed to others."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    # Root may write into a user's folder: never through a link that waits under a name to be guessed.
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_secret(settings: Settings) -> str:
    """The installation secret: the setting, else the file in the data folder, made on the first start."""
    if settings.secret:
        return settings.secret
    path = private_folder(settings.home) / "secret.key"
    try:
        # Two processes may start at once: whoever links its file first wins, both read the winner's.
        if not path.exists():
            mine = path.with_name(f"secret.key.{secrets.token_hex(8)}.new")
            write_private(mine, new_secret())
            try:
                os.link(mine, path)
            except FileExistsError:
                pass
            finally:
                mine.unlink()
        secret = path.read_text().strip()
    except OSError as error:
        raise AppError(
            "CONFIG_INVALID",
            f"The data folder {settings.home} cannot be used: {error.strerror}.",
            remediation="Set BROLLY_HOME to a folder that this user can write to.",
        ) from error
    if len(secret) < 32:
        raise AppError(
            "CONFIG_INVALID",
            f"{path} does not hold a secret of at least 32 characters.",
            remediation="Restore the file from a backup; without it the databases' logins cannot be derived.",
        )
    return secret


def full_name(name: str, known: Collection[str]) -> str:
    """The tool that a person means: ``schema`` stands for ``manage_schema``. Empty when there is none."""
    return next((full for full in (name, f"manage_{name}") if full in known), "")


def tool_names(names: Iterable[str], known: Collection[str], where: str = "BROLLY_TOOLS") -> tuple[str, ...]:
    """The tools that the setting or option ``where`` names, in full; raises ``CONFIG_INVALID`` for any other name."""
    found: dict[str, None] = {}
    for name in names:
        if not (full := full_name(name, known)):
            near = difflib.get_close_matches(name, [*known, *(each.removeprefix("manage_") for each in known)], 1)
            raise AppError(
                "CONFIG_INVALID",
                f"{where} names {name}, which is not a tool." + (f" Did you mean {near[0]}?" if near else ""),
                remediation=f"Use names from: {', '.join(known)}; manage_ may be left out.",
            )
        found[full] = None
    return tuple(found)


@asynccontextmanager
async def open_deps(settings: Settings, log: Log = lambda _line: None) -> AsyncGenerator[Deps]:
    """Everything open for the block: Postgres running, control database and template up to date.

    Raises ``CONFIG_INVALID`` with what to do when something outside is not as needed.
    """
    secret = await anyio.to_thread.run_sync(read_secret, settings)
    async with AsyncExitStack() as stack:
        embedded: EmbeddedPostgres | None = None
        if settings.database_url:
            server = parse_dsn(settings.database_url)
            await check_external(server)
        else:
            embedded = await stack.enter_async_context(
                embedded_postgres(settings.home, derive(secret, "postgres-administrator"), log=log)
            )
            server = embedded.server
        control = Database(server, size=CONTROL_CONNECTIONS)
        stack.push_async_callback(control.close)
        databases = Databases(
            server,
            control,
            secret,
            statement_timeout=settings.statement_timeout,
            base="template0" if embedded else "template1",
        )
        for done in await databases.prepare():
            log(f"migrated: {done}")
        pools = AppPools(server, secret, Limits(settings.app_connections, settings.total_connections))
        stack.push_async_callback(pools.close)
        blob = await stack.enter_async_context(open_blob(settings, secret))
        bounds = Bounds(
            settings.home / "deno",
            private_network=settings.function_private_network,
            ipv6=settings.function_ipv6,
            environment=child_environment(),
        )
        deno = Engine(bounds, EngineLimits(memory_mb=settings.function_memory_mb))
        deps = _assemble(settings, secret, control, databases, Listener(server), pools, blob, deno)
        stack.push_async_callback(deps.outgoing.close)
        group = await stack.enter_async_context(anyio.create_task_group())
        await group.start(deno.run)
        infrastructure = [Worker("listener", deps.listener.run)]
        if embedded is not None:
            infrastructure.append(Worker("postgres", embedded.watch))
        if settings.workers:
            infrastructure.append(Worker("rates", deps.rates.keep_swept))
        start_workers(group, infrastructure)
        try:
            yield deps
        finally:
            group.cancel_scope.cancel()


def _assemble(
    settings: Settings,
    secret: str,
    control: Database,
    databases: Databases,
    listener: Listener,
    pools: AppPools,
    blob: BlobStore,
    deno: Engine,
) -> Deps:
    async def read(app: App) -> Snapshot:
        async with pools.reader(app) as connection:
            return await read_snapshot(connection)

    async def announce(app_id: str) -> None:
        await control.execute("select pg_notify($1, $2)", CATALOG_CHANNEL, app_id)

    catalog = Catalogs(read=read, announce=announce)
    listener.on(CATALOG_CHANNEL, lambda app_id: catalog.forget(app_id or None))
    tools = {tool.name: tool for s in SLICES for tool in s.tools}
    wanted = tool_names(settings.tools, tools)
    return Deps(
        settings=settings,
        secret=secret,
        control=control,
        databases=databases,
        listener=listener,
        registry=Registry(control, listener),
        rates=RateLimits(control, settings, secret),
        pools=pools,
        catalog=catalog,
        blob=blob,
        deno=deno,
        local_model=LocalModel(),
        outgoing=Outgoing(settings.allow_private_network),
        slices=SLICES,
        tools={n: t for n, t in tools.items() if not wanted or n in wanted},
        capabilities={name: run for s in SLICES for name, run in s.provides.items()},
    )
