"""`miner generate` against servers on the wire: what goes to which stream, and the exit status."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import LONG, environment, first_text
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.http import Request
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

BACKENDS = ["ollama", "vllm"]


def settings(backend: str, server, **more: str) -> dict[str, str]:
    """The environment that points at a test server."""
    return {"LLM_BACKEND": backend, "OLLAMA_BASE_URL": server.url, "VLLM_API_BASE": server.v1} | more | {
        "DEFAULT_MODEL": more.get("DEFAULT_MODEL", "smollm2")
    }  # fmt: skip


def posted(server: FaultServer) -> list[Request]:
    """The requests for an answer; vLLM's service also asks what the server can do."""
    return [request for request in list(server.generations) if request.method == "POST"]


def wait_until(met, what: str):
    end = time.monotonic() + LONG
    while not met():
        assert time.monotonic() < end, f"waited {LONG} s for {what}"
        time.sleep(0.01)


# What a good answer looks like


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_the_answer_alone_goes_to_standard_output(miner, backend, options):
    with in_thread(FaultServer(faults.ok(["Hel", "lö", " there."]))) as server:
        done = miner("generate", *options, "hi", **settings(backend, server))
        (request,) = posted(server)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "Hellö there.\n", b"")
    assert request.streams  # a whole reply is a drained stream


def test_a_recorded_answer_of_a_real_ollama(miner):
    with in_thread(ReplayServer("ollama")) as server:
        done = miner("generate", "Why is the sky blue?", **settings("ollama", server))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3


def test_each_option_reaches_the_request(miner):
    with in_thread(StubServer(["smollm2"])) as server:
        done = miner(
            "generate", "--model", "smollm2", "--max-tokens", "7", "--temperature", "0.5", "--top-p", "1",
            "--seed", "3", "--stop", "a", "--stop", "\n", "--system", "Be brief.", "hi",
            **settings("vllm", server, DEFAULT_MODEL="other"),
        )  # fmt: skip
        (body,) = server.bodies
    assert done.returncode == 0, done.stderr
    wanted = {"model": "smollm2", "max_tokens": 7, "temperature": 0.5, "top_p": 1, "seed": 3, "stop": ["a", "\n"]}
    assert {name: body[name] for name in wanted} == wanted
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def test_missing_options_are_taken_from_the_settings(miner):
    with in_thread(StubServer(["smollm2"])) as server:
        miner("generate", "hi", **settings("vllm", server, DEFAULT_MAX_TOKENS="33", DEFAULT_TEMPERATURE="1.5"))
        (body,) = server.bodies
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (33, 1.5, 0.95)
    assert "seed" not in body
    assert "stop" not in body


def test_settings_are_read_from_dotenv(miner):
    with in_thread(StubServer(["smollm2"])) as server:
        (miner.directory / ".env").write_text(f"LLM_BACKEND=vllm\nvllm_api_base={server.v1}\nSOMETHING_ELSE=1\n")
        done = miner("generate", "hi")
    assert (done.returncode, done.stdout) == (0, b"Hello there.\n")


@pytest.mark.parametrize("given", ["Zwei\nZeilen", "Zwei\nZeilen\n", "\ufeffZwei\nZeilen\r\n"])
def test_dash_reads_standard_input_without_its_last_line_break(miner, given):
    with in_thread(StubServer(["smollm2"])) as server:
        done = miner("generate", "-", stdin=given.encode(), **settings("vllm", server))
        (body,) = server.bodies
    assert done.returncode == 0, done.stderr
    assert body["messages"][0]["content"] == "Zwei\nZeilen"


def test_json_is_one_object_with_all_that_is_known(miner):
    with in_thread(FaultServer(faults.ok())) as server:
        done = miner("generate", "--json", "hi", **settings("vllm", server))
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert answer["content"] == "Hello there."
    assert (answer["finish_reason"], answer["model"], answer["backend"]) == ("stop", "smollm2", "vllm")
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert answer["usage"]["completion_tokens"] > 0
    assert 0 < answer["timings"]["time_to_first_token"] <= answer["timings"]["total"]
    assert answer["context_exhausted"] is False
    assert "error" not in answer


