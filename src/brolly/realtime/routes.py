"""HTTP routes of realtime."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route, WebSocketRoute

from brolly.endpoint import Arguments, endpoint
from brolly.realtime.entrance import Entrance
from brolly.realtime.tool import MANAGE_REALTIME


def _one_table(arguments: Arguments) -> tuple[str, Arguments]:
    return "disable", {**{k: v for k, v in arguments.items() if k != "table"}, "tables": [arguments.get("table")]}


def _first(result: dict[str, Any]) -> Any:
    return result["disabled"][0]


routes = [
    WebSocketRoute("/v1/{app_id}/realtime", Entrance()),
    Route("/v1/{app_id}/realtime/configure", endpoint(MANAGE_REALTIME, "configure"), methods=["POST"]),
    Route("/v1/{app_id}/realtime/config", endpoint(MANAGE_REALTIME, "get"), methods=["GET"]),
    Route(
        "/v1/{app_id}/realtime/{table}",
        endpoint(MANAGE_REALTIME, prepare=_one_table, shape=_first),
        methods=["DELETE"],
    ),
]
