"""Which account Postgres runs as, and folders that this account can reach.

Postgres refuses to run as root. When we are root it runs as an account without
rights; that account may be unable to pass the folders above the data folder or
above the programs, and then both get a place under ``/var/lib/brolly``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brolly.core.account import SHELF, Account, digest, make_shelf, powerless_account, user_name
from brolly.core.errors import AppError
from brolly.pg.embedded.binaries import Binaries, copy_binaries, find_binaries

ACCOUNT = "brolly"
# The address of a unix socket holds 108 bytes on Linux and 104 elsewhere, with the closing zero.
_SOCKET_LIMIT = 103
_SOCKET_NAME = "/.s.PGSQL.5432"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster lives and how it is run; ``link`` points to ``data`` when that lies elsewhere."""

    account: Account
    binaries: Binaries
    data: Path
    sockets: Path
    link: Path | None


def find_place(home: Path) -> Place:
    """Choose account, folders and programs for the cluster of this data folder; makes only what must exist."""
    entry = home / "postgres"
    with suppress(OSError):
        # An empty folder, perhaps made by a person, is no cluster; one with anything in it stays.
        entry.rmdir()
    if entry.is_symlink() and not entry.exists():
        raise AppError(
            "CONFIG_INVALID",
            f"{entry} points to {os.readlink(entry)}, which is missing: the database cluster is not there.",
            remediation=f"Bring that folder back (is a volume not mounted?), or remove {entry} to start empty.",
        )
    account = _choose_account(home, entry)
    binaries = find_binaries()
    if not account.can_enter(binaries.must_be_entered()):
        binaries = copy_binaries(binaries, make_shelf("programs", 0o755))
    at_home = _open_home(account, home)
    if entry.exists():
        data = entry.resolve()
        if not account.can_enter([data]):
            raise AppError(
                "CONFIG_INVALID",
                f"The user that owns {data} cannot reach it: a folder above it is closed to that user.",
                remediation="Move the data folder to where that user can reach it, for example under /var/lib.",
            )
    else:
        data = entry if at_home else _remote_folder(home) / "postgres"
    sockets = _socket_folder(account, home, at_home)
    return Place(account, binaries, data, sockets, entry if data != entry and not entry.exists() else None)


def _choose_account(home: Path, entry: Path) -> Account:
    """Ourselves; or for root whoever owns the cluster or the data folder, or else an account without rights."""
    us = os.geteuid()
    if entry.exists():
        owner = entry.stat()
        if owner.st_uid == us and us != 0:
            return Account(us, os.getegid(), foreign=False)
        if us == 0 and owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid, foreign=True)
        raise _wrong_owner(entry, owner.st_uid, us)
    if us != 0:
        return Account(us, os.getegid(), foreign=False)
    home_owner = home.stat().st_uid
    if home_owner != 0 and user_name(home_owner) != str(home_owner):
        return Account(home_owner, pwd.getpwuid(home_owner).pw_gid, foreign=True)
    return powerless_account(ACCOUNT, "Postgres does not run as root")


def _wrong_owner(entry: Path, owner: int, us: int) -> AppError:
    if us == 0:
        return AppError(
            "CONFIG_INVALID",
            f"The database cluster {entry} belongs to root, and Postgres does not run as root.",
            remediation=f"Give it to a system user: useradd --system {ACCOUNT}; chown -R {ACCOUNT}: {entry}/",
        )
    return AppError(
        "CONFIG_INVALID",
        f"The database cluster {entry} belongs to user {user_name(owner)}, but this program runs as {user_name(us)}.",
        remediation="Start brolly as the user that owns the folder, or set BROLLY_HOME to a folder of your own.",
    )


def _open_home(account: Account, home: Path) -> bool:
    """Whether the account reaches the data folder; lets its group pass if the folder alone is in the way."""
    if account.can_enter([home]):
        return True
    if not account.can_enter([home.parent]):
        return False
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        # Someone has given this folder a group, which it keeps.
        home.chmod(mode | 0o001)
    else:
        os.chown(home, -1, account.gid)
        home.chmod(mode | 0o010)
    return account.can_enter([home])


def _remote_folder(home: Path) -> Path:
    """Where the cluster of an unreachable data folder lives."""
    folder = make_shelf("clusters", 0o711) / digest(home)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    return folder


def _socket_folder(account: Account, home: Path, at_home: bool) -> Path:
    """A folder that only the account can enter and whose name leaves room for the socket's."""
    folder = home / "run"
    if at_home and len(os.fsencode(folder)) + len(_SOCKET_NAME) <= _SOCKET_LIMIT:
        return make_private(account, folder)
    if account.foreign:
        return make_private(account, _remote_folder(home) / "run")
    # Not the environment's temporary folder: a second process must find the same one.
    ours = make_private(account, Path("/tmp") / f"brolly-{account.uid}")  # noqa: S108
    return make_private(account, ours / digest(home))


def make_private(account: Account, folder: Path) -> Path:
    """Make the folder, or accept it only if it is the account's and closed to everyone else."""
    try:
        folder.mkdir(mode=0o700)
        account.give(folder)
    except FileExistsError:
        pass
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid in (account.uid, os.geteuid()):
        # One of our own that was made too wide, or for root, is put right.
        account.give(folder)
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
        return folder
    raise AppError(
        "CONFIG_INVALID",
        f"{folder} belongs to user {user_name(found.st_uid)} or is no folder; a socket there would not be safe.",
        remediation=f"Remove {folder}, or set BROLLY_HOME to a folder with a shorter name.",
    )


def remove_data_folder(home: Path) -> None:
    """Delete a data folder that no server uses, with what lies elsewhere for it. For throw-away folders."""
    elsewhere = [Path("/tmp") / f"brolly-{os.geteuid()}" / digest(home)]  # noqa: S108
    if os.geteuid() == 0:
        elsewhere += [SHELF / "clusters" / digest(home), SHELF / "deno" / digest(home / "deno")]
    for folder in (*elsewhere, home):
        shutil.rmtree(folder, ignore_errors=True)
