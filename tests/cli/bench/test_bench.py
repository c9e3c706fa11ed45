"""`miner bench` against servers on the wire: what it measures, and what it says where things fail."""

from __future__ import annotations

import json
import re
import shlex
import signal
import time

import pytest

from tests.cli.bench.timed import FIRST, GAP, every, prompt_of, timed
from tests.servers.faults import error_in_stream, status
from tests.servers.http import RawServer
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

FIGURES = ("ttft", "tpot", "itl", "e2e", "tokens_per_second")


@pytest.fixture
def server():
    no_tokenizer = {"/tokenize": (404, {"detail": "Not Found"})}
    with in_thread(StubServer(["m"], reply=timed(), side=no_tokenizer)) as running:
        yield running


@pytest.fixture
def bench(miner, server):
    """Runs it with `--json` and returns the result; `status`: the exit status that is expected."""

    def run(*arguments, status=0, **settings):
        done = miner("bench", "--url", server.url, "--model", "m", *arguments, "--json", **settings)
        assert done.returncode == status, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def counted(server):
    """The requests of runs: those for more than one token."""
    return [request for request in server.generations if request.json["max_tokens"] > 1]


# What is measured


def test_the_figures_of_known_delays(bench):
    found = bench("--concurrency", "1,4", "--requests", "8", "--max-tokens", "16")
    assert [(run["name"], run["concurrency"]) for run in found["runs"]] == [("concurrency 1", 1), ("concurrency 4", 4)]
    for run in found["runs"]:
        assert (run["requests"], run["completed"], run["failed"], run["errors"]) == (8, 8, 0, {})
        for name in FIGURES:
            assert {"mean", "p50", "p90", "p99", "min", "max", "std", "count"} <= set(run[name])
        e2e = FIRST + 15 * GAP
        # By the least disturbed request: on a busy machine responses are longer, and tokens come together.
        assert FIRST <= run["ttft"]["min"] < 2 * FIRST
        assert run["tpot"]["min"] < 2 * GAP
        assert run["tpot"]["max"] > 0.5 * GAP
        assert run["itl"]["min"] < 2 * GAP
        assert run["itl"]["max"] >= 0.9 * GAP
        assert e2e <= run["e2e"]["min"] < 2 * e2e
        assert 0.5 * 16 / e2e < run["tokens_per_second"]["max"] <= 16 / e2e
        assert run["duration"] >= 8 / run["concurrency"] * e2e
        assert run["output_throughput"] == pytest.approx(8 * 16 / run["duration"], rel=1e-3)
        assert run["total_throughput"] == pytest.approx(8 * (16 + 266) / run["duration"], rel=1e-3)
        assert run["request_throughput"] == pytest.approx(8 / run["duration"], rel=1e-3)
        assert (run["output_tokens"]["min"], run["output_tokens"]["max"]) == (16, 16)
        assert (run["prompt_tokens"]["min"], run["prompt_tokens"]["max"]) == (266, 266)
        assert len(run["samples"]) == 8
        assert sum(point["output_tokens"] for point in run["timeline"]) == 8 * 16
        assert max(point["running"] for point in run["timeline"]) == run["concurrency"]
    assert found["target"] == {
        "url": found["target"]["url"], "backend": "openai", "endpoint": "chat", "model": "m",
        "engine": "test 0.32.0",
    }  # fmt: skip
    assert found["workload"]["tokens_counted_by"] == "usage"
    assert found["machine"]["cores"] >= 1


