"""manage_rls."""

from __future__ import annotations

from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool
from brolly.rls import service


class _Tool(Tool):
    """Writes the longest signature once: two actions share it, and every session pays for it."""

    def signature(self, label: str, one_app: bool = False) -> str:
        """As of any tool, but for the action that takes what create_policy takes."""
        return "update_policy(as create)" if label == "update_policy" else super().signature(label, one_app)


def _all(params: service.Delete | None) -> bool:
    return params is not None and params.policy_name is None


MANAGE_RLS = _Tool(
    "manage_rls",
    "RLS",
    "Row access; current_user_id() is text.",
    {
        "enable": Action(service.enable_rls, service.OneTable, event="rls.enable", verb="enable", target="table_name"),
        "create_user_isolation": Action(
            service.create_user_isolation,
            service.UserIsolation,
            event="rls.policy.create",
            verb="create",
            target="table_name",
        ),
        "create_policy": Action(
            service.create_policy, service.PutPolicy, event="rls.policy.create", verb="create", target="policy_name"
        ),
        "update_policy": Action(
            service.update_policy, service.PutPolicy, event="rls.policy.update", target="policy_name"
        ),
        "list": Action(service.list_policies, AppParams, effect=READ, untrusted=True),
        "delete": Action(
            service.delete,
            service.Delete,
            "no name: RLS off",
            effect=DESTROY,
            loses=service.what_delete_loses,
            event=lambda p, _: "rls.disable" if _all(p) else "rls.policy.delete",
            verb=lambda p, _: "disable" if _all(p) else "delete",
            target=lambda p, _: p and (p.policy_name if p.policy_name is not None else p.table_name),
        ),
    },
    resource="rls",
)
