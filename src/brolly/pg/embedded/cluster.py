"""The files of one Postgres cluster: making it, its settings, its process file, its log."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import psutil

from brolly.core.errors import AppError
from brolly.pg.embedded.binaries import MAJOR
from brolly.pg.embedded.runas import Account, Place

ADMINISTRATOR = "brolly"
PORT = 5432  # only names the socket: nothing listens on the network
LOG_LIMIT = 8 * 1024 * 1024
_ROOM_FOR_CLUSTER = 128 * 1024 * 1024
_WAITING = ("system is starting up", "not yet accepting connections", "system is shutting down")
_NO_PROCESS = 2**31 - 1  # above every system's highest process id

# Rewritten at each start, so that a new version of this program brings its settings along.
SETTINGS = """\
# Written at each start. Put settings of your own into postgresql.conf, below the line that includes this file.
unix_socket_permissions = 0700
max_connections = 200
password_encryption = 'scram-sha-256'
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = logical
# An abandoned replication slot must not fill the disk.
max_slot_wal_keep_size = '2GB'
min_wal_size = '32MB'
max_wal_size = '1GB'
# One machine shared with an editor and its agents: little while idle.
shared_buffers = '64MB'
io_method = sync
# Short queries, for which compiling costs more than it saves.
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, mdy'
default_text_search_config = 'pg_catalog.english'
lc_messages = 'C'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'
# Statements, parameters and the values that error messages quote may be secrets: none of them is logged.
# (LOG ranks above ERROR here: the server's own reports stay, what clients did wrong does not.)
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_statement = none
log_min_duration_statement = -1
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_checkpoints = off
log_autovacuum_min_duration = -1
log_line_prefix = '%m [%p] '
logging_collector = off
"""
_POSTGRESQL_CONF = """\
include 'brolly.conf'
# Settings of your own go below; they win over those of brolly.conf.
"""


def check_version(data: Path) -> None:
    """Refuse a cluster of another major version, which Postgres would only refuse in its log."""
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise AppError(
            "CONFIG_INVALID",
            f"{data} is not a database cluster: it has no file PG_VERSION.",
            remediation="Move the folder away; a new cluster is then made at the next start.",
        ) from None
    if found != str(MAJOR):
        raise AppError(
            "CONFIG_INVALID",
            f"{data} was made by Postgres {found}, but this program brings Postgres {MAJOR}.",
            remediation=f"Save the data with pg_dumpall of Postgres {found}, move the folder away, start again and "
            f"load it with psql; or move the folder away to start empty.",
        )


def create_cluster(place: Place, password: str) -> None:
    """Make the cluster beside its final place and rename it there, so that half a cluster is never found."""
    parent = place.data.parent
    _set_aside(place)
    free = shutil.disk_usage(parent).free
    if free < _ROOM_FOR_CLUSTER:
        raise AppError(
            "CONFIG_INVALID",
            f"{parent} has {free // 2**20} MB left; a database cluster needs {_ROOM_FOR_CLUSTER // 2**20} MB.",
            remediation="Free some space, or set BROLLY_HOME to a folder on another disk.",
        )
    # A new name each time: an initdb whose parent was killed may still be writing to the old one.
    staging = parent / f"postgres.new-{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        place.account.give(staging)
        secret = staging / "password"
        _write_new(secret, password + "\n", place.account)
        _run_initdb(place, staging / "data", secret)
        replace_file(staging / "data" / "postgresql.conf", _POSTGRESQL_CONF, place.account)
        _sync_folder(staging / "data")
        os.rename(staging / "data", place.data)
        _sync_folder(parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if place.link is not None:
        place.link.symlink_to(place.data)
        _sync_folder(place.link.parent)


def sweep(place: Place) -> None:
    """Remove what a start that was killed had begun to make."""
    for left in place.data.parent.glob("postgres.new-*"):
        shutil.rmtree(left, ignore_errors=True)


def _set_aside(place: Place) -> None:
    """Keep a cluster whose data folder was deleted and made again, since its password went with the old folder."""
    if place.link is None or not place.data.exists():
        return
    if find_postmaster(place.data) is not None:
        raise AppError(
            "CONFIG_INVALID",
            f"A Postgres still runs on {place.data}, which belonged to a data folder that is gone.",
            remediation=f"Stop the process named in {place.data}/postmaster.pid, then start again.",
        )
    os.rename(place.data, place.data.with_name(f"postgres.old-{secrets.token_hex(4)}"))


def _run_initdb(place: Place, data: Path, secret: Path) -> None:
    command = [
        *(str(place.binaries.initdb), "--pgdata", str(data), "--username", ADMINISTRATOR, "--pwfile", str(secret)),
        *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"),
        # Knows the case of all of Unicode and sorts by code point, the same on every system.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        # Small segments: a new cluster is a quarter smaller and made sooner.
        *("--data-checksums", "--wal-segsize=4", "--no-instructions"),
        *("--set", "max_connections=200", "--set", "shared_buffers=64MB", "--set", "timezone=UTC"),
        *("--set", "log_timezone=UTC"),
    ]
    done = place.account.run(command)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise AppError("CONFIG_INVALID", f"The database cluster could not be made in {data.parent.parent}:\n{said}")


def write_settings(place: Place) -> None:
    """Put our settings into the cluster and close its folder, as Postgres demands after a careless copy."""
    replace_file(place.data / "brolly.conf", SETTINGS, place.account)
    if place.data.stat().st_mode & 0o077:
        place.data.chmod(0o700)


def find_postmaster(data: Path) -> psutil.Process | None:
    """The live server process of this cluster; a dead, reused or unreaped process id counts as none."""
    try:
        process = psutil.Process(_recorded_pid(data))
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return process if _serves(process, data) else None
    except (psutil.NoSuchProcess, ValueError):
        return None


def _recorded_pid(data: Path) -> int:
    """The process id in ``postmaster.pid``; ValueError when there is none."""
    try:
        return abs(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
    except FileNotFoundError:
        raise ValueError("no postmaster.pid") from None


def _serves(process: psutil.Process, data: Path) -> bool:
    """Whether this process is a Postgres on this folder, also when the folder was renamed since it started."""
    try:
        command = process.cmdline()
    except psutil.AccessDenied:
        # Better to wait for a stranger than to start a second server on the same files.
        return True
    if not command or not os.path.basename(command[0]).startswith("postgres"):
        return False
    if str(data) in command:
        return True
    try:
        return Path(process.cwd()) == data
    except psutil.AccessDenied:
        return False


def clear_remains(place: Place) -> None:
    """Undo what a killed server left behind, which Postgres would take for a running one.

    ``postmaster.pid`` is kept, for it names the shared memory by which Postgres tells whether
    processes of the killed server still write to the files; only a process id that now is
    a zombie or another program is made harmless.
    """
    record = place.data / "postmaster.pid"
    try:
        if psutil.pid_exists(_recorded_pid(place.data)):
            rest = record.read_text().split("\n", 1)[1]
            replace_file(record, f"{_NO_PROCESS}\n{rest}", place.account)
    except (ValueError, IndexError):
        record.unlink(missing_ok=True)
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (place.sockets / name).unlink(missing_ok=True)


def replace_file(path: Path, text: str, account: Account) -> None:
    """Write a file of the account's in one step, never through a link that the account may have put there."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        _write_new(new, text, account)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _write_new(path: Path, text: str, account: Account) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if account.foreign:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def bound_log(path: Path) -> None:
    """Keep one older log when this one has grown; the server goes on writing to the same file."""
    try:
        if path.lstat().st_size > LOG_LIMIT:
            older = path.with_name(path.name + ".1")
            shutil.copyfile(path, older, follow_symlinks=False)
            older.chmod(0o600)
            os.truncate(path, 0)
    except FileNotFoundError:
        return


def last_lines(path: Path, start: int) -> str:
    """The last things the server said since ``start``, without its answers to our asking whether it is ready."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(min(start, size), size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return "\n".join([line for line in lines if not line.endswith(_WAITING)][-8:])
    except OSError:
        return ""
