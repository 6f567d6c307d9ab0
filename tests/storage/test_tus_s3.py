"""Resumable uploads into an S3 service, whose parts have at least 5 MiB: what is shorter waits beside them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from brolly.deps import Deps
from tests.blob.s3_server import s3_service, store_of
from tests.storage.conftest import make_place
from tests.storage.test_tus import VERSION, begin, offset_of, patch, stored

MIB = 1024 * 1024


async def test_pieces_shorter_than_a_part_arrive_too(deps: Deps) -> None:
    data = hashlib.sha256(b"film").digest() * (13 * MIB // 32 + 5)
    async with s3_service() as settings:
        blob = store_of(settings)
        async with make_place(replace(deps, blob=blob)) as place:
            await place.configure(maxFileSizeMb=40)
            object_id = await begin(place, size=len(data))
            for start in range(0, len(data), 2 * MIB):
                assert await offset_of(place, object_id) == start
                answer = await patch(place, object_id, start, data[start : start + 2 * MIB])
                assert answer.status_code == 204, answer.text
            assert await stored(place, object_id) == data
            keys = [each.key async for each in blob.listing(f"{place.app.id}/")]
            assert keys == [f"{place.app.id}/{object_id}"]
            given_up = await begin(place, size=len(data))
            assert (await patch(place, given_up, 0, data[: 9 * MIB])).status_code == 204
            assert (await place.send("A", "DELETE", f"tus/{given_up}", headers=VERSION)).status_code == 204
            assert await blob.open_multiparts(f"{place.app.id}/") == []
            assert [each.key async for each in blob.listing(f"{place.app.id}/")] == keys
        await blob.close()
