"""The embedded Postgres, tested by what real processes and connections do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import asyncpg
import psutil
import pytest

from brolly.core.errors import AppError
from brolly.pg.embedded import EmbeddedPostgres, binaries, cluster, embedded_postgres, runas

PASSWORD = "correct horse"
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="shows what happens to root")
HELPER = """
import sys, anyio
from pathlib import Path
from brolly.pg.embedded import embedded_postgres
async def main():
    async with embedded_postgres(Path(sys.argv[1]), sys.argv[2]):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""


def data_of(home: Path) -> Path:
    return (home / "postgres").resolve()


def postmaster_of(home: Path) -> psutil.Process:
    found = cluster.find_postmaster(data_of(home))
    assert found is not None
    return found


def end_cluster(home: Path) -> None:
    """End the server of a test that failed, and remove the cluster that root had to place elsewhere."""
    entry = home / "postgres"
    left = cluster.find_postmaster(entry.resolve())
    if left is not None:
        left.send_signal(signal.SIGQUIT)
        with suppress(psutil.TimeoutExpired):
            left.wait(5)
    if ROOT:
        shutil.rmtree(runas.SHELF / "clusters" / runas.digest(home), ignore_errors=True)
    shutil.rmtree(f"/tmp/brolly-{os.geteuid()}/{runas.digest(home)}", ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """A data folder as ``mktemp -d`` makes it."""
    folder = Path(tempfile.mkdtemp(prefix="brolly-test-")).resolve()
    yield folder
    end_cluster(folder)
    shutil.rmtree(folder)


@pytest.fixture
def spawn(home: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts further processes that use the same data folder."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HELPER, str(home), PASSWORD]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with anyio.fail_after(20):
        assert await anyio.to_thread.run_sync(process.stdout.readline) == "ready\n"


async def ask(postgres: EmbeddedPostgres, query: str, **login: str) -> object:
    connection = await asyncpg.connect(**postgres.server.connect_args(**login))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def until(holds: Callable[[], object], limit: float = 15) -> None:
    with anyio.fail_after(limit):
        while not holds():  # noqa: ASYNC110 - other processes announce nothing
            await anyio.sleep(0.005)


async def ended(process: psutil.Process) -> None:
    await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 8)


def mode_of(path: Path | str) -> int:
    return os.stat(path).st_mode & 0o777


async def test_a_new_cluster_is_closed_durable_and_knows_unicode(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROLLY_TEST_SECRET", "do not inherit")
    said: list[str] = []
    async with embedded_postgres(home, PASSWORD, log=said.append) as postgres:
        assert any("Creating the database cluster" in line for line in said)
        settings = {
            "listen_addresses": "",
            "fsync": "on",
            "full_page_writes": "on",
            "wal_level": "logical",
            "max_connections": "200",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "jit": "off",
            "TimeZone": "UTC",
            "password_encryption": "scram-sha-256",
            "log_min_error_statement": "panic",
        }
        for name, value in settings.items():
            assert await ask(postgres, f"select current_setting('{name}')") == value, name
        assert await ask(postgres, "select current_database()") == "brolly"
        assert await ask(postgres, "select lower('ÄÉЖ')") == "äéж"
        assert await ask(postgres, "select 'ÉCOLE' ilike 'éc%'") is True
        await ask(postgres, "create extension vector")
        assert await ask(postgres, "select '[1,2]'::vector <-> '[1,4]'") == 2
        methods = await ask(postgres, "select string_agg(distinct auth_method, ',') from pg_hba_file_rules")
        assert methods == "scram-sha-256"
        for password in ("wrong", ""):
            with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
                await ask(postgres, "select 1", password=password)
        assert mode_of(postgres.server.host) == 0o700
        assert mode_of(data_of(home)) == 0o700
        assert PASSWORD not in repr(postgres.server)

        server = postmaster_of(home)
        assert not [entry for entry in server.net_connections() if entry.family.name.startswith("AF_INET")]
        assert "BROLLY_TEST_SECRET" not in server.environ()
        assert os.getsid(server.pid) != os.getsid(0)
        assert server.uids().real != 0
        if sys.platform == "linux":
            assert os.readlink(f"/proc/{server.pid}/fd/0") == "/dev/null"
            assert os.readlink(f"/proc/{server.pid}/fd/1") == str(home / "logs" / "postgres.log")
    await ended(server)
    assert not any(name.startswith("postgres.new") for name in os.listdir(home))


async def test_starting_again_keeps_all_and_the_last_one_out_stops_it(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD) as postgres:
        await ask(postgres, "create table kept as select 42 as n")
    async with embedded_postgres(home, PASSWORD) as postgres:
        server = postmaster_of(home)
        assert await ask(postgres, "select n from kept") == 42
        async with embedded_postgres(home, PASSWORD) as second:
            assert second.server == postgres.server
        assert postmaster_of(home).pid == server.pid, "stopped although it is still open once"
        await ask(postgres, "drop database brolly", database="postgres")
    await ended(server)
    async with embedded_postgres(home, PASSWORD) as postgres:
        assert await ask(postgres, "select current_database()") == "brolly", "not made again"


async def test_processes_share_one_server_and_killing_them_leaves_no_count(
    home: Path, spawn: Callable[[], subprocess.Popen[str]]
) -> None:
    starter, other = spawn(), spawn()
    await ready(starter)
    await ready(other)
    server = postmaster_of(home)
    async with embedded_postgres(home, PASSWORD) as postgres:
        starter.communicate()  # leaves in good order
        other.kill()
        other.wait()
        assert await ask(postgres, "select 1") == 1
        assert postmaster_of(home).pid == server.pid
    await ended(server)  # the killed process no longer counts


async def test_a_server_whose_users_were_all_killed_is_adopted(
    home: Path, spawn: Callable[[], subprocess.Popen[str]]
) -> None:
    only = spawn()
    await ready(only)
    server = postmaster_of(home)
    only.kill()
    only.wait()
    assert server.is_running()
    async with embedded_postgres(home, PASSWORD) as postgres:
        assert postmaster_of(home).pid == server.pid
        assert await ask(postgres, "select 1") == 1
    await ended(server)


async def test_the_watch_starts_a_killed_server_again(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD) as postgres, anyio.create_task_group() as tasks:
        tasks.start_soon(postgres.watch)
        await ask(postgres, "create table kept as select 7 as n")
        first = postmaster_of(home)
        first.kill()
        await until(lambda: (now := cluster.find_postmaster(data_of(home))) and now.pid != first.pid)
        async with embedded_postgres(home, PASSWORD):  # waits until it answers
            assert await ask(postgres, "select n from kept") == 7
        tasks.cancel_scope.cancel()


async def test_a_server_killed_with_open_transactions_recovers_at_the_next_start(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD) as postgres:
        await ask(postgres, "create table kept as select generate_series(1, 1000) as n")
        busy = await asyncpg.connect(**postgres.server.connect_args())
        await busy.execute("begin; delete from kept")
        postmaster_of(home).kill()
        # Joins at once, while processes of the killed server may still hold its memory.
        async with embedded_postgres(home, PASSWORD) as again:
            assert await ask(again, "select count(*) from kept") == 1000
        busy.terminate()


@pytest.mark.parametrize("remains", ["reused", "zombie", "dead", "empty"])
async def test_a_stale_process_file_and_socket_do_not_stop_a_start(home: Path, remains: str) -> None:
    async with embedded_postgres(home, PASSWORD) as postgres:
        sockets = Path(postgres.server.host)
    owner = data_of(home).stat().st_uid if ROOT else None
    command = ["sleep", "60" if remains == "reused" else "0"]
    stranger = subprocess.Popen(command, user=owner)  # noqa: ASYNC220 - it is its process id that matters
    if remains == "dead":
        stranger.wait()
    elif remains == "zombie":
        await until(lambda: psutil.Process(stranger.pid).status() == psutil.STATUS_ZOMBIE)
    text = "" if remains == "empty" else f"{stranger.pid}\n{data_of(home)}\n1700000000\n5432\n{sockets}\n\n1 2\nready\n"
    for name in (data_of(home) / "postmaster.pid", sockets / ".s.PGSQL.5432.lock"):
        name.write_text(text)
        os.chown(name, owner if owner is not None else -1, -1)
    (sockets / ".s.PGSQL.5432").touch()
    try:
        async with embedded_postgres(home, PASSWORD) as postgres:
            assert await ask(postgres, "select 1") == 1
        assert remains != "reused" or stranger.poll() is None, "a stranger was killed"
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_kill_while_the_cluster_is_made_leaves_nothing_half_made(
    home: Path, spawn: Callable[[], subprocess.Popen[str]]
) -> None:
    victim = spawn()
    await until(lambda: list(home.glob("postgres.new-*/data/base")))
    victim.kill()
    victim.wait()
    assert not (home / "postgres").exists()
    async with embedded_postgres(home, PASSWORD) as postgres:
        assert await ask(postgres, "select 1") == 1
    # An initdb whose parent was killed may have gone on for a moment; the next start clears up after it.
    async with embedded_postgres(home, PASSWORD):
        assert not any(name.startswith("postgres.new") for name in os.listdir(home))


async def test_cancelling_a_start_leaves_no_server(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD):
        pass
    for limit in (0.001, 0.01, 0.02, 0.03):
        with anyio.move_on_after(limit):
            async with embedded_postgres(home, PASSWORD):
                await anyio.sleep_forever()
        assert cluster.find_postmaster(data_of(home)) is None
    async with embedded_postgres(home, PASSWORD) as postgres:
        assert await ask(postgres, "select 1") == 1


async def test_a_lost_password_is_said_and_the_server_not_left_running(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD):
        pass
    with pytest.raises(AppError, match="another password"):
        async with embedded_postgres(home, "another"):
            pass
    assert cluster.find_postmaster(data_of(home)) is None


async def test_a_cluster_that_cannot_be_used_is_refused_with_a_reason(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD):
        pass
    conf = data_of(home) / "postgresql.conf"
    right = conf.read_text()
    conf.write_text(right + "\nshared_buffers = nonsense\n")
    with pytest.raises(AppError, match="nonsense") as failed:
        async with embedded_postgres(home, PASSWORD):
            pass
    assert str(home / "logs" / "postgres.log") in failed.value.message
    conf.write_text(right)

    version = data_of(home) / "PG_VERSION"
    version.write_text("16\n")
    with pytest.raises(AppError, match=r"Postgres 16, but .* Postgres 18"):
        async with embedded_postgres(home, PASSWORD):
            pass
    version.unlink()
    with pytest.raises(AppError, match="not a database cluster"):
        async with embedded_postgres(home, PASSWORD):
            pass


async def test_the_log_is_bounded_and_holds_no_statement(home: Path) -> None:
    log = home / "logs" / "postgres.log"
    log.parent.mkdir()
    log.write_bytes(b"old\n" * (cluster.LOG_LIMIT // 4 + 1))
    async with embedded_postgres(home, PASSWORD) as postgres:
        for statement in ("select 'my-secret'::int", "alter role brolly password null, 'my-secret'"):
            with pytest.raises(asyncpg.PostgresError):
                await ask(postgres, statement)
    assert log.stat().st_size < 100_000
    assert log.with_name("postgres.log.1").exists()
    assert "my-secret" not in log.read_text()


async def test_a_folder_with_a_long_or_odd_name_works(home: Path) -> None:
    for name in ("x" * 120, 'a "quoted", näme'):
        inner = home / name
        async with embedded_postgres(inner, PASSWORD) as postgres:
            assert await ask(postgres, "select 1") == 1
            assert mode_of(postgres.server.host) == 0o700
        end_cluster(inner)


@needs_root
def test_a_socket_folder_made_by_someone_else_is_refused(home: Path) -> None:
    folder = home / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    account = runas.Account(os.geteuid(), os.getegid(), foreign=False)
    with pytest.raises(AppError, match="12345"):
        runas.make_private(account, folder)
    folder.rmdir()
    folder.symlink_to(home)
    with pytest.raises(AppError, match="no folder"):
        runas.make_private(account, folder)


@needs_root
async def test_root_places_the_cluster_where_its_account_reaches_it(home: Path) -> None:
    inner = home / "closed" / "data"
    async with embedded_postgres(inner, PASSWORD) as postgres:
        assert (inner / "postgres").is_symlink()
        assert data_of(inner).is_relative_to(runas.SHELF)
        assert await ask(postgres, "create table kept as select 1") is None
    assert mode_of(home) == 0o700, "a folder that is not ours was opened"
    async with embedded_postgres(inner, PASSWORD) as postgres:
        assert await ask(postgres, "select count(*) from kept") == 1
    # Deleting the data folder and starting again gives an empty one; the old cluster is kept aside.
    shutil.rmtree(inner)
    async with embedded_postgres(inner, "new password") as postgres:
        assert await ask(postgres, "select to_regclass('kept')") is None
    assert len(list(data_of(inner).parent.glob("postgres.old-*"))) == 1
    shutil.rmtree(data_of(inner))
    with pytest.raises(AppError, match="is missing"):
        async with embedded_postgres(inner, PASSWORD):
            pass
    end_cluster(inner)


@needs_root
async def test_root_copies_programs_that_its_account_cannot_reach(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = home / "venv"
    closed.mkdir(mode=0o700)
    hidden = binaries.copy_binaries(binaries.find_binaries(), closed)
    monkeypatch.setattr(runas, "find_binaries", lambda: hidden)
    async with embedded_postgres(home / "data", PASSWORD) as postgres:
        assert await ask(postgres, "select 1") == 1
        program = Path(postmaster_of(home / "data").exe())
        assert program.is_relative_to(runas.SHELF / "programs")
        assert not mode_of(program) & 0o022
        shutil.rmtree(runas.SHELF / "programs" / program.relative_to(runas.SHELF / "programs").parts[0])
    end_cluster(home / "data")


@needs_root
async def test_a_cluster_that_root_owns_is_refused_with_a_reason(home: Path) -> None:
    async with embedded_postgres(home, PASSWORD):
        pass
    os.chown(home / "postgres", 0, 0)
    with pytest.raises(AppError, match="belongs to root"):
        async with embedded_postgres(home, PASSWORD):
            pass
