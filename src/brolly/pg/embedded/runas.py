"""Which account Postgres runs as, and folders that this account can reach.

Postgres refuses to run as root. When we are root it runs as an account without
rights; that account may be unable to pass the folders above the data folder or
above the programs, and then both get a place under ``/var/lib/brolly``.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brolly.core.errors import AppError
from brolly.pg.embedded.binaries import Binaries, copy_binaries, find_binaries

ACCOUNT = "brolly"
SHELF = Path("/var/lib/brolly")
# The address of a unix socket holds 108 bytes on Linux and 104 elsewhere, with the closing zero.
_SOCKET_LIMIT = 103
_SOCKET_NAME = "/.s.PGSQL.5432"
_BARE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """The user that owns the cluster; ``foreign`` when it is not the one we run as."""

    uid: int
    gid: int
    foreign: bool

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program as this user to its end; our environment may hold secrets and is not passed on."""
        try:
            return subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env=_BARE_ENVIRONMENT,
                cwd="/",
                # Ctrl-C in our terminal is for us; we then end what we started in good order.
                start_new_session=True,
                user=self.uid if self.foreign else None,
                group=self.gid if self.foreign else None,
                extra_groups=[] if self.foreign else None,
            )
        except PermissionError as error:
            raise self._may_not_switch() from error

    def spawn(self, command: Sequence[str], log: int) -> subprocess.Popen[bytes]:
        """Start a program as this user, apart from our terminal, streams and environment."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_BARE_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            user=self.uid if self.foreign else None,
            group=self.gid if self.foreign else None,
            extra_groups=[] if self.foreign else None,
        )

    def _may_not_switch(self) -> AppError:
        return AppError(
            "CONFIG_INVALID",
            f"Postgres does not run as root, and this root may not start programs as user {_user_name(self.uid)}.",
            remediation="Start brolly as an ordinary user, or give the container the capabilities SETUID and SETGID.",
        )

    def give(self, path: Path) -> None:
        """Make a file or folder that we created this user's."""
        if self.foreign:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_enter(self, paths: Sequence[Path]) -> bool:
        """Whether this user can pass these folders and run these programs, found by trying."""
        if not self.foreign:
            return True
        test = 'for path; do test -x "$path" || exit 1; done'
        command = ["/bin/sh", "-c", test, "sh", *map(str, paths)]
        return self.run(command).returncode == 0


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
        binaries = copy_binaries(binaries, _make_shelf("programs", 0o755))
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
    if home_owner != 0 and _user_name(home_owner) != str(home_owner):
        return Account(home_owner, pwd.getpwuid(home_owner).pw_gid, foreign=True)
    return _powerless_account()


def _wrong_owner(entry: Path, owner: int, us: int) -> AppError:
    if us == 0:
        return AppError(
            "CONFIG_INVALID",
            f"The database cluster {entry} belongs to root, and Postgres does not run as root.",
            remediation=f"Give it to a system user: useradd --system {ACCOUNT}; chown -R {ACCOUNT}: {entry}/",
        )
    return AppError(
        "CONFIG_INVALID",
        f"The database cluster {entry} belongs to user {_user_name(owner)}, but this program runs as {_user_name(us)}.",
        remediation="Start brolly as the user that owns the folder, or set BROLLY_HOME to a folder of your own.",
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _powerless_account() -> Account:
    """The system account ``brolly``, made if that is possible, or else ``nobody``."""
    found = _system_account(ACCOUNT)
    if found is None:
        _create_account()
        found = _system_account(ACCOUNT) or _system_account("nobody")
    if found is None:
        raise AppError(
            "CONFIG_INVALID",
            "Postgres does not run as root, and there is no account to run it as.",
            remediation="Start brolly as an ordinary user, or create a system user named brolly.",
        )
    return found


def _system_account(name: str) -> Account | None:
    """The account of this name, unless it is root's or a person's."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    ours = name == "nobody" or 0 < entry.pw_uid < 1000
    return Account(entry.pw_uid, entry.pw_gid, foreign=True) if ours else None


def _create_account() -> None:
    useradd = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    commands = [
        [*useradd, "--shell", "/usr/sbin/nologin", ACCOUNT],
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/sbin/nologin", ACCOUNT],
    ]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    for command in commands:
        if shutil.which(command[0], path=environment["PATH"]):
            # Failing is no error: another process may have made it, or /etc is read-only and nobody has to do.
            subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=environment)
            return


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


def digest(home: Path) -> str:
    """A short name for a data folder, the same in every process."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _make_shelf(name: str, mode: int) -> Path:
    """A folder of root's under ``/var/lib/brolly``; refuses one that others could write to."""
    for folder, bits in ((SHELF, 0o755), (SHELF / name, mode)):
        folder.mkdir(mode=bits, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            raise AppError("CONFIG_INVALID", f"{folder} must be a folder that root owns and no one else can write to.")
        if stat.S_IMODE(found.st_mode) & bits != bits:
            # A narrow umask cut the bits that let the account pass.
            folder.chmod(stat.S_IMODE(found.st_mode) | bits)
    return SHELF / name


def _remote_folder(home: Path) -> Path:
    """Where the cluster of an unreachable data folder lives."""
    folder = _make_shelf("clusters", 0o711) / digest(home)
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
        f"{folder} belongs to user {_user_name(found.st_uid)} or is no folder; a socket there would not be safe.",
        remediation=f"Remove {folder}, or set BROLLY_HOME to a folder with a shorter name.",
    )


def remove_data_folder(home: Path) -> None:
    """Delete a data folder that no server uses, with what lies elsewhere for it. For throw-away folders."""
    elsewhere = [Path("/tmp") / f"brolly-{os.geteuid()}" / digest(home)]  # noqa: S108
    if os.geteuid() == 0:
        elsewhere.append(SHELF / "clusters" / digest(home))
    for folder in (*elsewhere, home):
        shutil.rmtree(folder, ignore_errors=True)
