"""Keys, the errors that every store raises, and how a file is handed to a browser."""

from __future__ import annotations

import pytest

from brolly.blob.delivery import content_disposition, may_be_shown, safe_content_type
from brolly.blob.store import check_key, unavailable


@pytest.mark.parametrize("key", ["app_x/0b1f-aa", "app_x/0b1f-aa.thumb_1", "ab/abc"])
def test_keys_are_a_namespace_and_a_name(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "abc", "app/", "/abc", "app/../x", "app/..", "../app/abc", "app/abc/def", "APP/abc", "app/Abc", "app/abc\n",
     "app/a\0bc", "app/abc.d.e", "app/.abc", ".tmp/abc", "app/" + "a" * 200, "äpp/abc", "app\\x/abc"],
)  # fmt: skip
def test_nothing_else_is_a_key(key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        check_key(key)


def test_a_store_that_is_down_says_that_the_call_may_be_repeated() -> None:
    error = unavailable("the disk is full")
    assert (error.code, error.status, error.retry_after) == ("S3_ERROR", 503, 5)
    assert "the disk is full" in error.message


@pytest.mark.parametrize(
    ("content_type", "shown", "sent"),
    [
        ("image/png", True, "image/png"),
        ("IMAGE/PNG", True, "IMAGE/PNG"),
        ("text/plain; charset=utf-8", True, "text/plain; charset=utf-8"),
        ("application/pdf", True, "application/pdf"),
        ("image/svg+xml", False, "application/octet-stream"),
        ("Image/SVG+XML; charset=utf-8", False, "application/octet-stream"),
        ("text/html", False, "application/octet-stream"),
        ("text/html;charset=utf-8", False, "application/octet-stream"),
        ("application/xhtml+xml", False, "application/octet-stream"),
        ("application/javascript", False, "application/octet-stream"),
        ("text/css", False, "application/octet-stream"),
        ("application/json", False, "application/json"),
        ("image/png\r\nX-Evil: 1", True, "application/octet-stream"),
        ("", False, "application/octet-stream"),
    ],
)
def test_what_could_run_script_is_never_shown(content_type: str, shown: bool, sent: str) -> None:
    assert may_be_shown(content_type) is shown
    assert safe_content_type(content_type) == sent


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.png", 'attachment; filename="a.png"'),
        ("Grüße.pdf", "attachment; filename=\"Gr__e.pdf\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.pdf"),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("..\\..\\boot.ini", 'attachment; filename="boot.ini"'),
        ('a";\r\nSet-Cookie: x="1', "attachment; filename=\"a__Set-Cookie: x=_1\"; "
         "filename*=UTF-8''a%22%3BSet-Cookie%3A%20x%3D%221"),
        ("\u202egpj.exe", 'attachment; filename="gpj.exe"'),
        ("...", "attachment"),
        ("\x00", "attachment"),
    ],
)  # fmt: skip
def test_a_name_cannot_leave_its_header_or_folder(name: str, header: str) -> None:
    assert content_disposition(name, inline=False) == header
