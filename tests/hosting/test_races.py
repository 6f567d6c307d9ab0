"""Two at once, processes that die in the middle, sweeps meanwhile: what is live is whole, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.hosting import deployments, publish, retention, start
from brolly.registry import App
from tests.conftest import ToolFailed
from tests.hosting.zips import PAGE, deploy, site, upload, zipped


async def sent(deps: Deps, mcp: Any, app: App, text: str) -> dict[str, Any]:
    made = await mcp("create_frontend_deployment", app_id=app.id)
    files: dict[str, str | bytes] = {f"part{n}.html": PAGE.format(text) + str(n) for n in range(20)}
    await upload(deps, made, zipped({"index.html": PAGE.format(text), **files}))
    return made


async def shown(deps: Deps, app: App) -> set[str]:
    """What the site says on all its pages."""
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        pages = [(await client.get(path)).text for path in ("/", *(f"/part{n}" for n in range(20)))]
    return {page.partition("<h1>")[2].partition("</h1>")[0] for page in pages}


async def test_of_two_started_at_once_the_later_is_live_even_if_the_earlier_ends_last(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await sent(deps, mcp, app, text) for text in ("First", "Second")]
    first_waits, second_is_done = anyio.Event(), anyio.Event()
    finish = publish._finish  # pyright: ignore[reportPrivateUsage]

    async def held(of: Deps, at: App, deployment: Any, *rest: Any) -> Any:
        if str(deployment.id) == first["id"]:
            first_waits.set()
            await second_is_done.wait()
        return await finish(of, at, deployment, *rest)

    monkeypatch.setattr(publish, "_finish", held)
    answers: dict[str, Any] = {}

    async def run(made: dict[str, Any]) -> None:
        answers[made["id"]] = await mcp(
            "manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["id"]
        )

    async with anyio.create_task_group() as group:
        group.start_soon(run, first)
        await first_waits.wait()
        await run(second)
        assert await shown(deps, app) == {"Second"}
        second_is_done.set()
    assert {made["id"]: (answers[made["id"]]["status"], answers[made["id"]]["live"]) for made in (first, second)} == {
        first["id"]: ("READY", False),
        second["id"]: ("READY", True),
    }
    assert await shown(deps, app) == {"Second"}


def _id(made: dict[str, Any]) -> Any:
    return deployments.id_of(made["id"])


async def test_one_deployment_started_twice_at_once_starts_once(deps: Deps, mcp: Any, app: App) -> None:
    made = await sent(deps, mcp, app, "Once")
    found = await deployments.find(deps, app, made["id"])
    outcomes: list[str] = []

    async def run() -> None:
        try:
            outcomes.append((await start.start(deps, app, found)).status)
        except Exception as error:
            outcomes.append(getattr(error, "code", repr(error)))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run)
    assert sorted(outcomes) == ["READY", "STATE_INVALID_TRANSITION", "STATE_INVALID_TRANSITION"]


@pytest.mark.parametrize("died", ["unpack", "_store", "_finish"])
async def test_what_a_dead_process_left_is_taken_up(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    """Death as the others see it: work stops somewhere, and its lease runs out."""
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Before")})
    made = await sent(deps, mcp, app, "After")

    class KilledError(Exception):
        pass

    def kill(*_: Any, **__: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(start if died == "unpack" else publish, died, kill)
        with pytest.raises(ToolFailed):
            await mcp("manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["id"])
    assert (await deployments.find(deps, app, made["id"])).status == "UPLOADING"
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert "Before" in (await client.get("/")).text
    assert await start.recover(deps) == 0
    await deps.control.execute("update brolly.deployments set lease_until = now() where id = $1", _id(made))
    assert await start.recover(deps) == 1
    assert await shown(deps, app) == {"After"}


async def test_what_fails_again_and_again_is_given_up(deps: Deps, mcp: Any, app: App) -> None:
    made = await sent(deps, mcp, app, "Never")
    found = await deployments.begin(deps, app, await deployments.find(deps, app, made["id"]), "UPLOADING")
    await deps.control.execute(
        "update brolly.deployments set lease_until = now(), attempts = 3 where id = $1", found.id
    )
    await start.recover(deps)
    assert (await deployments.find(deps, app, found.id)).status == "ERROR"


async def test_old_deployments_go_and_contents_with_them_but_not_what_is_asked_for(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(deps.settings, "deployments_kept", 2)
    try:
        for n in range(4):
            await deploy(deps, mcp, app, {"index.html": PAGE.format(n), "same.txt": "the same" * 100})
    finally:
        object.__setattr__(deps.settings, "deployments_kept", 10)
    listed = (await mcp("manage_frontend", action="list_deployments", app_id=app.id))["deployments"]
    assert len(listed) == 2
    keys = "select key from brolly.site_blobs where app_id = $1"
    # Four pages and what they share, which is kept once.
    assert len(await deps.control.fetch(keys, app.id)) == 5
    await retention.sweep(deps)
    assert len(await deps.control.fetch(keys, app.id)) == 5
    await deps.control.execute(
        "update brolly.site_blobs set touched_at = now() - interval '2 h' where app_id = $1", app.id
    )
    assert await retention.sweep(deps) >= 2
    kept = {row["key"] for row in await deps.control.fetch(keys, app.id)}
    assert len(kept) == 3
    assert {each.key async for each in deps.blob.listing(f"{app.id}-site/")} == kept
    assert (await mcp("manage_frontend", action="rollback", app_id=app.id))["status"] == "READY"
    # What was removed comes anew, under another key.
    await deploy(deps, mcp, app, {"index.html": PAGE.format(0)})
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert (await client.get("/")).text == PAGE.format(0)


async def test_an_app_takes_its_sites_with_it_and_strays_go(
    deps: Deps, mcp: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploy(deps, mcp, app, {"index.html": PAGE.format("Gone soon")})
    await sent(deps, mcp, app, "Never started")

    async def data() -> AsyncIterator[bytes]:
        yield b"stray"

    stray = f"{app.id}-site/{'0' * 64}-stray"
    await deps.blob.write(stray, data(), content_type="text/plain")
    await retention.strays(deps)
    assert await deps.blob.head(stray) is not None
    monkeypatch.setattr(retention, "TOUCHED_SECONDS", -10)
    await retention.strays(deps)
    assert await deps.blob.head(stray) is None
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert "Gone soon" in (await client.get("/")).text
        await mcp("manage_app", action="delete", app_id=app.id, confirm=True)
        assert "Gone soon" not in (await client.get("/")).text
    assert [each async for each in deps.blob.listing(f"{app.id}-site/")] == []
    assert not await deps.control.fetchval("select count(*) from brolly.deployments where app_id = $1", app.id)


async def test_programs_cancel_and_delete(deps: Deps, mcp: Any, app: App, http: Any, owner: Caller) -> None:
    live = await deploy(deps, mcp, app, {"index.html": PAGE.format("Live")})
    root = f"/v1/{app.id}/frontend/deployments"
    made = (await http.post(root, json={"framework": "static"})).json()
    assert (made["expiresIn"], made["maxSizeBytes"]) == (900, 104_857_600)
    assert (await http.post(f"{root}/{made['id']}/cancel", json={})).json()["status"] == "CANCELED"
    again = await http.post(f"{root}/{made['id']}/cancel", json={})
    assert again.json()["error"]["code"] == "STATE_INVALID_TRANSITION"
    assert (await http.get(f"{root}/{live['id']}")).json()["live"] is True
    assert (await http.delete(f"{root}/{live['id']}")).json()["error"]["code"] == "RESOURCE_CONFLICT"
    assert (await http.delete(f"{root}/{made['id']}")).json()["deleted"] is True
    assert (await http.get(f"{root}/{made['id']}")).status_code == 404
    assert (await http.get(f"{root}/nonsense")).status_code == 404


async def test_the_command_packs_what_belongs_and_says_what_went_wrong(
    deps: Deps, tmp_path: Path, app: App, owner_key: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from brolly.commands import deploy as command

    for name, text in {
        "index.html": PAGE.format("Sent"), ".env": "SECRET=1", "node_modules/x.js": "x", "app.js.map": "{}",
        ".brollyignore": "*.map\ndrafts/\n", "drafts/a.html": "x", "img/a.txt": "a",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "outside").symlink_to("/etc")
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    assert [path.as_posix() for path in command.files_of(tmp_path)] == ["index.html", "img/a.txt"]
    (tmp_path / "package.json").write_text('{"devDependencies": {"vite": "8"}}')
    assert command.framework_of(tmp_path) == "react-vite"
    assert command.told({"status": "READY", "live": True, "url": "http://x", "warnings": ["w"]}, False) == 0
    assert command.told({"status": "ERROR", "live": False, "error": "no index"}, False) == 1
    out = capsys.readouterr()
    assert out.out == "http://x\n"
    assert "Not deployed: no index" in out.err
