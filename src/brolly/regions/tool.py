"""list_regions."""

from brolly.core.tool import READ, Action, Tool
from brolly.regions import service

LIST_REGIONS = Tool(
    "list_regions",
    "List regions",
    "Regions for init_app; the first is the default.",
    {"": Action(service.list_regions, service.ListRegions, effect=READ, event="region.list")},
    resource="region",
)
