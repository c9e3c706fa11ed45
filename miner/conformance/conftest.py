"""The fixture of the suite; not in the plugin, which is loaded in other projects too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from miner.config.config import MinerConfig
from miner.conformance.contract import Contract
from miner.conformance.plugin import backend_under_test

__all__ = ["contract"]


@pytest.fixture(scope="session")
def contract(request: pytest.FixtureRequest) -> Iterator[Contract]:
    """The backend under test, opened once per session."""
    options = request.config
    under_test = Contract(
        backend_under_test(options), MinerConfig(), options.getoption("miner_model"),
        options.getoption("miner_patience"),
    )  # fmt: skip
    yield under_test
    under_test.close()
