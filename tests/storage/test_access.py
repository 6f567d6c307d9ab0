"""Who may see, fetch, change and delete whose files: two users, nobody, a service key, and strangers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.pg.session import as_caller
from tests.conftest import http_client, make_owner
from tests.storage.conftest import PNG, Place, code_of, make_place

CALLERS = ("service", "A", "B", "nobody")


@dataclass(frozen=True)
class Kind:
    """A file by whom it is and how open."""

    owner: str
    public: bool
    pending: bool = False


KINDS = [
    Kind("A", False),
    Kind("A", True),
    Kind("service", False),
    Kind("service", True),
    Kind("A", True, pending=True),
]


def may_read(who: str, kind: Kind, open_to_users: bool) -> bool:
    """Written from the contract: service key; own; public; open to the app's users."""
    if who in ("service", kind.owner):
        return True
    if kind.pending:
        return False
    return kind.public or (open_to_users and who != "nobody")


def may_change(who: str, kind: Kind) -> bool:
    return who in ("service", kind.owner)


async def make(place: Place, kind: Kind) -> str:
    if kind.pending:
        return (await place.reserve(kind.owner, public=kind.public))["object_id"]
    return await place.store(kind.owner, public=kind.public)


async def reading(place: Place, who: str, kind: Kind, object_id: str, seen: bool) -> None:
    """Metadata, link, redirect and copy: all of them or none."""
    assert (await place.send(who, "GET", f"objects/{object_id}")).status_code == (200 if seen else 404)
    if kind.pending:
        return
    for path, status in ((f"download/{object_id}", 200), (object_id, 302)):
        answer = await place.send(who, "GET", path)
        assert answer.status_code == (status if seen else 404), (who, kind, path, answer.text)
    if seen:
        assert (await place.fetch(answer.headers["Location"])).content == PNG
    if who == "nobody":
        return
    answer = await place.send(who, "POST", f"objects/{object_id}/copy", json={})
    assert answer.status_code == (201 if seen else 404), (who, kind)
    if seen:
        copy = answer.json()
        assert (copy["user_id"], copy["public"]) == (place.ids.get(who), False)
        assert (await place.send(who, "DELETE", copy["id"])).status_code == 204


async def changing(place: Place, who: str, kind: Kind, object_id: str, changed: bool) -> str:
    """Rename, complete and every way to delete; the id of a file that is there afterwards."""
    answer = await place.send(who, "PATCH", f"objects/{object_id}", json={"filename": f"{who}.png"})
    assert answer.status_code == (200 if changed else 404), (who, kind)
    answer = await place.send(who, "POST", f"objects/{object_id}/complete")
    assert answer.status_code == (200 if changed and not kind.pending else 404), (who, kind)
    bulk = await place.send(who, "POST", "delete", json={"object_ids": [object_id]})
    assert (bulk.status_code, bulk.json()["deleted"]) == (200, int(changed))
    for path in ("{}", "objects/{}"):
        if changed:
            object_id = await make(place, kind)
        answer = await place.send(who, "DELETE", path.format(object_id))
        assert answer.status_code == (204 if changed else 404), (who, kind, path)
        assert (object_id in await place.rows()) is not changed
    return await make(place, kind) if changed else object_id


@pytest.mark.parametrize("open_to_users", [False, True])
async def test_every_door_keeps_to_the_rules(place: Place, open_to_users: bool) -> None:
    await place.configure(publicReadEnabled=open_to_users)
    for kind in KINDS:
        object_id = await make(place, kind)
        for who in CALLERS:
            await reading(place, who, kind, object_id, may_read(who, kind, open_to_users))
            object_id = await changing(place, who, kind, object_id, may_change(who, kind))
        assert (await place.send("service", "DELETE", object_id)).status_code == 204
    assert (await place.rows(), place.on_disk()) == ({}, {})


