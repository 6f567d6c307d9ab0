"""Front ends: what was built is sent as a zip, checked, kept under its hashes, switched to at once and served."""

from brolly.core.slice import Slice
from brolly.hosting.retention import remove_all
from brolly.hosting.routes import routes
from brolly.hosting.tool import CREATE_FRONTEND_DEPLOYMENT, MANAGE_FRONTEND
from brolly.hosting.worker import workers

SLICE = Slice(
    "hosting",
    tools=(CREATE_FRONTEND_DEPLOYMENT, MANAGE_FRONTEND),
    routes=routes,
    workers=workers,
    app_deleted=remove_all,
)
