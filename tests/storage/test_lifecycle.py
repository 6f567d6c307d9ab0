"""What happens to files when nobody looks: reservations run out, removals are finished, orphans go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from brolly.apps import provision
from brolly.apps.service import what_delete_loses
from brolly.blob.folder import FolderStore
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.pg.locks import advisory_lock
from brolly.storage import schedule, worker
from brolly.storage.schedule import Work
from tests.storage.conftest import PNG, Place, code_of, make_place


async def tend(place: Place, swept: bool = True) -> None:
    """The worker's turn at this app."""
    at = datetime.now(UTC) if swept else None
    await worker.tend(place.deps, Work(place.app.id, at))


async def due_in(place: Place) -> float | None:
    """Seconds until the worker looks at the app again."""
    return await place.deps.control.fetchval(
        "select extract(epoch from due_at - now())::float from brolly.storage_work where app_id = $1", place.app.id
    )


async def chunks(data: bytes = PNG) -> AsyncIterator[bytes]:
    yield data


async def test_a_reservation_without_bytes_disappears_after_its_time(place: Place) -> None:
    one, two = await place.reserve("A"), await place.reserve("A")
    # An upload that began in time has an hour to end.
    await place.change("update storage.objects set expires_at = now() - interval '59 minutes'")
    await tend(place)
    assert set(await place.rows()) == {one["object_id"], two["object_id"]}
    assert 0 < (await due_in(place) or 0) < 120
    await place.change("update storage.objects set expires_at = now() - interval '61 minutes'")
    await place.behind(two)
    await tend(place)
    rows = await place.rows()
    assert {i: r["status"] for i, r in rows.items()} == {two["object_id"]: "ready"}
    assert await place.usage() == (len(PNG), 1)
    assert place.on_disk() == {two["object_id"]: PNG}


async def test_the_control_database_knows_when_to_look(place: Place) -> None:
    await schedule.forget(place.deps, place.app.id)
    link = await place.reserve("A")
    assert 4400 < (await due_in(place) or 0) <= 4500
    assert (await place.put(link)).status_code == 200
    await tend(place)
    assert 80_000 < (await due_in(place) or 0) <= 86_400
    await place.send("A", "DELETE", link["object_id"])
    assert (await due_in(place) or 0) <= 30
    await tend(place)
    assert await due_in(place) is None


async def test_a_removal_that_was_interrupted_is_finished(place: Place) -> None:
    ids = [await place.store("A") for _ in range(3)]
    await place.change("update storage.objects set status = 'deleting', updated_at = now() - interval '1 minute'")
    # One was further: its bytes were gone already.
    await place.deps.blob.delete([f"{place.app.id}/{ids[0]}"])
    assert (await place.send("A", "GET", "objects")).json()["objects"] == []
    await tend(place)
    assert (await place.rows(), place.on_disk(), await place.usage()) == ({}, {}, (0, 0))


async def test_of_two_replicas_one_looks_after_an_app(place: Place) -> None:
    await place.store("A")
    await place.change("update storage.objects set status = 'deleting', updated_at = now() - interval '1 minute'")
    async with place.deps.control.acquire() as other, advisory_lock(other, f"storage {place.app.id}"):
        await tend(place)
        assert len(await place.rows()) == 1
    await tend(place)
    assert await place.rows() == {}


