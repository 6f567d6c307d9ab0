"""The cache of snapshots: one read for callers at the same time, and no stale result kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

import anyio
import anyio.lowlevel
import pytest

from brolly.pg.catalog import Snapshot
from brolly.pg.catalogs import Catalogs


@dataclass(frozen=True)
class FakeApp:
    id: str


@dataclass
class Source:
    """Counts reads, and holds each one until ``go`` is set."""

    reads: int = 0
    announced: list[str] = field(default_factory=list[str])
    started: anyio.Event = field(default_factory=anyio.Event)
    go: anyio.Event = field(default_factory=anyio.Event)

    async def read(self, app: FakeApp) -> Snapshot:
        self.reads += 1
        self.started.set()
        await self.go.wait()
        return Snapshot(MappingProxyType({}))

    async def announce(self, app_id: str) -> None:
        self.announced.append(app_id)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def catalogs(source: Source) -> Catalogs:
    return Catalogs(source.read, source.announce)


APP = FakeApp("app_abc123")


async def test_callers_at_the_same_time_share_one_read(catalogs: Catalogs, source: Source) -> None:
    found: list[Snapshot] = []

    async def get() -> None:
        found.append(await catalogs.get(APP))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(get)
        await source.started.wait()
        source.go.set()
    assert source.reads == 1
    assert all(snapshot is found[0] for snapshot in found)
    await catalogs.get(APP)
    assert source.reads == 1


@pytest.mark.parametrize("which", [APP.id, None])
async def test_a_read_that_began_before_a_change_is_not_kept(
    catalogs: Catalogs, source: Source, which: str | None
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(catalogs.get, APP)
        await source.started.wait()
        catalogs.forget(which)
        group.start_soon(catalogs.get, APP)
        await anyio.lowlevel.checkpoint()
        source.go.set()
    assert source.reads == 2
    await catalogs.get(APP)
    assert source.reads == 2


async def test_a_change_is_forgotten_here_and_announced(catalogs: Catalogs, source: Source) -> None:
    source.go.set()
    await catalogs.get(APP)
    await catalogs.changed(APP)
    assert source.announced == [APP.id]
    await catalogs.get(APP)
    assert source.reads == 2


async def test_a_failed_read_is_tried_again(source: Source) -> None:
    async def fail(app: FakeApp) -> Snapshot:
        source.reads += 1
        raise OSError

    catalogs = Catalogs(fail, source.announce)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011
            await catalogs.get(APP)
    assert source.reads == 2


async def test_the_oldest_makes_room(catalogs: Catalogs, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalogs, "LIMIT", 2)
    source.go.set()
    for name in ("a", "b", "c", "b", "c"):
        await catalogs.get(FakeApp(name))
    assert source.reads == 3
    await catalogs.get(FakeApp("a"))
    assert source.reads == 4
