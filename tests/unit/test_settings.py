"""Settings: what the environment may say, and what is refused rather than guessed."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from brolly.core.errors import AppError
from brolly.core.settings import PREFIX, Settings, default_home, describe_settings, load_settings


def refused(environ: dict[str, str], **overrides: Any) -> AppError:
    with pytest.raises(AppError) as failed:
        load_settings(environ, **overrides)
    assert failed.value.code == "CONFIG_INVALID"
    return failed.value


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.read_only, settings.regions) == (
        "127.0.0.1",
        4000,
        False,
        ("self-hosted",),
    )
    assert settings.home == default_home()


def test_every_kind_of_value_is_read() -> None:
    settings = load_settings(
        {
            "BROLLY_HOME": "~/data",
            "BROLLY_PORT": "0",
            "BROLLY_RATE_LIMIT_KEY": "0",
            "BROLLY_READ_ONLY": "yes",
            "BROLLY_TOOLS": "init_app, manage_app,,",
            "BROLLY_REGIONS": "eu-central-1,us-east-1",
            "BROLLY_PUBLIC_URL": " https://api.example.com/ ",
        }
    )
    assert settings.home == Path.home() / "data"
    assert settings.port == 0
    assert settings.rate_limit_key == 0
    assert settings.read_only is True
    assert settings.tools == ("init_app", "manage_app")
    assert settings.regions == ("eu-central-1", "us-east-1")
    assert settings.base_url == "https://api.example.com"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("BROLLY_READONLY", "BROLLY_READ_ONLY"),
        ("BROLLY_READ_ONLI", "BROLLY_READ_ONLY"),
        ("brolly_read_only", "BROLLY_READ_ONLY"),
        ("BROLLY_DATABASE", "BROLLY_DATABASE_URL"),
        ("BROLLY_REGION", "BROLLY_REGIONS"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_right_one(name: str, near: str) -> None:
    error = refused({name: "1"})
    assert name in error.message
    assert f"Did you mean {near}?" in error.message


def test_a_token_that_could_be_guessed_lifts_no_limit() -> None:
    assert "shorter than 16" in refused({"BROLLY_RATE_LIMIT_BYPASS": "x" * 15}).message
    assert "xxxx" not in repr(load_settings({"BROLLY_RATE_LIMIT_BYPASS": "x" * 16}))


def test_a_name_like_no_other_is_refused_as_well() -> None:
    assert refused({"BROLLY_ZZZZZZ": ""}).message == "Unknown setting BROLLY_ZZZZZZ."


def test_what_belongs_to_others_is_left_alone() -> None:
    assert load_settings({"PATH": "/bin", "PORT": "80", "BUTTERBASE_OTHER": "x"}) == load_settings({})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BROLLY_PORT", "http", "a whole number"),
        ("BROLLY_PORT", "65536", "a number from 0 to 65535"),
        ("BROLLY_PORT", "-1", "a number from 0 to 65535"),
        ("BROLLY_BODY_LIMIT", "0", "a number from 1"),
        ("BROLLY_RATE_LIMIT_KEY", "-1", "a number from 0"),
        ("BROLLY_BODY_LIMIT", "1MB", "a whole number"),
        ("BROLLY_READ_ONLY", "ture", "1, true, yes, on"),
        ("BROLLY_WORKERS", "2", "1, true, yes, on"),
        ("BROLLY_REGIONS", "Frankfurt", "names such as eu-central-1"),
        ("BROLLY_REGIONS", ",", "at least one name"),
        ("BROLLY_LOG_LEVEL", "verbose", "debug, info, warning or error"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name: str, value: str, expected: str) -> None:
    error = refused({name: value})
    assert name in error.message
    assert expected in error.message
    assert name in error.remediation


def test_a_short_secret_is_refused_and_not_shown() -> None:
    error = refused({"BROLLY_SECRET": "hunter2"})
    assert "hunter2" not in error.message + error.remediation


@pytest.mark.parametrize("text", ["1", "true", "TRUE", " yes ", "on"])
def test_yes(text: str) -> None:
    assert load_settings({"BROLLY_READ_ONLY": text}).read_only is True


@pytest.mark.parametrize("text", ["0", "false", "No", " off ", ""])
def test_no(text: str) -> None:
    assert load_settings({"BROLLY_READ_ONLY": text}).read_only is False


def test_the_published_name_of_the_key_is_understood_and_ours_wins() -> None:
    assert load_settings({"BUTTERBASE_API_KEY": " bb_sk_1 "}).api_key == "bb_sk_1"
    assert load_settings({"BUTTERBASE_API_KEY": "bb_sk_1", "BROLLY_API_KEY": "bb_sk_2"}).api_key == "bb_sk_2"
    assert load_settings({"BUTTERBASE_API_KEY": "bb_sk_1", "BROLLY_API_KEY": ""}).api_key == "bb_sk_1"


def test_options_win_over_the_environment_unless_left_out() -> None:
    assert load_settings({"BROLLY_PORT": "5000"}, port=6000, host=None).port == 6000
    assert load_settings({"BROLLY_PORT": "5000"}, port=None).port == 5000


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"host": "0.0.0.0"}, "http://127.0.0.1:4000"),
        ({"host": "::"}, "http://127.0.0.1:4000"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
        ({"public_url": "https://x.example/"}, "https://x.example"),
    ],
)
def test_the_address_in_answers(given: dict[str, Any], url: str) -> None:
    assert load_settings({}, **given).base_url == url


def test_secrets_stay_out_of_the_text_form() -> None:
    settings = load_settings(
        {"BROLLY_DATABASE_URL": "postgres://u:hush@h/d", "BROLLY_SECRET": "hush" * 10, "BROLLY_API_KEY": "bb_sk_hush"}
    )
    assert "hush" not in repr(settings)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings({}).read_only = True  # type: ignore[misc]


def test_each_setting_is_described() -> None:
    described = describe_settings()
    assert [d["name"] for d in described] == [PREFIX + f.name.upper() for f in fields(Settings)]
    assert all(d["doc"].endswith(".") for d in described)


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BROLLY_AUDIT_DAYS", "7")
    assert load_settings().audit_days == 7
