"""This server and PostgREST, side by side over one app's database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from brolly.apps import provision
from brolly.auth import signing
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client, make_owner
from tests.differential import postgrest
from tests.differential.asking import Asked
from tests.differential.tables import ANN, SECURED, SQL


@dataclass
class Pair:
    """Both servers."""

    ours: httpx.AsyncClient
    theirs: httpx.AsyncClient
    base: str
    tokens: dict[str, tuple[str, str]]
    app: App

    async def answers(self, asked: Asked) -> tuple[httpx.Response, httpx.Response]:
        first, second = self.tokens[asked.who]
        ours = await self.ours.request(asked.method, self.base + asked.target, headers=asked.headers | _bearer(first))
        try:
            theirs = await self.theirs.request(asked.method, asked.target, headers=asked.headers | _bearer(second))
        except httpx.TransportError:
            theirs = httpx.Response(502)  # it drops the connection over what it fails to put into words
        return ours, theirs


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@pytest.fixture(scope="module")
async def pair(deps: Deps, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Both servers over one app's database, and tokens that are the same caller to both."""
    postgrest.binary()
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "differential", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    async with deps.pools.owner(app) as connection:
        await connection.execute(SQL)
    await deps.catalog.changed(app)
    async with http_client(deps, key) as ours:
        for table, column in SECURED.items():
            await secure(ours, f"/v1/{app_id}/rls", table, column)
        user = await signing.sign(deps, app, {"sub": ANN, "app_id": app_id, "role": "butterbase_user"}, 3600)
        app = await deps.registry.get(owner, app_id)
        service = await signing.sign(deps, app, {"sub": "s", "app_id": app_id, "role": "butterbase_service"}, 3600)
        keys = json.dumps(await signing.published(deps, app))
        folder: Path = tmp_path_factory.mktemp("postgrest")
        with postgrest.running(deps, app, keys, folder) as url:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as theirs:
                tokens = {"service": (key, service), "user": (user, user), "anon": ("", "")}
                del ours.headers["Authorization"]
                yield Pair(ours, theirs, f"/v1/{app_id}", tokens, app)
    await provision.delete(deps, app)


async def secure(ours: httpx.AsyncClient, path: str, table: str, column: str | None) -> None:
    """Rows of the user alone, or none for whom no policy is."""
    if column is None:
        policies = [("SELECT", "butterbase_anon", "id % 2 = 0"), ("SELECT", "butterbase_user", "id % 3 > 0")]
        assert (await ours.post(f"{path}/enable", json={"table_name": table})).is_success
        for number, (command, role, using) in enumerate(policies):
            made = await ours.post(
                f"{path}/policies",
                json={
                    "table_name": table,
                    "policy_name": f"{table}_{number}",
                    "command": command,
                    "role": role.removeprefix("butterbase_"),
                    "using_expression": using,
                },
            )
            assert made.is_success, made.text
    else:
        made = await ours.post(path, json={"table_name": table, "user_column": column})
        assert made.is_success, made.text