async def test_what_may_not_be_seen_answers_as_what_does_not_exist(place: Place) -> None:
    object_id = await place.store("A")
    unknown = "00000000-0000-4000-8000-000000000000"
    for who in ("B", "nobody"):
        for method, path in (
            ("GET", "objects/{}"),
            ("GET", "download/{}"),
            ("GET", "{}"),
            ("DELETE", "{}"),
            ("PATCH", "objects/{}"),
            ("POST", "objects/{}/copy"),
        ):
            body = {"json": {"filename": "x"}} if method in ("PATCH", "POST") else {}
            theirs = await place.send(who, method, path.format(object_id), **body)
            none = await place.send(who, method, path.format(unknown), **body)
            assert theirs.status_code == none.status_code
            assert theirs.text.replace(object_id, "") == none.text.replace(unknown, "")


@pytest.mark.parametrize("object_id", ["x", "%00", "..", "0" * 32, "{aaaaaaaa-0000-4000-8000-00000000000a}", "a" * 300])
async def test_what_is_no_id_names_no_file(place: Place, object_id: str) -> None:
    answer = await place.send("A", "GET", f"download/{object_id}")
    assert answer.status_code in (400, 404), answer.text


async def test_lists_hold_what_is_ones_own(place: Place) -> None:
    mine = {who: await place.store(who, public=True) for who in ("A", "B", "service")}
    await place.configure(publicReadEnabled=True)
    for who, seen in (("A", {mine["A"]}), ("B", {mine["B"]}), ("service", set(mine.values()))):
        answer = (await place.send(who, "GET", "objects")).json()
        assert {o["id"] for o in answer["objects"]} == seen
        assert (await place.send(who, "GET", f"objects?userId={place.ids['A']}")).status_code == 200
    spied = (await place.send("B", "GET", f"objects?user_id={place.ids['A']}&folder=")).json()
    assert {o["id"] for o in spied["objects"]} == {mine["B"]}
    found = (await place.send("service", "GET", f"objects?userId={place.ids['A']}")).json()
    assert {o["id"] for o in found["objects"]} == {mine["A"]}


async def test_nobody_sends_or_lists(place: Place) -> None:
    body = {"filename": "a.png", "contentType": "image/png", "sizeBytes": 4}
    for method, path, more in (("POST", "upload", {"json": body}), ("GET", "objects", {})):
        answer = await place.send("nobody", method, path, **more)
        assert (answer.status_code, code_of(answer)) == (401, "AUTH_REQUIRED")
    object_id = await place.store("service", public=True)
    answer = await place.send("nobody", "POST", f"objects/{object_id}/copy", json={})
    assert (answer.status_code, code_of(answer)) == (401, "AUTH_REQUIRED")
    assert set(await place.rows()) == {object_id}


async def test_an_app_for_signed_in_users_alone_shows_nobody_anything(place: Place) -> None:
    object_id = await place.store("A", public=True)
    await place.clients["service"].patch(
        f"/v1/{place.app.id}/config/access-mode", json={"access_mode": "authenticated"}
    )
    answer = await place.link("nobody", object_id)
    assert (answer.status_code, code_of(answer)) == (401, "AUTH_REQUIRED")
    assert (await place.link("B", object_id)).status_code == 200


async def test_a_paused_app_hands_out_nothing(place: Place) -> None:
    object_id = await place.store("A")
    await place.clients["service"].patch(f"/v1/{place.app.id}/config/pause", json={"paused": True})
    for who in ("A", "service"):
        answer = await place.link(who, object_id)
        assert (answer.status_code, code_of(answer)) == (503, "APP_PAUSED")
    await place.clients["service"].patch(f"/v1/{place.app.id}/config/pause", json={"paused": False})
    assert (await place.link("A", object_id)).status_code == 200


async def test_a_service_key_may_act_as_a_user_or_as_nobody(place: Place) -> None:
    theirs = await place.store("A")
    as_b = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": place.ids["B"]}
    as_a = {**as_b, "X-Butterbase-As-User": place.ids["A"]}
    for headers, status in ((as_a, 200), (as_b, 404), ({"X-Butterbase-As-Role": "anon"}, 404)):
        answer = await place.send("service", "GET", f"download/{theirs}", headers=headers)
        assert answer.status_code == status
    answer = await place.send("B", "GET", f"download/{theirs}", headers=as_a)
    assert (answer.status_code, code_of(answer)) == (403, "AUTH_IMPERSONATION_FORBIDDEN")
    for headers in ({"X-Butterbase-As-Role": "service"}, {"X-Butterbase-As-User": place.ids["A"]}):
        answer = await place.send("service", "GET", f"download/{theirs}", headers=headers)
        assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_INVALID_SCHEMA")


