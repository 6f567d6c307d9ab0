"""Files: room and rules in the app's database, bytes in the object store, links between callers and store."""

from brolly.core.slice import Slice
from brolly.storage import objects, tus
from brolly.storage.openapi import describe_files
from brolly.storage.removal import remove_all
from brolly.storage.routes import last_routes, routes
from brolly.storage.service import count_files, download_link_for, file_facts, upload_link
from brolly.storage.tool import MANAGE_STORAGE
from brolly.storage.worker import workers

SLICE = Slice(
    "storage",
    tools=(MANAGE_STORAGE,),
    routes=[*objects.routes, *tus.routes, *routes],
    last_routes=last_routes,
    workers=workers,
    openapi=describe_files,
    app_deleted=remove_all,
    provides={
        "upload_link": upload_link,
        "download_link": download_link_for,
        "count_files": count_files,
        "file_facts": file_facts,
    },
)
