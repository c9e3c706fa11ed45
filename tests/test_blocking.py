"""The detector of blocking calls: a test that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from miner.core.engine.diagnosis import check_model_file
from miner.core.engine.procstat import process_usage
from miner.core.engine.shared_future import SharedFuture
from tests.blocking import blocking_calls_fail


def wait():
    SharedFuture().wait_blocking(0.001)


@pytest.mark.parametrize("call", [wait, lambda: process_usage(1), lambda: check_model_file(Path(__file__))])
async def test_a_blocking_call_of_the_library_fails(call):
    with (
        pytest.raises(AssertionError, match="on the event loop"),
        blocking_calls_fail(),
        suppress(Exception),
    ):
        call()


async def test_in_a_thread_it_may_block(no_blocking_calls):
    await asyncio.to_thread(wait)
    await asyncio.to_thread(process_usage, 1)


def test_without_a_loop_it_may_block(no_blocking_calls):
    wait()


async def test_only_the_library_is_meant(no_blocking_calls):
    assert Path(__file__).read_bytes()  # noqa: ASYNC240
