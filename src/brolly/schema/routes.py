"""HTTP routes of the schema."""

from starlette.routing import Route

from brolly.core.errors import AppError
from brolly.endpoint import Arguments, endpoint
from brolly.schema.tool import MANAGE_SCHEMA


def _choose(arguments: Arguments) -> tuple[str, Arguments]:
    rest = {key: value for key, value in arguments.items() if key != "dry_run"}
    preview = arguments.get("dry_run", False)
    if not isinstance(preview, bool):
        # "false" as a text must not mean yes, nor a mistake be taken for no.
        raise AppError("VALIDATION_INVALID_SCHEMA", "dry_run must be true or false.")
    if preview:
        # A preview is not recorded, so a label for the migration says nothing.
        return "dry_run", {key: value for key, value in rest.items() if key != "name"}
    return "apply", rest


def _all(arguments: Arguments) -> tuple[str, Arguments]:
    # Programs that list migrations do not page; 1,000 is the limit on this path.
    return "list_migrations", {"limit": 1000, **arguments}


routes = [
    Route("/v1/{app_id}/schema", endpoint(MANAGE_SCHEMA, "get"), methods=["GET"]),
    Route("/v1/{app_id}/schema/apply", endpoint(MANAGE_SCHEMA, prepare=_choose), methods=["POST"]),
    Route("/v1/{app_id}/migrations", endpoint(MANAGE_SCHEMA, prepare=_all), methods=["GET"]),
]
