"""The answers of the routes of files have the form that the app's OpenAPI document gives them."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs

from tests.storage.conftest import PNG, Place

TUS = {"Tus-Resumable": "1.0.0"}


async def test_answers_are_as_the_document_says(place: Place) -> None:
    document: dict[str, Any] = (await place.clients["A"].get(f"/v1/{place.app.id}/openapi.json")).json()

    def judge(path: str, answer: httpx.Response) -> Any:
        operation = document["paths"][f"/storage/{place.app.id}/{path}"][answer.request.method.lower()]
        told = operation["responses"][str(answer.status_code)]
        assert {n for n, h in told["headers"].items() if h.get("required")} <= {n.title() for n in answer.headers}
        if "content" not in told:
            assert not answer.content
            return None
        schema = {**told["content"]["application/json"]["schema"], "components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(answer.json())
        return answer.json()

    async def ask(method: str, path: str, object_id: str = "", **more: Any) -> Any:
        return judge(path, await place.send("A", method, path.format(object_id=object_id), **more))

    wanted = {"filename": "a.png", "content_type": "image/png", "size_bytes": len(PNG), "folder": "x"}
    link = await ask("POST", "upload", json=wanted)
    one = link["object_id"]
    assert (await place.put(link)).status_code == 200
    await ask("POST", "objects/{object_id}/complete", one)
    assert (await ask("GET", "objects", params={"folder": ""}))["folders"] == ["x/"]
    await ask("GET", "objects/{object_id}", one)
    await ask("GET", "download/{object_id}", one)
    await ask("GET", "download/{object_id}", one, params={"width": 1, "format": "webp"})
    await ask("GET", "{object_id}", one)
    await ask("PATCH", "objects/{object_id}", one, json={"folder": "y"})
    two = (await ask("POST", "objects/{object_id}/copy", one, json={}))["id"]
    await ask("DELETE", "objects/{object_id}", two)
    await ask("POST", "delete", json={"object_ids": [one, two]})
    made = await place.send("A", "POST", "tus", headers={**TUS, "Upload-Length": "3"})
    judge("tus", made)
    three = made.headers["x-object-id"]
    sent = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    await ask(
        "PATCH",
        "tus/{object_id}",
        three,
        headers={**sent, "Upload-Checksum": "md5 AAAAAAAAAAAAAAAAAAAAAA=="},
        content=b"a",
    )
    await ask("PATCH", "tus/{object_id}", three, headers=sent, content=b"a")
    await ask("DELETE", "tus/{object_id}", three, headers=TUS)
    assert (await place.send("A", "GET", f"objects/{three}")).status_code == 404
