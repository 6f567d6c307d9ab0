"""A collection moves to another model: the old vectors are searched until the new ones take their place at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from brolly.ai.embedding import EmbeddingResult
from brolly.rag import jobs, reembed
from tests.rag.conftest import Library

TEXTS = [f"# Part {n}\n\nThis is about {what}." for n, what in enumerate(("rain", "storms", "snow", "fog", "hail"))]


class Models:
    """Stands where the gateway's capability stands: ``test/<n>`` makes vectors of n numbers, the rest is as it is."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.calls: list[tuple[str, int]] = []
        self.hold: asyncio.Event | None = None
        self.left = 1_000_000

    async def embed(self, deps: Any, app: Any, texts: Sequence[str], model: str | None = None) -> Any:
        if model is None or not model.startswith("test/"):
            return await self._real(deps, app, texts, model=model)
        self.calls.append((model, len(texts)))
        if texts != ["How long is a vector?"]:
            if self.hold is not None:
                await self.hold.wait()
            self.left -= 1
            if self.left < 0:
                raise asyncio.CancelledError
        size = int(model.removeprefix("test/").split("-")[0])
        vectors = [[byte - 127.5 for byte in hashlib.sha512(f"{model}{t}".encode()).digest()[:size]] for t in texts]
        return EmbeddingResult(model, size, vectors, 0)


@pytest.fixture
def models(library: Library, monkeypatch: pytest.MonkeyPatch) -> Models:
    capabilities = cast("dict[str, Callable[..., Any]]", library.deps.capabilities)
    made = Models(capabilities["embed_texts"])
    monkeypatch.setitem(capabilities, "embed_texts", made.embed)
    return made


async def filled(library: Library, name: str, **more: Any) -> str:
    """A collection with some documents; its table."""
    table = (await library.collection(name, access_mode="shared", **more))["table"]
    for n, text in enumerate(TEXTS):
        assert (await library.read(name, text=text, filename=f"{n}.md"))["status"] == "ready"
    return table


async def move(library: Library, name: str, model: str) -> dict[str, Any]:
    answer = await library.send("owner", "POST", f"collections/{name}/reembed", json={"embedding_model": model})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def described(library: Library, name: str) -> dict[str, Any]:
    return (await library.send("owner", "GET", f"collections/{name}")).json()


async def until(library: Library, name: str, model: str) -> None:
    async with asyncio.timeout(60):
        while True:
            if (await described(library, name))["embedding_model"] == model:
                return
            await asyncio.sleep(0.05)


async def asked(library: Library, name: str, query: str = "storms") -> list[str]:
    body = {"query": query, "topK": 20}
    answer = await library.send("ann", "POST", f"collections/{name}/query", json=body)
    assert answer.status_code == 200, answer.text
    return [chunk["document"]["filename"] for chunk in answer.json()["chunks"]]


async def shape(library: Library, table: str) -> tuple[set[int], str, list[str]]:
    """How long the vectors are, what the index over them is, and which policies there are."""
    async with library.sql() as connection:
        lengths = await connection.fetch(f'select distinct vector_dims(embedding) as n from public."{table}"')
        index = await connection.fetchval(
            "select indexdef from pg_indexes where tablename = $1 and indexdef like '%hnsw%'", table
        )
        policies = await connection.fetch("select policyname from pg_policies where tablename = $1 order by 1", table)
        columns = await connection.fetchval(
            "select count(*) from information_schema.columns where table_name = $1 and column_name like 'embedding%'",
            table,
        )
    assert columns == 1
    return {row["n"] for row in lengths}, index, [row["policyname"] for row in policies]


async def test_the_old_vectors_are_searched_until_the_new_ones_are_all_there(library: Library, models: Models) -> None:
    table = await filled(library, "weather")
    before = await shape(library, table)
    first = (await asked(library, "weather"))[0]
    models.hold = asyncio.Event()
    made = await move(library, "weather", "test/8")
    assert (made["status"], made["to"]) == ("pending", "test/8")
    # What comes in meanwhile is searched at once, and is moved with the rest.
    assert (await library.read("weather", text="A late one about storms.", filename="late.md"))["status"] == "ready"
    found = await asked(library, "weather")
    assert "late.md" in found
    assert first in found
    state = await described(library, "weather")
    assert (state["embedding_dimensions"], state["reembedding"]["model"]) == (256, "test/8")
    models.hold.set()
    await until(library, "weather", "test/8")
    lengths, index, policies = await shape(library, table)
    assert lengths == {8}
    assert "(embedding vector_cosine_ops)" in index
    assert policies == before[2]
    assert "reembedding" not in await described(library, "weather")
    assert set(await asked(library, "weather")) >= {"1.md", "late.md"}
    assert (await move(library, "weather", "test/8"))["status"] == "unchanged"