def test_text_comes_as_it_arrives(miner):
    with in_thread(FaultServer(faults.silent_in_stream(["first"]))) as server:
        process = miner.start("generate", "hi", **settings("vllm", server))
        assert first_text(process) == b"first"
        assert process.poll() is None


def test_a_truncated_response_is_reported_on_standard_error(miner):
    cut = {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": "length"}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    with in_thread(StubServer(["smollm2"], reply=[cut, {"choices": [], "usage": usage}])) as server:
        done = miner("generate", "--max-tokens", "4", "hi", **settings("vllm", server))
    assert (done.returncode, done.stdout) == (0, b"Hel\n")
    assert done.stderr == b"miner: The response was cut at max_tokens=4.\n  Raise it with --max-tokens.\n"


def test_a_full_context_is_reported_on_standard_error(miner):
    cut = {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": "length"}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    with in_thread(StubServer(["smollm2"], reply=[cut, {"choices": [], "usage": usage}])) as server:
        done = miner("generate", "--max-tokens", "100", "hi", **settings("vllm", server))
    assert done.returncode == 0
    assert done.stderr.startswith(b"miner: The context is full: the response was cut before max_tokens=100.\n")
    assert b"--max-model-len" in done.stderr


def test_minus_one_generates_until_the_context_ends(miner):
    cut = {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": "length"}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    with in_thread(StubServer(["smollm2"], reply=[cut, {"choices": [], "usage": usage}])) as server:
        for arguments in (["--max-tokens", "-1"], ["--max-tokens=-1", "--no-stream"]):
            done = miner("generate", *arguments, "hi", **settings("vllm", server))
            assert (done.returncode, done.stdout) == (0, b"Hel\n")
            assert done.stderr.startswith(b"miner: The context is full: the response was cut at its end.\n")
        refused = miner("generate", "--max-tokens", "-2", "hi", **settings("vllm", server))
    assert refused.returncode == 2
    assert b"-1 generates until the context ends" in refused.stderr
    assert {body["max_tokens"] for body in server.bodies} == {2048}


# What goes wrong

CALLERS_MISTAKES = [
    ([""], "The prompt must not be empty."),
    (["  \n"], "The prompt must not be empty."),
    (["--system", "x", ""], "The prompt must not be empty."),
    (["--temperature", "-1", "hi"], "--temperature must be a number from 0 to 2, not -1."),
    (["--temperature", "9", "hi"], "--temperature must be a number from 0 to 2, not 9."),
    (["--temperature", "hot", "hi"], "--temperature must be a number from 0 to 2, not 'hot'."),
    (["--temperature", "nan", "hi"], "--temperature must be a number from 0 to 2, not nan."),
    (["--max-tokens", "0", "hi"], "--max-tokens must be an integer of at least 1, not 0."),
    (["--max-tokens", "1.5", "hi"], "--max-tokens must be an integer of at least 1, not 1.5."),
    (["--top-p", "2", "hi"], "--top-p must be a number from 0 to 1, not 2."),
    (["--top-p", "NaN", "hi"], "--top-p must be a number from 0 to 1, not nan."),
    (["--seed", "x", "hi"], "--seed must be a 64-bit integer"),
    (["--stop", "", "hi"], "--stop must be a string or a list of strings, none of them empty"),
    (["--model", "", "hi"], "--model '': must not be empty."),
    (["--backend", "nope", "hi"], "There is no backend 'nope'."),
]


@pytest.mark.parametrize(("arguments", "said"), CALLERS_MISTAKES)
def test_the_callers_mistakes_exit_2_and_send_nothing(miner, arguments, said):
    with in_thread(StubServer(["smollm2"])) as server:
        done = miner("generate", *arguments, **settings("ollama", server))
        assert server.generations == []
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"miner: {said}")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("piped", "prompt"),
    [(b"one\ntwo\n", "one\ntwo\n\nWhat?"), ("\ufeffä\r\n".encode(), "ä\n\nWhat?"), (b"", "What?"), (b" \n", "What?")],
)
def test_text_that_is_piped_in_stands_before_the_prompt(miner, piped, prompt):
    with in_thread(StubServer(["smollm2"])) as server:
        done = miner("generate", "What?", stdin=piped, **settings("vllm", server))
        (body,) = server.bodies
    assert done.returncode == 0, done.stderr
    assert body["messages"] == [{"role": "user", "content": prompt}]


def test_piped_bytes_that_are_no_text_exit_2(miner):
    done = miner("generate", "What?", stdin=b"\xff")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: Standard input is not UTF-8 text")


@pytest.mark.parametrize(("stdin", "said"), [(b" \n", b"has no prompt"), (b"\xff\xfe!", b"is not UTF-8 text")])
def test_standard_input_without_a_prompt_exits_2(miner, stdin, said):
    done = miner("generate", "-", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"miner: Standard input ")
    assert said in done.stderr


def test_an_argument_that_is_no_utf8_exits_2(miner):
    done = miner("generate", os.fsdecode(b"\xff"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"miner: The prompt is not UTF-8 text.\n"


@pytest.mark.parametrize(
    ("backend", "hints"),
    [
        ("ollama", ["`ollama serve`", "OLLAMA_BASE_URL"]),
        ("vllm", ["vllm.entrypoints.openai.api_server", "VLLM_API_BASE", "`curl http://127.0.0.1:9/v1/models`"]),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_server_that_does_not_run_exits_1_with_how_to_start_it(miner, backend, hints, as_json):
    options = ["--json"] if as_json else []
    done = miner(
        "generate", *options, "hi", LLM_BACKEND=backend, OLLAMA_BASE_URL="http://127.0.0.1:9",
        VLLM_API_BASE="http://127.0.0.1:9/v1",
    )  # fmt: skip
    assert done.returncode == 1
    first, hint = done.stderr.decode().splitlines()
    assert first == f"miner: {backend} at http://127.0.0.1:9{'/v1' * (backend == 'vllm')} cannot be reached: " + (
        "connection refused."
    )
    assert hint.startswith("  ")
    assert all(part in hint for part in hints)
    if as_json:
        told = json.loads(done.stdout)
        assert told["content"] is None
        assert told["error"]["type"] == "BackendUnavailableError"
        assert told["error"]["code"] == "backend_unavailable"
        assert told["error"]["exit_code"] == 1
        assert told["error"]["message"] == first.removeprefix("miner: ")
        assert told["error"]["hint"] == hint.strip()
    else:
        assert done.stdout == b""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_model_exits_2_with_what_there_is(miner, backend):
    with in_thread(StubServer(["smollm2", "tiny"])) as server:
        done = miner("generate", "--model", "smollm3", "hi", **settings(backend, server))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"smollm3" in done.stderr
    assert b"ollama pull smollm3" in done.stderr if backend == "ollama" else b"smollm2" in done.stderr


FAILURES = [
    (faults.status(401, everywhere=True), 1, "(HTTP 401)"),
    (faults.status(429, retry_after="1000"), 1, "HTTP 429"),
    (faults.status(500), 1, "HTTP 500"),
    (faults.html_page(502), 1, "HTTP 502"),
    (faults.reset(), 1, "sent no response"),
    (faults.garbage_http(), 1, "invalid response"),
    (faults.truncated(), 3, "incomplete response"),
    (faults.reset(["Hello"]), 3, "incomplete response"),
    (faults.no_end(), 3, "closed the stream"),
    (faults.garbage_in_stream(), 3, "invalid response"),
    (faults.error_in_stream(), 3, ""),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("behaviour", "status", "said"), FAILURES, ids=lambda value: getattr(value, "name", None))
def test_a_failing_engine_exits_1_or_3_and_what_came_is_kept(miner, backend, behaviour, status, said):
    with in_thread(FaultServer(behaviour)) as server:
        done = miner("generate", "hi", **settings(backend, server, MINER_MAX_RETRIES="0"))
    assert done.returncode == status, done.stderr
    text = done.stdout.decode()
    assert text.startswith("Hello") and text.endswith("\n") if status == 3 else text == ""
    assert done.stderr.startswith(b"miner: ")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_what_had_arrived_is_in_the_json_too(miner):
    with in_thread(FaultServer(faults.truncated(["Hel", "lo"]))) as server:
        done = miner("generate", "--json", "hi", **settings("vllm", server))
    told = json.loads(done.stdout)
    assert (done.returncode, told["content"]) == (3, "Hello")
    assert (told["error"]["type"], told["error"]["exit_code"]) == ("StreamInterruptedError", 3)


def test_a_stream_that_is_lost_is_told_in_words_for_people(miner):
    with in_thread(FaultServer(faults.truncated(["Hel", "lo"]))) as server:
        done = miner("generate", "hi", **settings("vllm", server))
    assert (done.returncode, done.stdout) == (3, b"Hello\n")
    assert b"What came before stands above. Try again. The engine's log" in done.stderr
    assert b"partial" not in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slow_server_is_a_time_out_that_names_its_setting(miner, backend):
    with in_thread(FaultServer(faults.silent_in_stream(["Hello"]))) as server:
        limit = {"OLLAMA_TIMEOUT": "0.5", "VLLM_TIMEOUT": "0.5"}
        done = miner("generate", "hi", **settings(backend, server, **limit))
    assert (done.returncode, done.stdout) == (3, b"Hello\n")
    assert b"sent nothing for 0.5 s" in done.stderr
    assert f"{backend.upper()}_TIMEOUT".encode() in done.stderr


def test_a_prompt_that_does_not_fit_gives_both_numbers(miner):
    with in_thread(ReplayServer("ollama")) as server:
        server.respond_with("overflow_num_ctx_truncate_false")
        done = miner("generate", "hi", **settings("ollama", server))
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(re.findall(r"\d{2,}", done.stderr.decode())) >= 2


def test_retries_are_not_told_apart_from_their_outcome(miner):
    replies = [faults.status(503), faults.ok()]
    with in_thread(StubServer(["smollm2"], reply=lambda body: replies.pop(0))) as server:
        done = miner("generate", "hi", **settings("vllm", server))
    assert replies == []
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello there.\n", b"")


# Which backend


def test_llm_backend_falls_back_with_one_warning_and_an_explicit_name_does_not(miner):
    with in_thread(StubServer(["smollm2"])) as server:
        fake = settings("no-such", server, LLAMACPP_API_BASE="http://127.0.0.1:9")
        fallen = miner("generate", "hi", **fake)
        strict = miner("generate", "--backend", "no-such", "hi", **fake)
    assert fallen.returncode == 1  # the first available one is llamacpp, at an address where nobody is
    warning, error, _ = fallen.stderr.decode().splitlines()
    assert warning.startswith("miner: Backend 'no-such' is unknown; using 'llamacpp'. Available backends: llamacpp, ")
    assert error.startswith("miner: llamacpp at http://127.0.0.1:9")
    assert strict.returncode == 2
    assert strict.stderr.decode().startswith("miner: There is no backend 'no-such'.\n  Registered: llamacpp, ")


def test_an_explicit_backend_that_cannot_be_used_exits_2_with_the_reason(miner):
    done = miner("generate", "--backend", "llamacpp", "hi", LLAMACPP_SERVER="/no/such/llama-server")
    assert (done.returncode, done.stdout) == (2, b"")
    said = done.stderr.decode()
    assert said.startswith("miner: Backend 'llamacpp' is unavailable: ")
    assert "/no/such/llama-server" in said


# Stopping


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("options", [[], ["--no-stream"], ["--json"]])
def test_a_signal_stops_the_generation_and_keeps_what_came(miner, number, status, options):
    behaviour = faults.silent() if options else faults.silent_in_stream(["Hello"])
    with in_thread(FaultServer(behaviour, everywhere=False)) as server:
        process = miner.start("generate", *options, "hi", **settings("vllm", server))
        if options:
            wait_until(lambda: posted(server), "the request")
            first = b""
        else:
            first = first_text(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=LONG)
        wait_until(lambda: server.disconnects, "the client to hang up")
    assert process.returncode == status
    if options == ["--json"]:
        told = json.loads(out)
        assert (told["error"]["code"], told["error"]["exit_code"], told["content"]) == ("interrupted", status, None)
        assert told["error"]["message"] == f"Interrupted by {signal.Signals(number).name}."
    else:
        assert first + out == (b"" if options else b"Hello\n")
    assert err == b""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_had_come_before_a_signal_is_in_the_json(miner, number, status):
    content = None
    for seconds in (0.5, 1, 2, 4, 8, 16):  # nothing tells that the first text has come
        with in_thread(FaultServer(faults.silent_in_stream(["Hello", " there"]), everywhere=False)) as server:
            process = miner.start("generate", "--json", "hi", **settings("vllm", server))
            wait_until(lambda server=server: posted(server), "the request")
            time.sleep(seconds)
            process.send_signal(number)
            out, err = process.communicate(timeout=LONG)
        assert (process.returncode, err) == (status, b"")
        content = json.loads(out)["content"]
        if content is not None:
            break
    assert content == "Hello there"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "command", [("embed", "--json", "hi"), ("rerank", "--json", "q", "d"), ("list", "--json"), ("bench", "--json")]
)
def test_a_signal_is_an_error_object_of_other_commands_too(miner, command, number, status):
    with in_thread(FaultServer(faults.silent())) as server:
        process = miner.start(*command, **settings("ollama" if command[0] == "list" else "vllm", server))
        wait_until(lambda: server.requests, "a request")
        process.send_signal(number)
        out, _ = process.communicate(timeout=LONG)
    assert process.returncode == status
    assert json.loads(out)["error"]["code"] == "interrupted"


def test_ctrl_c_while_the_prompt_is_read(miner):
    read, write = os.pipe()
    code = "import sys; from miner.cli.main import run; print(1, flush=True); sys.exit(run())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "generate", "-"],
        stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=miner.directory,
        env=environment(miner.directory),
    )  # fmt: skip
    os.close(read)
    process.stdout.readline()
    time.sleep(1.0)  # it is importing, or waits for standard input by now; both must end quietly
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    os.close(write)
    assert (process.returncode, out) == (130, b"")
    assert err == b""


def test_ctrl_c_while_the_pipe_is_full(miner):
    """A write that blocks does not keep the process alive, nor does what was not written."""
    with in_thread(FaultServer(faults.huge_line())) as server:
        process = miner.start("generate", "hi", **settings("vllm", server))
        assert first_text(process, 1) == b"x"  # the pipe is full now: 4 MiB do not fit
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_ignored_stays_ignored(miner, number):
    """So a job in a shell's background does not die of the Ctrl-C that was meant for another."""
    with in_thread(FaultServer(faults.slow(0.5, between=0.2))) as server:
        previous = signal.signal(number, signal.SIG_IGN)
        try:
            process = miner.start("generate", "hi", **settings("vllm", server))
        finally:
            signal.signal(number, previous)
        wait_until(lambda: posted(server), "the request")
        process.send_signal(number)
        out, _ = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (0, b"Hello there.\n")


def test_a_closed_pipe_stops_the_generation_silently(miner):
    endless = faults.slow(0, ["x" * 100] * 100000, between=0.001)
    with in_thread(FaultServer(endless)) as server:
        process = miner.start("generate", "hi", **settings("vllm", server))
        assert first_text(process, 10)
        process.stdout.close()
        assert process.wait(LONG) == 141
        assert process.stderr.read() == b""
        wait_until(lambda: server.disconnects, "the client to hang up")


def test_an_answer_that_cannot_be_written_exits_1(miner):
    with in_thread(FaultServer(faults.ok())) as server, open("/dev/full", "wb") as full:
        for options in ([], ["--json"]):
            process = miner.start("generate", *options, "hi", stdout=full.fileno(), **settings("vllm", server))
            said = process.communicate(timeout=LONG)[1]
            assert (process.returncode, said) == (1, b"miner: The output cannot be written: No space left on device.\n")


@pytest.mark.parametrize(("closed", "out", "err"), [(">&-", b"", b""), ("2>&-", b"Hello there.\n", b"")])
def test_an_output_that_was_closed_takes_nothing_and_harms_nothing(miner, closed, out, err):
    with in_thread(FaultServer(faults.ok())) as server:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$0" -m miner generate hi {closed}', sys.executable],
            stdin=subprocess.DEVNULL, capture_output=True, cwd=miner.directory, timeout=LONG,
            env=environment(miner.directory, **settings("vllm", server)),
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


SLOW_LOOKUP = """
import socket, sys, time
real = socket.getaddrinfo
def getaddrinfo(*arguments, flags=0, **more):
    if flags & socket.AI_NUMERICHOST:  # looks nothing up
        return real(*arguments, flags=flags, **more)
    print("looking", file=sys.stderr, flush=True)
    time.sleep(600)
socket.getaddrinfo = getaddrinfo
from miner.cli.main import run
sys.exit(run(["generate", "hi"]))
"""


def test_ctrl_c_does_not_wait_for_the_look_up_of_a_name(miner):
    script = miner.directory / "slow_lookup.py"
    script.write_text(SLOW_LOOKUP)
    process = miner.start_script(script, LLM_BACKEND="vllm", VLLM_API_BASE="http://some.invalid/v1", DEFAULT_MODEL="m")
    assert process.stderr.readline() == b"looking\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(LONG) == 130
    assert process.stderr.read() == b""


# The line that tells what it is waiting for


def on_terminal(miner, server, stdout=None, **more: str) -> tuple[int, bytes]:
    """Exit status, and what a terminal got as standard error (and as standard output, unless that is given)."""
    leader, follower = pty.openpty()
    try:
        process = miner.start(
            "generate", "hi", stdout=follower if stdout is None else stdout, stderr=follower,
            **settings("vllm", server, **{"TERM": "xterm"} | more),
        )  # fmt: skip
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        return process.wait(LONG), shown
    finally:
        os.close(leader)


def screen(shown: bytes) -> str:
    """What is left to be seen, once lines that were erased are gone."""
    return "\n".join(line.rpartition("\r\x1b[K")[2] for line in shown.decode().replace("\r\n", "\n").split("\n"))


def test_on_a_terminal_a_status_line_is_shown_and_erased(miner):
    with in_thread(FaultServer(faults.slow(1.5))) as server:
        status, shown = on_terminal(miner, server)
    assert status == 0
    assert b"\r\x1b[Kwaiting for vllm" in shown
    assert re.search(rb"waiting for vllm \([1-9]\d* s\)", shown)  # counted, however late it was drawn
    assert screen(shown) == "Hello there.\n"


def test_the_line_is_gone_before_an_error(miner):
    with in_thread(FaultServer(faults.status(500))) as server:
        status, shown = on_terminal(miner, server)
    assert status == 1
    assert b"waiting for vllm" in shown
    assert screen(shown).startswith("miner: vllm at ")


def test_a_dumb_terminal_gets_no_line(miner):
    with in_thread(FaultServer(faults.ok())) as server:
        status, shown = on_terminal(miner, server, TERM="dumb")
    assert (status, shown) == (0, b"Hello there.\r\n")


def test_each_model_of_a_file_is_asked_with_what_its_own_backend_knows(miner, tmp_path):
    with in_thread(StubServer(["inner"], reply="From there.")) as server:
        path = tmp_path / "miner.toml"
        path.write_text(f"""
            [backends.local]
            kind = "llamacpp"
            [backends.there]
            kind = "openai"
            url = "{server.url}"
            [models.here]
            backend = "local"
            file = "demo"
            [models.outer]
            backend = "there"
            name = "inner"
            """)
        done = miner("generate", "--config", str(path), "--model", "outer", "hi")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "From there.\n", b"")
