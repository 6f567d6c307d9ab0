"""End users: signing up, in and out, and the tokens that prove it."""

from brolly.auth.openapi import describe_sign_in
from brolly.auth.routes import routes
from brolly.auth.standing import ended_users
from brolly.auth.tool import MANAGE_AUTH_CONFIG, MANAGE_AUTH_USERS, MANAGE_OAUTH
from brolly.core.slice import Slice

SLICE = Slice(
    "auth",
    tools=(MANAGE_AUTH_USERS, MANAGE_AUTH_CONFIG, MANAGE_OAUTH),
    routes=routes,
    openapi=describe_sign_in,
    provides={"ended_users": ended_users},
)
