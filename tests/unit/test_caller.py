"""Callers: what each kind may see, and that nothing below the entrance widens it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.core.tokens import derive, hash_key, is_service_key, key_display_prefix, new_service_key, owner_key

ACCOUNT = Caller("service", account_id="a", key_id="k", scopes=frozenset({"*"}), request_id="r")
ONE_APP = Caller("service", account_id="a", key_id="k", scopes=frozenset({"app:app_1", "ai:gateway"}))
USER = Caller("user", user_id="u", claims={"sub": "u"})


def test_each_kind_has_its_database_role() -> None:
    assert [c.role for c in (ACCOUNT, USER, anonymous())] == [
        "butterbase_service",
        "butterbase_user",
        "butterbase_anon",
    ]


@pytest.mark.parametrize(
    ("caller", "app", "account", "may"),
    [
        (ACCOUNT, "app_1", "a", True),
        (ACCOUNT, "app_1", "b", False),
        (ONE_APP, "app_1", "a", True),
        (ONE_APP, "app_2", "a", False),
        (ONE_APP, "app_1", "b", False),
        (USER, "app_1", "a", False),
        (anonymous(), "app_1", "a", False),
        (Caller("user", account_id="a"), "app_1", "a", False),
    ],
)
def test_who_may_manage_which_app(caller: Caller, app: str, account: str, may: bool) -> None:
    assert caller.may_see(app, account) is may


def test_the_account_needs_a_key_for_all_of_it() -> None:
    assert ACCOUNT.require_account() == "a"
    for caller, code in ((ONE_APP, "AUTH_FORBIDDEN"), (USER, "AUTH_REQUIRED"), (anonymous(), "AUTH_REQUIRED")):
        with pytest.raises(AppError) as failed:
            caller.require_account()
        assert failed.value.code == code


def test_a_read_scope_is_seen() -> None:
    assert not ACCOUNT.read_only
    assert Caller("service", account_id="a", scopes=frozenset({"app:app_1", "read"})).read_only


def test_acting_as_a_role_narrows_and_keeps_the_trace() -> None:
    anon, user = ACCOUNT.simulate("anon", None), ACCOUNT.simulate("user", "u1")
    assert (anon.role, anon.user_id, dict(anon.claims)) == ("butterbase_anon", None, {})
    assert (user.role, user.user_id) == ("butterbase_user", "u1")
    assert user.claims["sub"] == "u1"
    assert {c.request_id for c in (anon, user)} == {"r"}
    assert {c.key_id for c in (anon, user)} == {"k"}
    for narrowed in (anon, user):
        with pytest.raises(AppError) as failed:
            narrowed.simulate("user", "u2")
        assert failed.value.code == "AUTH_IMPERSONATION_FORBIDDEN"
        assert not narrowed.may_see("app_1", "a")


def test_acting_as_a_role_needs_the_right_arguments() -> None:
    for role, user, code in (
        ("user", None, "VALIDATION_MISSING_FIELD"),
        ("user", "", "VALIDATION_MISSING_FIELD"),
        ("anon", "u1", "VALIDATION_INVALID_SCHEMA"),
    ):
        with pytest.raises(AppError) as failed:
            ACCOUNT.simulate(role, user)  # type: ignore[arg-type]
        assert failed.value.code == code


@pytest.mark.parametrize("caller", [USER, anonymous()])
def test_nobody_else_acts_as_a_role(caller: Caller) -> None:
    with pytest.raises(AppError) as failed:
        caller.simulate("anon", None)
    assert failed.value.code == "AUTH_IMPERSONATION_FORBIDDEN"


def test_a_caller_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        ACCOUNT.scopes = frozenset({"*"})  # type: ignore[misc]


def test_a_key_has_its_form_and_no_two_are_alike() -> None:
    keys = {new_service_key() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert is_service_key(key)
        assert len(key) == 46
        assert key_display_prefix(key) == key[:12]
        assert len(hash_key(key)) == 32


@pytest.mark.parametrize(
    "text", ["", "bb_sk_", "bb_sk_" + "g" * 40, "bb_sk_" + "A" * 40, "bb_sk_" + "0" * 41, "xx_sk_" + "0" * 40]
)
def test_what_is_no_key(text: str) -> None:
    assert not is_service_key(text)


def test_what_is_derived_depends_on_secret_and_purpose() -> None:
    assert len({derive(s, p) for s in ("one", "two") for p in ("a", "b")}) == 4
    assert owner_key("s" * 32) == owner_key("s" * 32)
    assert is_service_key(owner_key("s" * 32))