async def test_a_store_that_is_down_is_tried_again_soon(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id = await place.store("A")
    await place.change("update storage.objects set status = 'deleting', updated_at = now() - interval '1 minute'")

    async def down(*_: Any) -> Any:
        raise AppError("S3_ERROR", "down")

    with monkeypatch.context() as broken:
        broken.setattr(place.deps.blob, "delete_prefix", down)
        await tend(place)
    assert set(await place.rows()) == {object_id}
    assert 0 < (await due_in(place) or 0) <= 60
    await tend(place)
    assert await place.rows() == {}


async def swept(place: Place) -> list[dict[str, Any]]:
    """A sweep; the rows that all sweeps of this app have left in the audit log."""
    await tend(place, swept=False)
    rows = await place.deps.control.fetch(
        "select event_data::text as data, action from brolly.audit_log "
        "where app_id = $1 and event_type = 'storage.sweep' order by id",
        place.app.id,
    )
    return [dict(row) for row in rows]


async def problems(place: Place) -> dict[str, int]:
    return (await place.send("service", "GET", "objects")).json()["_meta"].get("problems", {})


async def test_orphans_are_reported_and_removed_by_a_later_sweep(place: Place) -> None:
    kept, lost = await place.store("A"), await place.store("A")
    orphan = uuid4()
    for name in (str(orphan), f"{orphan}.thumb", f"{kept}.thumb"):
        await place.deps.blob.write(f"{place.app.id}/{name}", chunks(), content_type="image/png")
    await place.deps.blob.delete([f"{place.app.id}/{lost}"])
    before = len(await swept(place))
    assert before >= 1
    assert await problems(place) == {"bytes_without_file": 2, "files_without_bytes": 1}
    assert "problems" not in (await place.send("A", "GET", "objects")).json()["_meta"]
    # Nothing new, nothing removed, nothing said.
    assert len(await swept(place)) == before
    assert set(place.on_disk()) == {str(orphan), f"{orphan}.thumb", kept, f"{kept}.thumb"}
    await place.change("update storage.orphans set found_at = now() - interval '25 hours'")
    await place.change("update storage.objects set missing_since = missing_since - interval '8 days'")
    log = await swept(place)
    assert (len(log), log[-1]["action"]) == (before + 1, "delete")
    assert '"removed_bytes": 2' in log[-1]["data"]
    assert '"removed_files": 1' in log[-1]["data"]
    assert set(place.on_disk()) == {kept, f"{kept}.thumb"}
    assert set(await place.rows()) == {kept}
    assert (await problems(place), await place.usage()) == ({}, (len(PNG), 1))


async def test_what_turns_up_again_is_no_orphan(place: Place) -> None:
    await place.store("A")
    link = await place.reserve("A")
    await place.put(link)
    await place.deps.blob.delete([link["objectKey"]])
    await swept(place)
    assert await problems(place) == {"files_without_bytes": 1}
    await place.behind(link)
    await swept(place)
    assert await problems(place) == {}


async def test_a_store_without_any_bytes_is_another_store(place: Place) -> None:
    object_id = await place.store("A")
    await place.deps.blob.delete([f"{place.app.id}/{object_id}"])
    await swept(place)
    assert await problems(place) == {}
    assert set(await place.rows()) == {object_id}


async def test_sweeps_go_through_stores_larger_than_a_batch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brolly.storage.sweep.BATCH", 3)
    ids = [await place.store("A") for _ in range(10)]
    for object_id in ids[::4]:
        await place.deps.blob.delete([f"{place.app.id}/{object_id}"])
    for _ in range(4):
        await place.deps.blob.write(f"{place.app.id}/{uuid4()}", chunks(), content_type="image/png")
    await swept(place)
    assert await problems(place) == {"bytes_without_file": 4, "files_without_bytes": 3}
    rows = await place.rows()
    assert {i for i in rows if rows[i]["missing_since"]} == set(ids[::4])


async def test_who_listens_is_told_of_each_file_once_and_again_when_that_failed(place: Place) -> None:
    told: list[str] = []
    broken = True

    async def listen(_deps: Any, _app: Any, file: dict[str, Any]) -> None:
        if broken:
            raise AppError("EXTERNAL_DB_ERROR", "not now")
        told.append(file["object_id"])

    deps = replace(place.deps, capabilities={**place.deps.capabilities, "object_uploaded": listen})
    async with make_place(deps) as other:
        first = await other.store("A")
        assert (await other.rows())[first]["announced_at"] is None
        broken = False
        second = await other.store("A")
        assert told == [second]
        await other.change("update storage.objects set uploaded_at = uploaded_at - interval '1 minute'")
        await worker.tend(deps, Work(other.app.id, datetime.now(UTC)))
        await worker.tend(deps, Work(other.app.id, datetime.now(UTC)))
        assert told == [second, first]


async def test_an_apps_end_is_its_files_end(place: Place) -> None:
    async with make_place(place.deps) as other:
        await other.store("A")
        link = await other.reserve("A")
        asked = await what_delete_loses(other.deps, other.owner, AppParams(app_id=other.app.id))
        assert f", 2 files ({2 * len(PNG)} bytes)" in str(asked)
        answer = await other.clients["service"].delete(f"/apps/{other.app.id}")
        assert answer.status_code == 200
        assert other.on_disk() == {}
        answer = await other.put(link)
        assert (answer.status_code, code_of(answer)) == (404, "RESOURCE_NOT_FOUND")
        # With an S3 such a link still works for a while: what it brings is removed as well.
        await other.behind(link)
        now = datetime.now(UTC)
        await worker.tend(other.deps, Work(other.app.id, None))
        assert other.on_disk() == {}
        assert 7200 < (await due_in(other) or 0) < 7300
        await other.behind(link)
        await worker.tend(other.deps, Work(other.app.id, now - timedelta(hours=3)))
        assert other.on_disk() == {}
        assert await due_in(other) is None


async def test_a_deletion_of_an_app_that_the_store_stopped_is_resumed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_place(place.deps) as other:
        await other.store("A")
        real = other.deps.blob.delete_prefix

        async def down(*_: Any) -> Any:
            raise AppError("S3_ERROR", "down")

        monkeypatch.setattr(other.deps.blob, "delete_prefix", down)
        answer = await other.clients["service"].delete(f"/apps/{other.app.id}")
        assert (answer.status_code, code_of(answer)) == (503, "S3_ERROR")
        assert len(other.on_disk()) == 1
        monkeypatch.setattr(other.deps.blob, "delete_prefix", real)
        assert other.app.id in await provision.sweep(other.deps)
        assert other.on_disk() == {}
        assert await other.deps.registry.find(other.app.id) is None


async def test_what_killed_uploads_left_is_tidied_without_an_app_being_due(place: Place) -> None:
    assert isinstance(place.deps.blob, FolderStore)
    left = place.deps.blob.root / ".new" / "left.new"
    left.write_bytes(b"half")
    await worker.tidy(place.deps)
    assert not left.exists()
