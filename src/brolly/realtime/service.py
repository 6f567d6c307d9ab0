"""Which tables of an app are recorded: switch it on and off, and look whether it holds."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.tool import AppParams
from brolly.deps import Deps


class Configure(AppParams):
    """Tables whose changes shall be recorded."""

    tables: list[str] = Field(min_length=1, max_length=100)


async def get(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """Each recorded table and whether its triggers are there."""
    app = await deps.registry.get(caller, params.app_id)
    url = f"{deps.settings.base_url}/v1/{app.id}/realtime".replace("http", "ws", 1)
    return {"app_id": app.id, "tables": [], "active_connection": False, "websocket_url": url}