def test_definitions_are_those_of_vllm_bench_serve(bench, server):
    """TPOT is (E2E - TTFT) / (tokens - 1) of each request; the opening chunk that comes with the first token is the
    first chunk, so that a chat response of n tokens has n gaps.
    """
    run = bench("--concurrency", "1", "--requests", "3", "--max-tokens", "6")["runs"][0]
    for sample in run["samples"]:
        assert sample["tpot"] == pytest.approx((sample["e2e"] - sample["ttft"]) / 5, abs=1e-5)
    assert run["itl"]["count"] == 3 * 6
    run = bench("--endpoint", "completions", "--concurrency", "1", "--requests", "3", "--max-tokens", "6")["runs"][0]
    assert run["itl"]["count"] == 3 * 5
    assert counted(server)[-1].path == "/v1/completions"


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_response_of_one_token_has_no_gap_between_tokens(bench, server, miner, endpoint):
    """Though a chat response has an opening chunk before it, with the role."""
    arguments = ("--endpoint", endpoint, "--concurrency", "1", "--requests", "2", "--max-tokens", "1")
    run = bench(*arguments, "--output", "one.json")["runs"][0]
    assert (run["itl"], run["tpot"]) == (None, None)
    assert run["ttft"]["count"] == run["e2e"]["count"] == 2
    table = miner("bench", "--show", "one.json").stdout.decode()
    assert "TTFT" in table
    assert "ITL" not in table


def test_a_saved_result_is_read_and_written_as_it_was(bench, server, miner):
    server.reply = timed(first=0, gap=0)
    written = bench("--concurrency", "1,2", "--requests", "3", "--max-tokens", "5", "--output", "a.json")
    saved = (miner.directory / "a.json").read_bytes()
    assert b'"min": 5,' in saved
    assert miner("bench", "--show", "a.json", "--json").stdout == saved
    assert json.loads(saved) == written


def test_a_role_that_is_sent_ahead_is_no_token(bench, server):
    server.reply = timed(early_role=True)
    run = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "4")["runs"][0]
    assert run["ttft"]["min"] >= FIRST
    assert run["itl"]["count"] == 2 * 3


def test_reasoning_is_output(bench, server):
    server.reply = timed(reasoning=3)
    run = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "6")["runs"][0]
    assert FIRST <= run["ttft"]["min"] < FIRST + 3 * GAP, "the first that is reasoning, not the first of the content"
    assert run["output_tokens"]["mean"] == 6


def test_several_tokens_a_chunk(bench, server):
    server.reply = timed(per_chunk=4)
    found = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "16")
    run = found["runs"][0]
    assert run["output_tokens"]["mean"] == 16
    assert run["itl"]["max"] >= GAP
    for sample in run["samples"]:
        assert sample["tpot"] == pytest.approx((sample["e2e"] - sample["ttft"]) / 15, abs=1e-5)
    assert run["tpot"]["min"] < GAP / 2
    assert any("4.0 tokens on average" in note for note in found["notes"])


def test_without_usage_chunks_are_counted_and_that_is_said(bench, server):
    server.reply = timed(counted=False)
    found = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "5")
    assert found["runs"][0]["output_tokens"]["mean"] == 5
    assert found["runs"][0]["prompt_tokens"] is None
    assert found["workload"]["tokens_counted_by"] == "estimate"
    assert any("2 of 2 responses came without usage" in note for note in found["notes"])
    assert any("one word for a token" in note for note in found["notes"])


def test_responses_that_end_early_are_noted(bench, server):
    server.reply = timed(stop_at=3)
    found = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "9")
    assert found["runs"][0]["output_tokens"]["mean"] == 3
    assert any("2 of 2 responses ended before --max-tokens" in note for note in found["notes"])


def test_a_server_that_does_not_stream(bench, server):
    server.reply = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a b"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
    }
    found = bench("--concurrency", "1", "--requests", "2", "--max-tokens", "2")
    assert found["runs"][0]["completed"] == 2
    assert any("does not stream" in note for note in found["notes"])


