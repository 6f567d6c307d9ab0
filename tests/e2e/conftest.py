"""Fixtures for tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.processes import Machine, machine


@pytest.fixture
def here() -> Iterator[Machine]:
    """Data folders and processes, all gone after the test."""
    with machine() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """As ``here``, for all tests of a module together."""
    with machine() as made:
        yield made
