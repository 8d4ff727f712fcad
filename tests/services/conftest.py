"""One PostgreSQL for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.services.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server
