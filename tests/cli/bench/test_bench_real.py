"""`miner bench` in this process on a real engine."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

LENGTH = 300
"""Tokens of a response. The engine needs some 50 ms for them, many turns of a busy machine's scheduler: with a dozen,
it was done before this process ran again, and all its tokens came at once."""
WORK = ("--backend", "llamacpp", "--model", "tiny", "--ignore-eos", "--max-tokens", str(LENGTH), "--json")


@pytest.fixture
def models(miner):
    """Settings with a model whose tokens are bytes."""
    directory = miner.directory / "models"
    directory.mkdir()
    write_tiny_model(directory / "tiny.gguf")
    return {"MODELS_DIR": str(directory), "LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "2"}


def test_lengths_are_tokens_of_the_model(miner, models):
    done = miner("bench", *WORK, "--concurrency", "1,2", "--requests", "4", "--prompt-tokens", "60", **models)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["target"]["backend"] == "llamacpp"
    assert found["target"]["url"] is None
    assert found["workload"]["tokens_counted_by"] == "tokenizer"
    for run in found["runs"]:
        assert (run["completed"], run["failed"]) == (4, 0), run["error_examples"]
        assert (run["output_tokens"]["min"], run["output_tokens"]["max"]) == (LENGTH, LENGTH)
        spread = run["prompt_tokens"]["max"] - run["prompt_tokens"]["min"]
        assert run["prompt_tokens"]["mean"] >= 58
        assert spread <= 4  # the template is the same; words are corrected to the length
        assert run["ttft"]["mean"] < run["e2e"]["mean"]


def test_conversations_and_cancellations(miner, models):
    done = miner(
        "bench", *WORK, "--turns", "2", "--cancel", "0.75", "--concurrency", "2", "--requests", "8", "--prompt-tokens",
        "20", **models,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    run = found["runs"][0]
    # One that is complete before it is cancelled is completed.
    assert run["cancelled"] >= 1
    assert (run["completed"] + run["cancelled"], run["failed"]) == (8, 0), run["error_examples"]
    assert any("0 failed; the server responded afterwards" in note or "none ran" in note for note in found["notes"])


def test_ctrl_c_ends_the_engine_too(miner, models):
    process = miner.start("bench", *WORK, "--concurrency", "1", "--requests", "100000", **models)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    if output:  # else it was still loading
        assert not json.loads(output)["runs"][-1:] or json.loads(output)["runs"][-1]["partial"]
