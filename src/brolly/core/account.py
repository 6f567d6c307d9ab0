"""Accounts of this machine without rights, for programs that must not run as root, and root's folders for them."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brolly.core.errors import AppError

SHELF = Path("/var/lib/brolly")
_BARE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that runs programs for us; ``foreign`` when it is not the one we run as."""

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
            f"Nothing that strangers may reach runs as root, and this root may not start programs as user "
            f"{user_name(self.uid)}.",
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


def user_name(uid: int) -> str:
    """The name of an account, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def powerless_account(name: str, why: str) -> Account:
    """The system account of that name, made if that is possible, or else ``nobody``; ``why`` it is needed."""
    found = _system_account(name)
    if found is None:
        _create_account(name)
        found = _system_account(name) or _system_account("nobody")
    if found is None:
        raise AppError(
            "CONFIG_INVALID",
            f"{why}, and there is no account without rights.",
            remediation="Start brolly as an ordinary user, or create a system user without rights.",
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


def _create_account(name: str) -> None:
    useradd = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    commands = [
        [*useradd, "--shell", "/usr/sbin/nologin", name],
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/sbin/nologin", name],
    ]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    for command in commands:
        if shutil.which(command[0], path=environment["PATH"]):
            # Failing is no error: another process may have made it, or /etc is read-only and nobody has to do.
            subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=environment)
            return


def digest(home: Path) -> str:
    """A short name for a data folder, the same in every process."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def make_shelf(name: str, mode: int) -> Path:
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
