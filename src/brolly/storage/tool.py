"""manage_storage, and the larger table behind the HTTP routes."""

from brolly.core.tool import DESTROY, READ, Action, Tool
from brolly.storage import config, listing, service
from brolly.storage.service import for_key

MANAGE_STORAGE = Tool(
    "manage_storage",
    "Files",
    "Files of an app.",
    {
        "upload_url": Action(
            for_key(service.create_upload),
            service.UploadUrl,
            idempotent=False,
            event="storage.upload",
            verb="create",
            target=lambda _, made: made and made["object_id"],
        ),
        "download_url": Action(
            for_key(service.create_download), service.DownloadUrl, effect=READ, target="object_id", untrusted=True
        ),
        "list": Action(for_key(listing.list_files), listing.ListFiles, effect=READ),
        "delete": Action(
            for_key(service.delete_file),
            service.ObjectRef,
            effect=DESTROY,
            loses=service.what_delete_loses,
            target="object_id",
        ),
        "update_config": Action(config.update_config, config.UpdateConfig, event="app.config.storage"),
    },
    resource="storage",
)

STORAGE_OVER_HTTP = Tool(
    "manage_storage",
    "Files",
    "Files of an app, with what programs do besides.",
    {
        **MANAGE_STORAGE.actions,
        "get": Action(for_key(service.get_file), service.ObjectRef, effect=READ, target="object_id"),
        "complete": Action(for_key(service.complete_upload), service.ObjectRef, target="object_id"),
        "update": Action(for_key(service.update_file), service.UpdateFile, target="object_id"),
        "copy": Action(
            for_key(service.copy_file),
            service.UpdateFile,
            idempotent=False,
            verb="create",
            target=lambda _, made: made and made["object_id"],
        ),
        "delete_many": Action(
            for_key(service.delete_files),
            service.DeleteFiles,
            effect=DESTROY,
            event="storage.delete",
            target=lambda params, _: params and ",".join(params.object_ids),
        ),
    },
    resource="storage",
)
"""Not an MCP tool: the table behind the routes."""
