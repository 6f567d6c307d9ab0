"""What is kept between requests is never older than what it was made from."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from brolly import identity
from brolly.auth.signing import key_set
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.identity import identify
from brolly.patience import JoinedWrites
from brolly.registry import App
from tests.api.test_auth_sessions import log_in, sign_up
from tests.api.test_auth_tokens import forged


async def change(deps: Deps, app: App, sql: str) -> None:
    async with deps.pools.owner(app) as connection:
        await connection.execute(sql)
    await deps.catalog.changed(app)


async def test_the_same_question_after_a_change(deps: Deps, app: App, http: httpx.AsyncClient) -> None:
    await change(deps, app, "create table public.notes (id int primary key, body text); insert into notes values (1)")
    page, one = f"/v1/{app.id}/notes?order=id", f"/v1/{app.id}/notes/1"
    for sql, row in (
        ("select", {"id": 1, "body": None}),
        ("alter table notes add n int default 5", {"id": 1, "body": None, "n": 5}),
        ("alter table notes drop body", {"id": 1, "n": 5}),
        ("drop table notes; create table notes (id bigint primary key); insert into notes values (1)", {"id": "1"}),
    ):
        await change(deps, app, sql)
        for _ in range(2):
            assert ((await http.get(page)).json(), (await http.get(one)).json()) == ([row], row)
    await change(deps, app, "drop table notes")
    assert (await http.get(page)).status_code == (await http.get(one)).status_code == 404


async def test_the_same_path_asked_otherwise(deps: Deps, app: App, http: httpx.AsyncClient) -> None:
    await change(deps, app, "create table public.notes (id int primary key); insert into notes values (1), (2), (3)")
    page = f"/v1/{app.id}/notes"
    for _ in range(2):
        assert (await http.get(page)).headers["content-range"] == "0-2/*"
        assert (await http.get(page, headers={"Prefer": "count=exact"})).headers["content-range"] == "0-2/3"
        assert (await http.get(page, headers={"Range": "1-1"})).json() == [{"id": 2}]
        assert (await http.get(page, headers={"Accept": "text/csv"})).text.split() == ["id", "1", "2", "3"]
        assert (await http.head(page, headers={"Range": "1-1"})).headers["content-range"] == "0-2/*"
        assert (await http.get(page, headers={"X-Butterbase-As-Role": "anon"})).json() == []


async def test_the_same_insert_with_other_columns(deps: Deps, app: App, http: httpx.AsyncClient) -> None:
    await change(deps, app, "create table public.notes (id int primary key, a int default 7, b text)")
    page = f"/v1/{app.id}/notes"
    for number, given in enumerate(({"b": "x"}, {"a": 1, "b": "y"}, {"b": "z"}, {"a": 2}, {"a": 3})):
        stored = {"id": number, "a": 7, "b": None} | given
        assert (await http.post(page, json={"id": number, **given})).json() == stored
        assert (await http.get(f"{page}/{number}")).json() == stored
    await change(deps, app, "alter table notes alter a type text")
    assert (await http.post(page, json={"id": 9, "a": "t"})).json() == {"id": 9, "a": "t", "b": None}


async def test_a_known_token_ends_with_its_time_its_keys_and_its_app(
    deps: Deps, app: App, anon_http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_up(anon_http, app)
    first = (await log_in(anon_http, app))["access_token"]
    checked: list[str] = []
    verified = identity.caller_of_token

    async def counted(deps: Deps, token: str, **origin: Any) -> Caller | None:
        checked.append(token)
        return await verified(deps, token, **origin)

    monkeypatch.setattr(identity, "caller_of_token", counted)

    async def known(token: str) -> Caller:
        return await identify(deps, f"Bearer {token}", request_id="r")

    for _ in range(3):
        assert (await known(first)).request_id == "r"
    assert checked == [first]
    with pytest.raises(AppError):
        await known(first[:-4] + "AAAA")
    await deps.registry.changed(app.id)
    await known(first)
    assert checked.count(first) == 2
    record = await deps.registry.find(app.id)
    assert record is not None
    private = (await key_set(deps, record)).keys[0].private
    short = forged(first, private, "RS256", exp=int(time.time()) + 2)
    await known(short)
    await anyio.sleep(2.1)
    with pytest.raises(AppError) as refused:
        await known(short)
    assert refused.value.code == "AUTH_END_USER_JWT_EXPIRED"
    monkeypatch.setattr(deps.listener, "healthy", False)
    before = len(checked)
    await known(first)
    await known(first)
    assert len(checked) == before + 2


async def test_the_head_of_an_answer_waits_for_its_body_and_for_nothing_else() -> None:
    class Transport:
        sent: list[bytes] = []  # noqa: RUF012
        closed = False

        def write(self, data: bytes) -> None:
            self.sent.append(data)

        def close(self) -> None:
            self.closed = True

    transport: Any = Transport()
    joined = JoinedWrites(transport, asyncio.get_running_loop())
    joined.write(b"head ")
    joined.write(b"body")
    assert transport.sent == [b"head body"]
    joined.write(b"event")
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    assert transport.sent[1:] == [b"event"]
    joined.write(b"last")
    joined.close()
    assert transport.sent[2:] == [b"last"]
    assert transport.closed
    await anyio.lowlevel.checkpoint()
    assert len(transport.sent) == 3
