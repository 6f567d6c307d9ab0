"""What is said about a role's access, from the catalog alone."""

from __future__ import annotations

import pytest

from brolly.core.caller import Caller
from brolly.data.access import policies_for, read_warnings, refusal
from brolly.pg.catalog import Policy, Table

SERVICE = Caller("service", account_id="a")
USER, ANON = SERVICE.simulate("user", "ada"), SERVICE.simulate("anon", None)
STRANGER = Caller("user", user_id="bob")

OPEN = Table("t", {})
CLOSED = Table("t", {}, rls_enabled=True)


def under(*policies: Policy) -> Table:
    return Table("t", {}, rls_enabled=True, policies=policies)


def policy(command: str, *roles: str, permissive: bool = True) -> Policy:
    return Policy("p", command, permissive, roles, "secret = 1", None)


def test_policies_apply_by_command_and_role() -> None:
    table = under(policy("ALL", "butterbase_user"), policy("SELECT"), policy("INSERT", "butterbase_anon"))
    assert len(policies_for(table, USER, "SELECT")) == 2
    assert len(policies_for(table, ANON, "SELECT")) == 1
    assert len(policies_for(table, ANON, "INSERT")) == 1
    assert not policies_for(under(policy("SELECT", permissive=False)), ANON, "SELECT")


@pytest.mark.parametrize(
    ("table", "who", "said"),
    [
        (OPEN, SERVICE, None),
        (OPEN, USER, "every signed-in user"),
        (OPEN, ANON, "anonymous callers are refused"),
        (CLOSED, SERVICE, "action enable"),
        (CLOSED, USER, "role user"),
        (CLOSED, ANON, "role anon"),
        (under(policy("SELECT")), ANON, None),
        (under(policy("INSERT")), USER, "No SELECT policy"),
    ],
)
def test_silence_never_misleads(table: Table, who: Caller, said: str | None) -> None:
    warnings = read_warnings(table, who)
    assert (said in warnings[0]) if said else not warnings


def test_only_the_account_is_told_about_policies() -> None:
    table = under(policy("ALL"))
    assert refusal(table, USER, "INSERT").details["policies"][0]["using"] == "secret = 1"
    for state in (table, OPEN, CLOSED):
        error = refusal(state, STRANGER, "INSERT", "permission denied for table other")
        assert error.details is None
        assert "secret" not in error.message + error.remediation
        assert "other" not in error.message + error.remediation
