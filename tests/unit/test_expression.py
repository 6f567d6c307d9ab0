"""What counts as one expression that may stand between parentheses."""

from __future__ import annotations

import pytest

from brolly.core.errors import AppError
from brolly.pg.expression import MAX_LENGTH, check_one_expression, one_expression


@pytest.mark.parametrize(
    "text",
    [
        "user_id = current_user_id()",
        "price > 0 and (qty < 10 or note is null)",
        "status in ('draft', 'it''s; done --', ')')",
        "note <> E'a\\'); drop table x; --'",
        "note <> e'\\\\'",
        "note = U&'d\\0061t' and body = $$ it's; ) $$ and x = $a$ $$ ) $a$",
        '"weird "" ) name" = 1',
        "tags[1] = 'x' and tags[array_length(tags, 1)] = any (array['a', 'b'])",
        "a = '\\' and b = 'c'",
        "a$b = 1",
        "exists (select 1 from t where t.id = id)",
        "note = 'a\nb'",
    ],
)
def test_accepted(text: str) -> None:
    assert one_expression(f" {text}\n") == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("a = 1; drop table x", "semicolon"),
        ("true); drop table x", "closes nothing"),
        ("true) with check (true", "closes nothing"),
        ("(a = 1", "not closed"),
        ("tags[1", "not closed"),
        ("(a]", "closes nothing"),
        ("a = 1 -- more", "comments"),
        ("a /* b */ = 1", "comments"),
        ("a = 'x", "not closed"),
        ("a = 'x''", "not closed"),
        ('"a = 1', "not closed"),
        ("a = E'x\\'", "not closed"),
        ("a = E'x\\", "not closed"),
        ("a = $$x", "does not end"),
        ("a = $t$x$$", "does not end"),
        # In Postgres the second line still knows backslash escapes, so the literal would end elsewhere.
        ("a = E'x'\n'\\'; drop table t; --'", "continued"),
        ("a = 'x' \r 'y'", "continued"),
        ("a, b", "list"),
        ("a\0", "zero byte"),
        ("a" * (MAX_LENGTH + 1), "allowed"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        one_expression(text)


def test_the_error_has_the_code_that_was_asked_for() -> None:
    with pytest.raises(AppError) as failed:
        check_one_expression("a;", code="RLS_INVALID_EXPRESSION", what="using_expression")
    assert failed.value.code == "RLS_INVALID_EXPRESSION"
    assert "using_expression" in failed.value.message
