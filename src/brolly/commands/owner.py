"""owner: how the owner signs in, set in the control database itself, whether a server runs or not."""

from __future__ import annotations

import getpass
import socket
import sys
from pathlib import Path

from brolly.authorization import owner
from brolly.commands.keys import in_database
from brolly.commands.terminal import note, write, write_facts
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.keys.service import ensure_account


def _read_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("New password of the owner: ")
    if getpass.getpass("Once more: ") != password:
        raise AppError(
            "VALIDATION_WEAK_PASSWORD", "The two are not the same.", remediation="Run brolly owner password again."
        )
    return password


def set_password(home: Path | None, remove: bool) -> None:
    """Set the owner's password, or remove it."""
    password = "" if remove else _read_password()

    async def work(deps: Deps) -> bool:
        account = await ensure_account(deps, owner.ACCOUNT)
        if remove:
            return await owner.remove_password(deps, account)
        await owner.set_password(deps, account, password)
        return True

    done = in_database(home, work)
    if remove:
        write("Nobody can sign in any more." if done else "There was no password.")
        return
    write("The password is set. Programs that ask at /mcp can now be let in, in a browser.")
    write("A second factor makes it safer: brolly owner totp.")


def set_factor(home: Path | None, remove: bool) -> None:
    """Set up the second factor with its first code, or remove it."""

    async def ready(deps: Deps) -> bool:
        return await owner.is_enabled(deps)

    if not remove and not in_database(home, ready):
        raise AppError(
            "STATE_PREREQUISITE_MISSING",
            "A second factor needs a password first.",
            remediation="Run brolly owner password.",
        )
    secret, code = None, ""
    if not remove:
        secret, text, address = owner.new_factor(owner.ACCOUNT, socket.gethostname())
        write_facts([("Secret", text), ("For a QR code", address)])
        note("Add it to an authenticator, then type the code that it shows.")
        sys.stdout.flush()
        code = sys.stdin.readline()

    async def work(deps: Deps) -> None:
        await owner.set_factor(deps, await ensure_account(deps, owner.ACCOUNT), secret, code)

    in_database(home, work)
    write("The second factor is gone." if remove else "The second factor is in force.")
