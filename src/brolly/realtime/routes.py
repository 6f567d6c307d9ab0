"""HTTP routes of realtime."""

from __future__ import annotations

from starlette.routing import Route

from brolly.endpoint import endpoint
from brolly.realtime.tool import MANAGE_REALTIME

routes = [Route("/v1/{app_id}/realtime/config", endpoint(MANAGE_REALTIME, "get"), methods=["GET"])]
