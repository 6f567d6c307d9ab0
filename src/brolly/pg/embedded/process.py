"""The Postgres that comes in the wheel: started, shared between processes, watched and stopped by us."""

from __future__ import annotations

import enum
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import asyncpg

from brolly.core.errors import AppError
from brolly.pg.embedded import cluster
from brolly.pg.embedded.runas import Place, find_place
from brolly.pg.server import Server

DATABASE = "brolly"
_log = logging.getLogger(__name__)

_ANSWER_LIMIT = 60.0  # a server that says nothing at all
_RECOVERY_LIMIT = 600.0  # one that says that it is replaying its log
_LINGER_LIMIT = 15.0  # children of a killed server that still hold its memory
_STOP = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 1.5), (signal.SIGKILL, 0.5))  # fast, immediate, by force
_MOST_MEMORY = 3 * 1024**3  # address space of each database process, shared memory included
_WATCH_INTERVAL = 0.25
_LINGERING = ("pre-existing shared memory block", "already exists")
# What asyncpg raises when the server is not there or dies under a connection.
_TORN = (OSError, asyncpg.ConnectionDoesNotExistError, asyncpg.InternalClientError)


class _State(enum.Enum):
    READY = enum.auto()
    BUSY = enum.auto()  # starting, recovering or stopping
    SILENT = enum.auto()


