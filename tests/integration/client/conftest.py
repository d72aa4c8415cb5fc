"""What the tests of the client share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.client.demo_server import Demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    server = Demo(tmp_path_factory.mktemp("demo"))
    yield server
    server.end()