@pytest.fixture(scope="module")
async def elsewhere(module_place: Place) -> AsyncIterator[Place]:
    """Another account's app."""
    from tests.conftest import hold_open

    place, close = await hold_open(make_place(module_place.deps))
    yield place
    await close()


async def test_nobody_of_another_app_or_account_gets_in(place: Place, elsewhere: Place) -> None:
    object_id = await place.store("A", public=True)
    for who, status in (("service", 404), ("A", 401)):
        client = elsewhere.clients[who]
        for path in (f"download/{object_id}", "objects"):
            assert (await client.get(f"/storage/{place.app.id}/{path}")).status_code == status
        assert (await client.delete(f"/storage/{place.app.id}/{object_id}")).status_code == status
        # Through the own app, another's file does not exist.
        assert (await client.get(f"/storage/{elsewhere.app.id}/download/{object_id}")).status_code == 404
    assert object_id in await place.rows()


async def test_keys_reach_as_far_as_their_scopes(place: Place) -> None:
    object_id = await place.store("A")
    account = place.owner.account_id
    _, other_app = await make_owner(place.deps, ("app:app_000000000000",), account)
    _, reader = await make_owner(place.deps, (f"app:{place.app.id}", "read"), account)
    body = {"filename": "a.png", "contentType": "image/png", "sizeBytes": 4}
    async with http_client(place.deps, other_app) as client:
        assert (await client.get(f"/storage/{place.app.id}/objects")).status_code == 404
    async with http_client(place.deps, reader) as client:
        assert (await client.get(f"/storage/{place.app.id}/download/{object_id}")).status_code == 200
        as_a = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": place.ids["A"]}
        for headers in ({}, as_a):
            for method, path, sent in (
                ("DELETE", object_id, None),
                ("POST", "upload", body),
                ("PATCH", f"objects/{object_id}", {"public": True}),
                ("POST", f"objects/{object_id}/copy", {}),
                ("POST", "delete", {"object_ids": [object_id]}),
            ):
                answer = await client.request(method, f"/storage/{place.app.id}/{path}", headers=headers, json=sent)
                assert (answer.status_code, code_of(answer)) == (403, "AUTH_FORBIDDEN")
    assert [(str(i), r["public"]) for i, r in (await place.rows()).items()] == [(object_id, False)]


@pytest.mark.parametrize("kind", ["service", "user", "anonymous"])
async def test_no_callers_role_reaches_the_rows(place: Place, kind: Any) -> None:
    for statement in (
        "select * from storage.objects",
        "update storage.usage set bytes = 0",
        "delete from storage.objects",
        "insert into storage.orphans values ('x', 1)",
    ):
        with pytest.raises(AppError) as refused:
            async with as_caller(place.deps.pools.door(place.app), Caller(kind, user_id="u")) as connection:
                await connection.execute(statement)
        assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    async with place.deps.pools.owner(place.app) as connection:
        with pytest.raises(Exception, match="permission denied"):
            await connection.execute("select * from storage.objects")


async def test_who_did_what_is_in_the_log(place: Place) -> None:
    object_id = await place.store("A")
    await place.send("B", "DELETE", object_id)
    await place.send("A", "DELETE", object_id)
    rows = await place.deps.control.fetch(
        "select event_type, action, actor_type, actor_id, success from brolly.audit_log "
        "where app_id = $1 and resource_id = $2 order by id",
        place.app.id,
        object_id,
    )
    a, b = place.ids["A"], place.ids["B"]
    assert [tuple(row) for row in rows] == [
        ("storage.upload", "create", "app_user", a, True),
        ("storage.delete", "delete", "app_user", b, False),
        ("storage.delete", "delete", "app_user", a, True),
    ]
