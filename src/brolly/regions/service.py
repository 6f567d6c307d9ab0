"""What can be asked about regions."""

from __future__ import annotations

from brolly.core.caller import Caller
from brolly.core.tool import Params
from brolly.deps import Deps


class ListRegions(Params):
    """list_regions takes no parameters."""


async def list_regions(deps: Deps, caller: Caller, params: ListRegions) -> dict[str, list[str]]:
    """The names that the settings offer, the default first. Needs no database."""
    return {"regions": list(deps.settings.regions)}
