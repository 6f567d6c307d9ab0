"""Who is asking: one frozen record per request, made at the entrance, never widened below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from brolly.core.errors import AppError

Kind = Literal["service", "user", "anonymous"]

ROLES: Mapping[Kind, str] = {
    "service": "butterbase_service",
    "user": "butterbase_user",
    "anonymous": "butterbase_anon",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A service key, an end user or nobody, with what it may do.

    ``account_id`` owns the key (None for end users and anonymous callers);
    ``scopes`` are the key's: ``*`` (the whole account), ``app:<id>`` (those apps
    only), ``read`` (no action that changes anything) and ``tool:<name>`` (those MCP tools only). ``held:<id>``
    stands beside ``app:<id>`` where an MCP client asked to be held to that one app.
    """

    kind: Kind
    account_id: str | None = None
    key_id: str | None = None
    user_id: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any])
    request_id: str = ""
    ip: str | None = None
    user_agent: str | None = None
    agreed: str | None = None
    """The question about what would be lost to which a person has said yes ("" when there was none to ask);
    None where nobody is asked, as over HTTP, where a program does as it is told."""

    @property
    def role(self) -> str:
        """The database role that this caller takes on."""
        return ROLES[self.kind]

    @property
    def read_only(self) -> bool:
        """True when the key's scopes allow reads alone."""
        return "read" in self.scopes

    @property
    def app_scopes(self) -> frozenset[str]:
        """The app ids to which the key is limited; empty means every app of the account."""
        return frozenset(scope[4:] for scope in self.scopes if scope.startswith("app:"))

    @property
    def tool_scopes(self) -> frozenset[str]:
        """The MCP tools to which the client holds itself; empty means every tool."""
        return frozenset(scope[5:] for scope in self.scopes if scope.startswith("tool:"))

    @property
    def held_to(self) -> str:
        """The one app to which the MCP client holds itself, which its calls need not name; else empty."""
        return next((scope[5:] for scope in self.scopes if scope.startswith("held:")), "")

    def hold(self, app_id: str) -> Caller:
        """This caller for that app alone. Raises ``RESOURCE_NOT_FOUND`` where the key is limited to others."""
        if self.app_scopes and app_id not in self.app_scopes:
            raise AppError(
                "RESOURCE_NOT_FOUND",
                f"There is no app {app_id}, or this key may not manage it.",
                remediation="Correct --app (BROLLY_APP) in the client's MCP configuration; without it, manage_app list "
                "shows the apps of the key.",
            )
        others = {scope for scope in self.scopes if not scope.startswith("app:")}
        return replace(self, scopes=frozenset({*others, f"app:{app_id}", f"held:{app_id}"}))

    def may_see(self, app_id: str, account_id: str) -> bool:
        """Whether this caller may manage that app of that account."""
        if self.kind != "service" or self.account_id != account_id:
            return False
        return not self.app_scopes or app_id in self.app_scopes

    def require_account(self) -> str:
        """The account id; raises when there is no key, or the key is limited to certain apps."""
        if self.kind != "service" or self.account_id is None:
            raise AppError("AUTH_REQUIRED", "This needs a service key.")
        if self.app_scopes:
            raise AppError("AUTH_FORBIDDEN", "This needs a key for the whole account (scope *), not for single apps.")
        return self.account_id

    def simulate(self, as_role: Literal["anon", "user"], as_user: str | None) -> Caller:
        """A narrower caller, for testing policies. Raises unless a service key asks."""
        if self.kind != "service":
            raise AppError("AUTH_IMPERSONATION_FORBIDDEN", "Only a service key may act as another role.")
        if as_role == "anon":
            if as_user is not None:
                raise AppError(
                    "VALIDATION_INVALID_SCHEMA",
                    "as_user goes with as_role user, not with anon.",
                    remediation="Leave as_user out, or set as_role to user with the id from manage_auth_users list.",
                )
            return replace(self, kind="anonymous", user_id=None, claims={})
        if not as_user:
            raise AppError(
                "VALIDATION_MISSING_FIELD",
                "as_role user needs as_user, the id of the user to act as.",
                remediation="Repeat the call with as_user set to a user's id (manage_auth_users list has them), "
                "or with as_role anon.",
            )
        return replace(self, kind="user", user_id=as_user, claims={"sub": as_user, "role": "authenticated"})


def anonymous(**origin: Any) -> Caller:
    """A caller without credentials."""
    return Caller("anonymous", **origin)
