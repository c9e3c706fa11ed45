"""`miner bench` and `vllm bench serve` measure the same (`-m vllm`)."""

from __future__ import annotations

import os

import pytest

from bench.vllm_bench import compare, model_card, table
from tests.cli.bench.timed import timed
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(("endpoint", "concurrency"), [("chat", 4), ("completions", 1)])
def test_the_definitions_are_the_same(endpoint, concurrency, capsys):
    """At a server with known delays. With four tokens a response, another definition of ITL or TPOT would be off by a
    fifth or more; a busy machine delays each tool by some milliseconds.
    """
    reply = timed(first=0.5, gap=0.2)
    with in_thread(StubServer(["m"], reply=reply, side={"/tokenize": (404, {"detail": "Not Found"})})) as server:
        found = compare(
            server.v1, endpoint=endpoint, concurrency=concurrency, requests=4, prompt=32, output=4, rounds=1,
            tokenizer=model_card(os.environ["VLLM_API_BASE"])["root"],
        )  # fmt: skip
    with capsys.disabled():
        print(f"\n{endpoint}, concurrency {concurrency}, known delays\n{table(found)}")
    for name, (ours, theirs) in found.items():
        assert ours == pytest.approx(theirs, rel=0.15), name


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_real_server_gives_both_the_same_figures(concurrency, capsys):
    """The same server, in turns. What is left is the noise of the machine, which other work may make large."""
    found = compare(os.environ["VLLM_API_BASE"], concurrency=concurrency, requests=8, prompt=64, output=16, rounds=2)
    with capsys.disabled():
        print(f"\nchat, concurrency {concurrency}, vLLM\n{table(found)}")
    for name, (ours, theirs) in found.items():
        assert ours == pytest.approx(theirs, rel=0.5), name
