"""The sign-in routes as a part of an app's OpenAPI document."""

from __future__ import annotations

from typing import Any

from brolly.auth import mfa, oauth, recovery, service
from brolly.core.openapi import USUAL, Json, Part, answer, errors, header, ref
from brolly.core.tool import AppParams

_TEXT: Json = {"type": "string"}
_MAYBE: Json = {"type": ["string", "null"]}
_YES: Json = {"type": "boolean"}
_SECRET: Json = {"type": "string"}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


_USER = _object(id={**_TEXT, "format": "uuid"}, email=_TEXT, email_verified=_YES, display_name=_MAYBE)
_SESSION_USER = _object(**_USER["properties"], avatar_url=_MAYBE)
_ME = _object(
    **_SESSION_USER["properties"],
    provider=_TEXT,
    metadata={"type": "object"},
    mfa_enabled=_YES,
    created_at={**_TEXT, "format": "date-time"},
    last_sign_in_at={**_MAYBE, "format": "date-time"},
)
_SECONDS: Json = {"type": "integer", "minimum": 1, "description": "How long the access token holds."}
_SESSION = _object(
    access_token=_TEXT,
    refresh_token={**_TEXT, "description": "Good for one use."},
    expires_in=_SECONDS,
    token_type={"const": "Bearer"},
    user=_SESSION_USER,
)
_MESSAGE = _object(message=_TEXT)
_FACTOR = _object(message=_TEXT, mfa_enabled=_YES)
_ENROLLED = _object(secret=_SECRET, otpauth_url=_TEXT, recovery_codes={"type": "array", "items": _TEXT})
_KEYS = _object(keys={"type": "array", "items": {"type": "object"}})

# Path, method, body, status, answer, and whether an access token is needed.
_ROUTES: tuple[tuple[str, str, type[AppParams] | None, int, str, bool], ...] = (
    ("signup", "post", service.Signup, 201, "AuthSignup", False),
    ("login", "post", service.Login, 200, "AuthSession", False),
    ("refresh", "post", service.Refresh, 200, "AuthSession", False),
    ("logout", "post", None, 200, "AuthMessage", True),
    ("me", "get", None, 200, "AuthMe", True),
    ("verify-email", "post", recovery.Code, 200, "AuthMessage", False),
    ("verify-email/resend", "post", recovery.Address, 200, "AuthMessage", False),
    ("forgot-password", "post", recovery.Address, 200, "AuthMessage", False),
    ("reset-password", "post", recovery.NewPassword, 200, "AuthMessage", False),
    ("magic-link", "post", recovery.Address, 200, "AuthMessage", False),
    ("magic-link/verify", "post", recovery.Code, 200, "AuthSession", False),
    ("mfa/enroll", "post", None, 200, "AuthEnrolled", True),
    ("mfa/activate", "post", mfa.FactorCode, 200, "AuthFactor", True),
    ("mfa/verify", "post", mfa.Challenge, 200, "AuthSession", False),
    ("mfa", "delete", mfa.FactorCode, 200, "AuthFactor", True),
    (".well-known/jwks.json", "get", None, 200, "AuthKeys", False),
)
_ANSWERS = {
    "AuthSignup": _object(user=_USER, message=_TEXT),
    "AuthSession": _SESSION,
    "AuthMe": _ME,
    "AuthMessage": _MESSAGE,
    "AuthEnrolled": _ENROLLED,
    "AuthFactor": _FACTOR,
    "AuthKeys": _KEYS,
}


async def describe_sign_in(_deps: Any, app: Any, _snapshot: Any, _who: Any) -> Part:
    """The routes by which the app's end users sign in; they are the same for every caller."""
    paths: dict[str, Json] = {}
    for path, method, body, status, answered, signed_in in _ROUTES:
        operation: Json = {
            "operationId": f"auth_{method}_{''.join(c if c.isalnum() else '_' for c in path)}",
            "tags": ["auth"],
            "security": [{"accessToken": []}] if signed_in else [{}],
            "responses": {
                str(status): answer("It is done.", {"application/json": ref("schemas", answered)}),
                **errors((*USUAL, 429)),
            },
        }
        if body is not None:
            schema = ref("schemas", f"Auth{body.__name__}Body")
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(f"/auth/{app.id}/{path}", {})[method] = operation
    paths |= _through_providers(app)
    bodies = {f"Auth{body.__name__}Body": _body(body) for _, _, body, *_ in _ROUTES if body is not None}
    return Part(paths, {"schemas": {**_ANSWERS, **bodies}}, ({"name": "auth"},))


def _through_providers(app: Any) -> dict[str, Json]:
    """The two ends of a sign-in through a provider, which browsers go to and programs do not call."""
    start, back = f"/auth/{app.id}/oauth/{{provider}}", f"/auth/{app.id}/oauth/{{provider}}/callback"
    provider: Json = {"name": "provider", "in": "path", "required": True, "schema": _TEXT}
    location = {"Location": header("Where the browser goes next.", required=True)}
    shared: Json = {"tags": ["auth"], "security": [{}]}
    failed = errors((*USUAL, 429))
    away = {"302": answer("The browser goes on.", headers=location), **failed}
    session = answer("No page was named.", {"application/json": ref("schemas", "AuthSession")})
    form = _body(oauth.Return)
    del form["properties"]["provider"], form["required"]
    return {
        start: {
            "parameters": [provider],
            "get": {
                **shared,
                "operationId": "auth_get_oauth",
                "description": "Send the browser to the provider; it comes back to redirect_to with tokens or error.",
                "parameters": _query(oauth.Start),
                "responses": away,
            },
        },
        back: {
            "parameters": [provider],
            "get": {
                **shared,
                "operationId": "auth_get_oauth_callback",
                "parameters": _query(oauth.Return),
                "responses": {**away, "200": session},
            },
            "post": {
                **shared,
                "operationId": "auth_post_oauth_callback",
                "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": form}}},
                "responses": {"303": answer("The same, as a GET.", headers=location), **failed},
            },
        },
    }


def _query(model: type[AppParams]) -> list[Json]:
    """The model's parameters, but for those in the path."""
    return [
        {"name": name, "in": "query", "schema": {**_TEXT, "maxLength": oauth.LONGEST}}
        for name in model.model_fields
        if name not in ("app_id", "provider")
    ]


def _body(model: type[AppParams]) -> Json:
    """The body's schema: the parameters without the app, which stands in the path."""
    schema: Json = model.model_json_schema()
    schema["properties"].pop("app_id")
    required = [name for name in schema.get("required", ()) if name != "app_id"]
    schema.pop("required", None)
    schema["properties"] |= {k: {**v, **_MORE[k]} for k, v in schema["properties"].items() if k in _MORE}
    if issubclass(model, recovery.Code):
        schema["anyOf"] = [{"required": ["token"]}, {"required": ["email", "code"]}]
    return {**schema, "required": required} if required else schema


# What the services check beyond the models.
_MORE: dict[str, Json] = {
    "email": {"format": "email"},
    "password": {"format": "password"},
    "new_password": {"format": "password", "minLength": 8, "maxLength": 256},
}
