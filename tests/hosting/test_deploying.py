"""From a zip to a live site, and back."""

from __future__ import annotations

from typing import Any

from brolly.deps import Deps
from brolly.registry import App
from tests.hosting.zips import PAGE, deploy, site


async def test_a_zip_becomes_a_site_and_rollback_leads_back(deps: Deps, mcp: Any, app: App) -> None:
    script = "console.log(1)" * 100
    first = await deploy(deps, mcp, app, {"index.html": PAGE.format("One"), "assets/app-Bx12cdE9.js": script})
    assert (first["status"], first["live"], first["fileCount"]) == ("READY", True, 2)
    second = await deploy(deps, mcp, app, {"index.html": PAGE.format("Two")})
    async with site(deps, f"{app.subdomain}.brolly.test") as client:
        assert "Two" in (await client.get("/")).text
        back = await mcp("manage_frontend", action="rollback", app_id=app.id)
        assert (back["id"], back["live"]) == (first["id"], True)
        assert "One" in (await client.get("/")).text
        await mcp("manage_frontend", action="promote", app_id=app.id, deployment_id=second["id"])
        assert "Two" in (await client.get("/")).text
        # Of the one before, for pages that are still open.
        assert (await client.get("/assets/app-Bx12cdE9.js", headers={"accept-encoding": "br"})).text == script
