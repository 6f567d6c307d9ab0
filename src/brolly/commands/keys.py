"""keys: service keys, made and revoked in the control database itself, whether a server runs or not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from brolly.app import open_deps
from brolly.commands.terminal import is_terminal, run, spinner, write, write_facts, write_json, write_table
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.keys.service import ensure_account
from brolly.keys.tool import GENERATE_KEY, MANAGE_API_KEYS

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def in_database(home: Path | None, work: Callable[[Deps], Awaitable[Any]]) -> Any:
    """What the work answers over an open control database."""
    settings = load_settings(home=home)

    async def opened() -> Any:
        with spinner("Opening the control database…") as log:
            async with open_deps(settings, log) as deps:
                return await work(deps)

    return run(opened)


def _operator(account_id: str) -> Caller:
    """Whoever may read the data folder may act for every account in it."""
    return Caller("service", account_id=account_id, scopes=frozenset({"*"}), user_agent="brolly keys")


async def _account(deps: Deps, name: str) -> str:
    rows = await deps.control.fetch("select id::text, name from brolly.accounts order by name")
    accounts: dict[str, str] = {row["name"]: row["id"] for row in rows}
    if name in accounts:
        return accounts[name]
    near = difflib.get_close_matches(name, accounts, 1)
    raise AppError(
        "RESOURCE_NOT_FOUND",
        f"There is no account {name!r}." + (f" Did you mean {near[0]}?" if near else ""),
        remediation=f"Make it with brolly keys create NAME --account {name}.",
    )


def list_keys(home: Path | None, account: str, as_json: bool) -> None:
    """Show an account's keys that are not revoked."""

    async def work(deps: Deps) -> list[dict[str, Any]]:
        # A server that has never run has no owner yet.
        account_id = await (ensure_account if account == "owner" else _account)(deps, account)
        found: list[dict[str, Any]] = []
        while True:
            page = await MANAGE_API_KEYS.run(deps, _operator(account_id), "list", {"offset": len(found)})
            found += page["keys"]
            if "next_offset" not in page:
                return found

    keys: list[dict[str, Any]] = in_database(home, work)
    if as_json:
        write_json([{name: value for name, value in key.items() if name != "current"} for key in keys])
        return
    rows = [
        [
            key["id"],
            key["name"],
            f"{key['prefix']}…",
            " ".join(key["scopes"]),
            key["created_at"][:10],
            (key["last_used_at"] or "never")[:16].replace("T", " "),
        ]
        for key in keys
    ]
    write_table(["id", "name", "key", "scopes", "made", "last used"], rows)
    if not rows and is_terminal():
        write(f"Account {account} has no keys; make one with brolly keys create NAME.")


def create_key(home: Path | None, name: str, account: str, app: str | None, read: bool, as_json: bool) -> None:
    """Make a key and show it."""

    async def work(deps: Deps) -> dict[str, Any]:
        account_id = await ensure_account(deps, account)
        arguments: dict[str, Any] = {"name": name, "additional_scopes": ["read"] if read else []}
        if app is not None:
            arguments["app_id"] = app
        try:
            return await GENERATE_KEY.run(deps, _operator(account_id), "generate_service_key", arguments)
        except AppError as error:
            if error.code == "RESOURCE_NOT_FOUND":
                error.remediation = f"Give the id of an app that account {account} owns; --account names another."
            raise

    made: dict[str, Any] = in_database(home, work)
    if as_json:
        write_json({**made, "account": account})
    elif is_terminal():
        write_facts([("Key", made["key"]), ("Id", made["id"]), ("Scopes", " ".join(made["scopes"]))])
        write("It is shown this once.")
    else:
        write(made["key"])


def revoke_key(home: Path | None, key_id: str, as_json: bool) -> None:
    """Revoke a key, whosever it is."""
    from brolly.serve import settle_owner_key

    async def work(deps: Deps) -> dict[str, Any]:
        account_id = None
        if _UUID.fullmatch(key_id):
            account_id = await deps.control.fetchval(
                "select account_id::text from brolly.api_keys where id = $1::text::uuid and revoked_at is null", key_id
            )
        if account_id is None:
            raise AppError(
                "RESOURCE_NOT_FOUND",
                f"There is no key with the id {key_id!r}.",
                remediation="See brolly keys list --account NAME for the ids.",
            )
        done = await MANAGE_API_KEYS.run(deps, _operator(account_id), "revoke", {"key_id": key_id})
        # If it was the owner's first key, its file would only mislead.
        await settle_owner_key(deps)
        return done

    done: dict[str, Any] = in_database(home, work)
    if as_json:
        write_json(done)
    else:
        write(f"Revoked {done['key_id']}.")