def test_a_server_with_only_the_one_route_and_no_finish_reason(miner):
    class Bare(RawServer):
        async def handle(self, writer):
            if writer.request.path != "/v1/chat/completions":
                await writer.respond(404, "nothing here", connection="close")
                return
            await writer.head(200, {"content-type": "text/event-stream", "connection": "close"})
            for _ in range(3):
                await writer.raw(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
            await writer.raw(b"data: [DONE]\n\n")
            writer.drop()

    with in_thread(Bare()) as server:
        done = miner("bench", "--url", server.url, "--model", "m", "--concurrency", "2", "--requests", "4", "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["runs"][0]["completed"], found["target"]["engine"]) == (4, None)
    assert found["runs"][0]["output_tokens"]["mean"] == 3


# The workload


def test_prompts_have_the_length_and_are_all_different(bench, server):
    server.reply = timed(first=0, gap=0)
    bench("--prompt-tokens", "16,64", "--max-tokens", "2", "--concurrency", "1,2", "--requests", "3", "--warmup", "0")
    prompts = [prompt_of(request) for request in counted(server)]
    assert [len(prompt.split()) for prompt in prompts] == [16] * 6 + [64] * 6
    assert len({prompt[:40] for prompt in prompts}) == 12


def test_a_tokenizer_of_the_target_is_used(bench, server):
    """A stub whose words are a token for every three letters: lengths are checked by counting."""
    server.reply = timed(first=0, gap=0)
    counts = []

    class Tokenize(dict):
        def __contains__(self, path):
            return path == "/tokenize"

        def __getitem__(self, path):
            prompt = server.requests[-1].json["prompt"]
            counts.append(sum(-(-len(word) // 3) for word in prompt.split()))
            return {"count": counts[-1], "max_model_len": 2048}

    server.side = Tokenize()
    found = bench("--prompt-tokens", "50", "--max-tokens", "2", "--concurrency", "1", "--requests", "4")
    assert found["workload"]["tokens_counted_by"] == "tokenizer"
    lengths = [sum(-(-len(word) // 3) for word in prompt_of(request).split()) for request in counted(server)]
    assert all(abs(length - 50) <= 1 for length in lengths)


def test_the_same_seed_is_the_same_work(bench, server):
    server.reply = timed(first=0, gap=0)
    for seed in ("7", "7", "8"):
        bench("--seed", seed, "--concurrency", "1", "--requests", "2", "--max-tokens", "2", "--warmup", "0")
    prompts = [prompt_of(request) for request in counted(server)]
    assert prompts[:2] == prompts[2:4]
    assert prompts[4:] != prompts[:2]


def test_a_shared_prefix(bench, server):
    server.reply = timed(first=0, gap=0)
    bench("--shared-prefix", "32", "--prompt-tokens", "8", "--concurrency", "1", "--requests", "3", "--max-tokens", "2")
    prompts = [prompt_of(request).split() for request in counted(server)]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:32]) for prompt in prompts}) == 1
    assert len({tuple(prompt[32:]) for prompt in prompts}) == len(prompts)


def test_conversations_grow_with_results_of_tools(bench, server):
    server.reply = timed(first=0, gap=0)
    found = bench("--turns", "3", "--concurrency", "1", "--requests", "6", "--max-tokens", "2", "--warmup", "0")
    messages = [request.json["messages"] for request in counted(server)]
    assert [[message["role"] for message in each] for each in messages] == [
        ["user"], ["user", "assistant", "tool"], ["user", "assistant", "tool", "assistant", "tool"],
    ] * 2  # fmt: skip
    assert messages[2][:3] == messages[1]
    assert messages[1][1]["content"] == "word word "
    assert messages[1][1]["tool_calls"][0]["id"] == messages[1][2]["tool_call_id"]
    assert [sample["turn"] for sample in found["runs"][0]["samples"]] == [0, 1, 2] * 2


def test_a_template_without_tools_gets_their_results_from_the_user(bench, server):
    def reply(body):
        if any(message["role"] == "tool" for message in body["messages"]):
            return 400, {"error": {"message": "no role tool"}}
        return timed(first=0, gap=0)

    server.reply = reply
    found = bench("--turns", "2", "--concurrency", "1", "--requests", "4", "--max-tokens", "2")
    assert found["runs"][0]["completed"] == 4
    assert [message["role"] for message in counted(server)[-1].json["messages"]] == ["user", "assistant", "user"]
    assert any("refuses results of tools" in note for note in found["notes"])


def test_options_reach_the_server(bench, server):
    server.reply = timed(first=0, gap=0)
    bench("--ignore-eos", "--temperature", "0", "--concurrency", "1", "--requests", "1", "--max-tokens", "3")
    body = counted(server)[-1].json
    assert (body["ignore_eos"], body["temperature"], body["max_tokens"]) == (True, 0, 3)
    bench("--concurrency", "1", "--requests", "1", "--max-tokens", "3")
    assert not {"ignore_eos", "temperature"} & set(counted(server)[-1].json)


# The load


def test_an_open_loop_sends_at_its_rate_however_slow_the_server(bench, server):
    server.reply = timed(first=1.0, gap=0)
    found = bench("--request-rate", "10", "--requests", "10", "--max-tokens", "2")
    run = found["runs"][0]
    assert (run["name"], run["concurrency"], run["request_rate"]) == ("rate 10/s", None, 10.0)
    assert run["completed"] == 10
    starts = [sample["start"] for sample in run["samples"]]
    assert max(starts) >= 0.9  # the last comes after requests / rate
    assert max(point["running"] for point in run["timeline"]) >= 3


def test_a_rate_for_a_time(bench, server):
    server.reply = timed(first=0.0, gap=0)
    run = bench("--request-rate", "8", "--duration", "1", "--max-tokens", "2")["runs"][0]
    assert run["requests"] == run["completed"] == 8


def test_a_run_for_a_time(bench, server):
    server.reply = timed(first=0.05, gap=0)
    found = bench("--duration", "1.5", "--concurrency", "2", "--max-tokens", "2")
    run = found["runs"][0]
    assert 1.5 <= run["duration"] < 30
    assert run["completed"] == run["requests"] >= 4
    assert all(sample["start"] <= 2 for sample in run["samples"])


def test_rounds_repeat_all_runs(bench, server):
    server.reply = timed(first=0, gap=0)
    found = bench("--rounds", "2", "--concurrency", "1,2", "--requests", "2", "--max-tokens", "2")
    assert [run["name"] for run in found["runs"]] == [
        "concurrency 1, round 1", "concurrency 2, round 1", "concurrency 1, round 2", "concurrency 2, round 2",
    ]  # fmt: skip


def test_goodput_is_the_share_that_met_the_objective(bench, server):
    server.reply = every(4, timed(first=3.0, gap=0), timed(first=0.0, gap=0))
    found = bench(
        "--concurrency", "1", "--requests", "8", "--max-tokens", "2", "--warmup", "0",
        "--objective", "ttft=2,e2el=2500ms",
    )  # fmt: skip
    assert found["objective"] == {"ttft": 2.0, "e2e": 2.5}
    run = found["runs"][0]
    assert run["goodput"]["share"] == 0.75
    assert run["goodput"]["requests_per_second"] == pytest.approx(6 / run["duration"], rel=1e-3)
    assert [sample["good"] for sample in run["samples"]].count(False) == 2


def test_what_is_cancelled_stops_and_the_others_go_on(bench, server):
    server.reply = timed(first=0.05, gap=0.05)
    found = bench("--cancel", "0.25", "--concurrency", "4", "--requests", "8", "--max-tokens", "20", "--warmup", "0")
    run = found["runs"][0]
    assert (run["requests"], run["completed"], run["cancelled"], run["failed"]) == (8, 6, 2, 0)
    assert run["ttft"]["count"] == 6
    assert len(server.disconnects) == 2
    assert any(
        re.search(r"^2 requests were cancelled on purpose: .* 0 failed; .* responded", n) for n in found["notes"]
    )


def test_embeddings(bench, server):
    found = bench("--endpoint", "embeddings", "--concurrency", "1", "--requests", "3", "--prompt-tokens", "12")
    run = found["runs"][0]
    assert (run["completed"], run["ttft"], run["output_throughput"]) == (3, None, 0)
    assert run["e2e"]["count"] == 3


@pytest.mark.parametrize("arguments", [("--cancel", "0.5", "--requests", "8"), ("--requests", "1")])
def test_the_line_after_a_run_has_the_figures_of_its_table(miner, server, arguments):
    """Cancelled requests are in neither; nor do chunks of several tokens or the time around it matter."""
    server.reply = timed(first=0.05, gap=0.02, per_chunk=4)
    done = miner(
        "bench", "--url", server.url, "--concurrency", "4", "--max-tokens", "32", *arguments, "--output", "r.json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    line = re.search(
        r"^  (\d+) done in (.*?), (?:(\d+) cancelled, )?(\S+) tokens/s, TTFT p50 (.*)$", done.stderr.decode(), re.M
    )
    completed, duration, cancelled, speed, first = line.groups()
    table = done.stdout.decode()
    assert f"{completed} of " in table
    assert (cancelled is None) == ("cancelled on purpose\n" not in table)
    assert re.search(rf"^duration +{re.escape(duration)}$", table, re.M)
    assert re.search(rf"^output tokens/s +{re.escape(speed)}$", table, re.M)
    assert re.search(rf"^TTFT( +\S+ \S+?)  +{re.escape(first)} ", table, re.M)
    assert miner("bench", "--show", "r.json").stdout == done.stdout


# What fails


def test_errors_are_counted_by_their_code_and_are_in_no_latency(bench, server):
    server.reply = every(4, status(500, {"error": {"message": "out of luck"}}), timed(first=0.3, gap=0))
    found = bench("--concurrency", "2", "--requests", "8", "--max-tokens", "2", "--warmup", "0")
    run = found["runs"][0]
    assert (run["requests"], run["completed"], run["failed"], run["errors"]) == (8, 6, 2, {"500": 2})
    assert "out of luck" in run["error_examples"]["500"]
    assert all(run[name]["count"] == 6 for name in ("ttft", "tpot", "e2e", "tokens_per_second"))
    assert run["ttft"]["min"] >= 0.3
    assert [sample["error"] for sample in run["samples"]].count("500") == 2


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (timed(first=0, gap=0, cut_at=2), "stream_interrupted"),
        (timed(first=0, gap=0, hang_at=2), "backend_timeout"),
        (error_in_stream(), "500"),
    ],
    ids=["cut", "hang", "error"],
)
def test_streams_that_break_are_failures(bench, server, behaviour, code):
    server.reply = every(2, behaviour, timed(first=0, gap=0))
    found = bench(
        "--concurrency", "1", "--requests", "4", "--max-tokens", "4", "--warmup", "0", "--timeout", "2"
    )  # fmt: skip
    run = found["runs"][0]
    assert (run["completed"], run["failed"]) == (2, 2)
    assert list(run["errors"].values()) == [2]
    assert code in run["errors"]
    assert run["e2e"]["count"] == 2


def test_a_server_that_refuses_is_not_asked_again(bench, server):
    server.reply = every(2, status(429, {"error": {"message": "slow down"}}, retry_after="7"), timed(first=0, gap=0))
    found = bench("--concurrency", "1", "--requests", "4", "--max-tokens", "2", "--warmup", "0")
    assert found["runs"][0]["errors"] == {"429": 2}
    assert len(counted(server)) == 4
    assert any("refused 2 requests" in note and "wait 7 s" in note for note in found["notes"])


def test_all_failed(bench, server, miner):
    server.reply = lambda body: (503, {"error": {"message": "no more"}})
    found = bench("--concurrency", "1", "--requests", "3", "--max-tokens", "2", status=1)
    assert found["runs"][0]["errors"] == {"503": 3}
    assert found["runs"][0]["ttft"] is None
    done = miner("bench", "--url", server.url, "--concurrency", "1", "--requests", "3", "--max-tokens", "2")
    assert done.returncode == 1
    assert b"All 3 requests failed, with 503: " in done.stderr
    assert b"no more" in done.stderr
    assert b"Traceback" not in done.stderr
    done = miner("bench", "--url", server.url, "--concurrency", "1", "--requests", "1", "--max-tokens", "2")
    assert b"1 request failed, with 503: " in done.stderr


def test_no_server(miner):
    done = miner("bench", "--url", "http://127.0.0.1:9", "--model", "m", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "backend_unavailable"
    assert "127.0.0.1:9" in error["message"]


def test_no_such_model(miner, server):
    done = miner("bench", "--url", server.url, "--model", "other")
    assert done.returncode == 2
    assert b"other" in done.stderr
    assert b"Available: m" in done.stderr


def test_a_key_is_sent_and_not_shown(miner):
    with in_thread(StubServer(["m"], reply=timed(first=0, gap=0), api_key="very-secret")) as server:
        url = server.url.replace("://", "://user:word@")
        done = miner(
            "bench", "--url", url, "--key", "very-secret", "--concurrency", "1", "--requests", "1", "--max-tokens", "2",
            "--json", "--output", "r.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert miner("bench", "--url", server.url, "--key", "wrong", "--requests", "1").returncode == 1
    written = (miner.directory / "r.json").read_bytes()
    assert json.loads(written) == json.loads(done.stdout)
    assert json.loads(written)["runs"][0]["completed"] == 1
    for output in (written, done.stdout, done.stderr):
        assert b"very-secret" not in output
        assert b"word@" not in output


SECRET_FIELDS = {
    "api_key": "sk-SECRET1", "cache_salt": "sk-SECRET2",
    "kv_transfer_params": {"remote": [{"authToken": "sk-SECRET3"}]},
    "headers": {"Authorization": "Bearer sk-SECRET4", "x": "bearer sk-SECRET5"}, "credentials": {"user": "sk-SECRET6"},
    "callback": "https://sk-SECRET7:sk-SECRET8@host/x?sig=sk-SECRET9", "env": "API_KEY='sk-SECRET10' X=1",
}  # fmt: skip
PLAIN_FIELDS = {
    "top_k": 1, "stop_token_ids": [1, 2], "min_tokens": 1, "timings_per_token": True, "thinking_token_budget": 8,
    "eos_token_id": 2, "stop": ["</s>"], "keep_alive": "5m", "allowed_token_ids": [3], "guided_regex": "a=b",
}  # fmt: skip


@pytest.mark.parametrize("joined", [False, True])
def test_secrets_in_other_fields_are_sent_and_not_shown(miner, server, joined):
    """Nor where the server repeats one in an error."""
    fields = {**SECRET_FIELDS, **PLAIN_FIELDS}
    bad = status(400, {"error": {"message": "no field api_key='sk-SECRET1', nor sk-SECRET3"}})
    server.reply = every(2, bad, timed(first=0, gap=0))
    option = [f"--extra-body={json.dumps(fields)}"] if joined else ["--extra-body", json.dumps(fields)]
    done = miner(
        "bench", "--url", server.url, "--model", "m", "--concurrency", "1", "--requests", "4", "--max-tokens", "2",
        *option, "--output", "r.json", "--html", "r.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert all(server.generations[-1].json[name] == value for name, value in fields.items())
    shown = miner("bench", "--show", "r.json", "--json").stdout
    page = (miner.directory / "r.html").read_bytes()
    written = (miner.directory / "r.json").read_bytes()
    assert written == shown
    for output in (written, page, done.stdout, done.stderr):
        assert b"sk-SECRET" not in output
    assert b"no field api_key=" in done.stdout
    found = json.loads(written)
    sent = found["workload"]["extra_body"]
    assert sent["api_key"] == sent["kv_transfer_params"]["remote"][0]["authToken"] == "***"
    assert {name: sent[name] for name in PLAIN_FIELDS} == PLAIN_FIELDS
    words = shlex.split(found["command"])
    text = words[words.index("--output") - 1].removeprefix("--extra-body=")
    assert json.loads(text) == sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "--concurrency 0: must be an integer from 1 to 65535."),
        (["--concurrency", "1,x"], "--concurrency x: must be an integer from 1 to 65535."),
        (["--concurrency", "999999999"], "--concurrency 999999999: must be an integer from 1 to 65535."),
        (["--requests", "9" * 400], "9: must be an integer from 1 to 10000000."),
        (["--prompt-tokens", "99999999999"], "--prompt-tokens 99999999999: must be an integer from 1 to 10000000."),
        (["--request-rate", "1e9", "--duration", "1e9"], "for --duration 1e+09 is 1e+18 requests"),
        (["--concurrency", ","], "--concurrency ',': needs a number"),
        (["--request-rate", "0"], "--request-rate 0: must be a number above 0."),
        (["--request-rate", "1", "--concurrency", "1"], "--concurrency and --request-rate exclude each other."),
        (["--requests", "1", "--duration", "1"], "--requests and --duration exclude each other."),
        (["--duration", "inf"], "--duration inf: must be a number above 0."),
        (["--cancel", "1.5"], "--cancel 1.5: must be a number from 0 to 1."),
        (["--objective", "speed=1"], "--objective speed=1: unknown figure 'speed'."),
        (["--objective", "ttft=fast"], "--objective ttft=fast: needs a time above 0"),
        (["--objective", ""], "--objective '': must not be empty."),
        (["--endpoint", "images"], "--endpoint images: must be one of chat, completions, embeddings."),
        (["--endpoint", "embeddings", "--turns", "2"], "--turns and --cancel are for"),
        (["--extra-body", "{"], "--extra-body {: is not JSON"),
        (["--extra-body", "[1]"], "--extra-body [1]: must be a JSON object."),
        (["--output", "no/such/place.json"], "--output no/such/place.json: there is no directory no/such."),
    ],
)
def test_wrong_options_are_named(miner, arguments, message):
    done = miner("bench", "--url", "http://127.0.0.1:9", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()


# How it ends


def test_a_concurrency_above_the_number_of_requests_costs_nothing(bench, server):
    run = bench("--concurrency", "60000", "--requests", "3", "--max-tokens", "4", "--warmup", "0")["runs"][0]
    assert (run["concurrency"], run["completed"], len(counted(server))) == (60000, 3, 3)


def test_no_time_to_a_first_token_is_said_where_there_are_none(miner, server):
    done = miner("bench", "--url", server.url, "--model", "m", "--endpoint", "embeddings", "--requests", "2")
    assert (done.returncode, b"TTFT" in done.stdout + done.stderr) == (0, False), done.stderr.decode()


def test_ctrl_c_prints_what_was_measured_and_closes_what_is_in_flight(miner, server):
    server.reply = timed(first=0.05, gap=0.05)
    process = miner.start(
        "bench", "--url", server.url, "--concurrency", "2", "--requests", "1000", "--max-tokens", "8", "--json"
    )  # fmt: skip
    end = time.monotonic() + 60
    while len(counted(server)) < 8 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    found = json.loads(output)
    run = found["runs"][0]
    assert run["partial"]
    assert 1 <= run["completed"] == run["requests"] < 1000
    assert any("was stopped" in note for note in found["notes"])
    time.sleep(0.3)  # what it had sent has been read
    sent = len(counted(server))
    time.sleep(0.3)
    assert len(counted(server)) == sent
    assert b"Traceback" not in errors


def test_text_for_people(miner, server):
    done = miner("bench", "--url", server.url, "--concurrency", "1,2", "--requests", "2", "--max-tokens", "4")
    assert done.returncode == 0
    text, progress = done.stdout.decode(), done.stderr.decode()
    assert "concurrency 1" in text
    assert "concurrency 2" in text
    assert re.search(r"concurrency 1.*2 requests", progress)


def test_a_prefix_cache_that_helped_is_noted(bench, server):
    def run(cached):
        server.reply = timed(first=0, gap=0, cached=cached)
        return bench("--concurrency", "1", "--requests", "2", "--max-tokens", "2", "--prompt-tokens", "100")

    assert run(cached=10)["runs"][0]["cached_tokens"] == 20
    assert not any("prefix cache" in note for note in run(cached=10)["notes"])  # the chat template's
    assert any("50% of the prompts' tokens" in note for note in run(cached=60)["notes"])


def test_other_fields_of_the_body(bench, server):
    server.reply = timed(first=0, gap=0)
    found = bench("--extra-body", '{"top_k": 1}', "--concurrency", "1", "--requests", "1", "--max-tokens", "3")
    assert counted(server)[-1].json["top_k"] == 1
    assert found["workload"]["extra_body"] == {"top_k": 1}