async def test_what_was_made_before_the_end_of_a_process_is_not_made_again(
    library: Library, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = await filled(library, "broken")
    monkeypatch.setattr(reembed, "BATCH", 1)
    queued: list[Any] = []

    async def later(_control: Any, _job: str, payload: Any) -> None:
        queued.append(payload)

    monkeypatch.setattr(reembed, "enqueue", later)
    await move(library, "broken", "test/8")
    models.left = 2
    with pytest.raises(asyncio.CancelledError):
        await reembed.run_reembed(library.deps, queued[0], 0)
    assert (await described(library, "broken"))["reembedding"]["done"] == 2
    assert (await shape_of_half(library, table)) == 2
    # A chunk that comes in behind the place where the work goes on: it is found when the change is tried.
    real, asked_for = reembed._Work._build_index, 0

    async def overtaken(self: Any, collection: Any, space: Any) -> None:
        nonlocal asked_for
        asked_for += 1
        if asked_for == 1:
            async with library.sql() as connection:
                await connection.execute(
                    f'update public."{table}" set embedding_next = null '
                    f'where id = (select id from "{table}" order by id limit 1)'
                )
        await real(self, collection, space)

    monkeypatch.setattr(reembed._Work, "_build_index", overtaken)
    models.left, models.calls = 1000, []
    await reembed.run_reembed(library.deps, queued[0], 1)
    assert len(models.calls) == len(TEXTS) - 2 + 1
    assert asked_for == 2
    assert (await shape(library, table))[0] == {8}
    # Run once more, as a queue may: there is nothing to do.
    await reembed.run_reembed(library.deps, queued[0], 2)
    # A newer request takes the place of an older one, which then stores nothing.
    await move(library, "broken", "test/16")
    await move(library, "broken", "test/32")
    await reembed.run_reembed(library.deps, queued[1], 0)
    assert (await described(library, "broken"))["embedding_model"] == "test/8"
    await reembed.run_reembed(library.deps, queued[2], 0)
    assert (await shape(library, table))[0] == {32}


async def shape_of_half(library: Library, table: str) -> int:
    async with library.sql() as connection:
        return await connection.fetchval(f'select count(embedding_next) from public."{table}"')


async def test_a_document_that_is_overtaken_gets_the_new_vectors(
    library: Library, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = await filled(library, "overtaken")
    embed, overtaken = jobs.embed, False

    async def slow(deps: Any, app: Any, space: Any, texts: Any) -> Any:
        nonlocal overtaken
        vectors = await embed(deps, app, space, texts)
        if not overtaken:
            overtaken = True
            # Of the same length, so that nothing but the check keeps the two apart.
            await move(library, "overtaken", "test/64-b")
            await until(library, "overtaken", "test/64-b")
        return vectors

    await move(library, "overtaken", "test/64-a")
    await until(library, "overtaken", "test/64-a")
    monkeypatch.setattr(jobs, "embed", slow)
    made = await library.read("overtaken", text="Came in between.", filename="between.md")
    assert made["status"] == "ready"
    kept = await library.chunks(made["id"], table)
    wanted = (await models.embed(None, None, [kept[0]["content"]], "test/64-b")).vectors[0]
    assert [float(n) for n in kept[0]["embedding"].strip("[]").split(",")] == pytest.approx(wanted)


async def test_who_may_not_and_what_is_not_there(library: Library) -> None:
    await library.collection("closed", access_mode="shared")
    for who, name, code in (("ann", "closed", "AUTH_FORBIDDEN"), ("owner", "absent", "RESOURCE_NOT_FOUND")):
        answer = await library.send(who, "POST", f"collections/{name}/reembed", json={})
        assert answer.json()["error"]["code"] == code