def _with_little_memory(command: list[str]) -> list[str]:
    """The command, with a limit on its address space and on that of all that it starts.

    One statement shall fail for want of memory rather than the machine: expressions and requests can make
    gigabytes of a few characters. Set by the shell, as only a process itself may do so everywhere.
    """
    if sys.platform != "linux":
        return command
    return ["/bin/sh", "-c", 'ulimit -v "$0" || true; exec "$@"', str(_MOST_MEMORY // 1024), *command]


class _FileLock:
    """An flock, which the system gives up when its process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:
            # Root may run on a user's data folder, who must be able to do so too.
            owner = path.parent.stat()
            os.fchown(self._descriptor, owner.st_uid, owner.st_gid)

    def try_lock(self, mode: int) -> bool:
        """Take it shared or exclusive if that is possible at once; a shared one may be lost in trying."""
        try:
            fcntl.flock(self._descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


@asynccontextmanager
async def _alone(path: Path) -> AsyncGenerator[None, None]:
    """Keep every other process from starting or stopping the server meanwhile."""
    lock = await anyio.to_thread.run_sync(_FileLock, path)
    try:
        while not lock.try_lock(fcntl.LOCK_EX):  # noqa: ASYNC110 - a file lock announces nothing
            await anyio.sleep(0.02)
        yield
    finally:
        lock.close()


class EmbeddedPostgres:
    """A running embedded server and this process's share in it."""

    server: Server

    def __init__(self, home: Path, password: str, log: Callable[[str], None]) -> None:
        if not password or "\n" in password:
            raise ValueError("the administrator's password must be one line and not empty")
        self._home = home
        self._password = password
        self._say = log
        self._gate = home / "postgres.lock"
        self._log_file = home / "logs" / "postgres.log"
        self._log_start = 0
        self._share: _FileLock | None = None
        self._place: Place | None = None
        self._child: subprocess.Popen[bytes] | None = None

    async def watch(self) -> None:
        """Until cancelled: start the server again whenever it is gone, and keep its log small."""
        pause, rounds, place = _WATCH_INTERVAL, 0, self._place
        while place is not None:
            await anyio.sleep(pause)
            pause, rounds = _WATCH_INTERVAL, rounds + 1
            if rounds % 240 == 0:
                await self._bound_log()
            if not self._is_member() or await self._is_alive(place):
                continue
            _log.warning("the embedded Postgres is gone; starting it again")
            self._say("The embedded Postgres is gone; starting it again…")
            try:
                async with _alone(self._gate):
                    if self._is_member():
                        await self._run(place)
            except (AppError, OSError) as error:
                _log.error("the embedded Postgres could not be started again: %s", error)
                pause = 5.0
            else:
                _log.warning("the embedded Postgres runs again")

    async def open(self) -> None:
        """Join the server of this data folder, starting it if it does not run."""
        try:
            await anyio.to_thread.run_sync(self._make_folders)
            async with _alone(self._gate):
                self._share = _FileLock(self._home / "postgres.users")
                self._share.try_lock(fcntl.LOCK_SH)
                try:
                    self._place = await self._settle()
                    await self._run(self._place)
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await self._leave()
                    raise
        except OSError as error:
            raise AppError(
                "CONFIG_INVALID",
                f"The data folder {self._home} cannot be used: {error.strerror} ({error.filename}).",
                remediation="Give the folder to this user and free some space, or set BROLLY_HOME to another folder.",
            ) from error

    async def close(self) -> None:
        """Give up our share; whoever is last stops the server."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(10):
                async with _alone(self._gate):
                    await self._leave()
            if self._share is not None:
                # Someone is starting the server just now, so we are not the last.
                self._share.close()
                self._share = None

    def _make_folders(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_file.parent.mkdir(mode=0o700, exist_ok=True)

    async def _settle(self) -> Place:
        """Find the cluster's place, or make the cluster."""
        place = await anyio.to_thread.run_sync(find_place, self._home)
        self.server = Server(str(place.sockets), cluster.PORT, cluster.ADMINISTRATOR, self._password, DATABASE)
        if place.link is None and place.data.exists():
            await anyio.to_thread.run_sync(cluster.check_version, place.data)
        else:
            self._say(f"Creating the database cluster in {place.data}…")
            await anyio.to_thread.run_sync(cluster.create_cluster, place, self._password)
        return place

    async def _run(self, place: Place) -> None:
        """Return once the server answers; start it if it does not run."""
        began = anyio.current_time()
        launched = told = False
        while (state := await self._probe()) is not _State.READY:
            waited = anyio.current_time() - began
            if waited > (_RECOVERY_LIMIT if state is _State.BUSY else _ANSWER_LIMIT):
                raise self._failure(f"did not answer within {waited:.0f} s")
            if waited > 2 and not told:
                self._say("Waiting for the database, which may be recovering from a crash…")
                told = True
            if await self._is_alive(place):
                # Each question to a busy server is a line in its log.
                await anyio.sleep(0.01 if state is _State.SILENT and waited < 1 else 0.05)
                continue
            if launched:
                if waited > _LINGER_LIMIT or not self._may_pass():
                    raise self._failure("ended while starting")
                await anyio.sleep(0.1)
            await anyio.to_thread.run_sync(self._launch, place)
            launched = True

    async def _probe(self) -> _State:
        """What a connection to the control database meets, which is made if it does not exist."""
        try:
            connection = await asyncpg.connect(**self.server.connect_args(), timeout=5)
            await connection.close(timeout=5)
        except asyncpg.InvalidCatalogNameError:
            await self._create_database()
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise AppError(
                "CONFIG_INVALID",
                f"The database cluster of {self._home} was made with another password: the data folder's secret "
                "was lost or replaced.",
                remediation="Bring the old secret file back, or move the folder postgres away to start empty.",
            ) from error
        except (asyncpg.OperatorInterventionError, asyncpg.TooManyConnectionsError, TimeoutError):
            return _State.BUSY
        except _TORN:
            return _State.SILENT
        except asyncpg.PostgresError as error:
            raise self._failure(f"refuses a connection ({type(error).__name__})") from error
        return _State.READY

    async def _create_database(self) -> None:
        try:
            connection = await asyncpg.connect(**self.server.connect_args(database="postgres"), timeout=5)
            await connection.execute(f"create database {DATABASE}")
            await connection.close(timeout=5)
        except (*_TORN, asyncpg.PostgresError, TimeoutError) as error:
            raise self._failure(f"could not make its control database ({type(error).__name__})") from error

    async def _is_alive(self, place: Place) -> bool:
        if self._child is not None and self._child.poll() is None:
            return True
        return await anyio.to_thread.run_sync(cluster.find_postmaster, place.data) is not None

    def _launch(self, place: Place) -> None:
        """Start the server process."""
        cluster.sweep(place)
        cluster.clear_remains(place)
        cluster.write_settings(place)
        cluster.bound_log(self._log_file)
        # The access rules stand in the command, where no setting in a file can undo them.
        command = [str(place.binaries.postgres), "-D", str(place.data), "-c", "listen_addresses="]
        quoted = str(place.sockets).replace('"', '""')
        command += ["-c", f'unix_socket_directories="{quoted}"', "-c", f"port={cluster.PORT}"]
        command += ["-c", "unix_socket_permissions=0700"]
        log = os.open(self._log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._log_start = os.fstat(log).st_size
            child = place.account.spawn(_with_little_memory(command), log)
        finally:
            os.close(log)
        # It may outlive our share; someone must be there to reap it.
        self._child = child
        threading.Thread(target=child.wait, name="postgres-reaper", daemon=True).start()

    def _may_pass(self) -> bool:
        """Whether the failed start was killed, or met processes of a killed server: then another try is worth it."""
        if self._child is not None and self._child.poll() == -signal.SIGKILL:
            return True
        said = cluster.last_lines(self._log_file, self._log_start)
        return any(phrase in said for phrase in _LINGERING)

    def _failure(self, what: str) -> AppError:
        said = cluster.last_lines(self._log_file, self._log_start)
        return AppError(
            "CONFIG_INVALID",
            f"The embedded Postgres {what}. Its last words in {self._log_file}:\n{said}",
            remediation=f"Read {self._log_file}, mend what it names, then start again.",
        )

    async def _leave(self) -> None:
        """Give up our share, and stop the server if no one else has one; needs the gate."""
        share, self._share = self._share, None
        if share is None:
            return
        try:
            if self._place is not None and share.try_lock(fcntl.LOCK_EX):
                await self._stop(self._place)
        finally:
            share.close()

    async def _stop(self, place: Place) -> None:
        """Fast, then immediate, then by force: all within eight seconds."""
        running = await anyio.to_thread.run_sync(cluster.find_postmaster, place.data)
        child = self._child
        for number, limit in _STOP:
            if running is not None:
                _send(running.pid, number)
            elif child is not None and child.poll() is None:
                # Ended before it could write its process file.
                child.send_signal(number)
            with anyio.move_on_after(limit):
                while await self._is_alive(place):  # noqa: ASYNC110 - nor does another process's child
                    await anyio.sleep(0.01)
                return

    def _is_member(self) -> bool:
        return self._share is not None

    async def _bound_log(self) -> None:
        """Leave it to another process if one is at it."""
        with anyio.move_on_after(0.1):
            async with _alone(self._gate):
                await anyio.to_thread.run_sync(cluster.bound_log, self._log_file)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _note(line: str) -> None:
    _log.info("%s", line)


@asynccontextmanager
async def embedded_postgres(
    home: Path, password: str, *, log: Callable[[str], None] | None = None
) -> AsyncGenerator[EmbeddedPostgres, None]:
    """The embedded Postgres of a data folder, running while anyone is inside; ``log`` hears of slow steps."""
    real_home = await anyio.Path(home).resolve()
    postgres = EmbeddedPostgres(Path(real_home), password, log or _note)
    await postgres.open()
    try:
        yield postgres
    finally:
        await postgres.close()
