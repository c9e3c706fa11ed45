"""What a person types after `miner generate`: words, files, images, schemas, tools, and what is wrong with them."""

import base64
import json

import pytest

from tests.servers.openai_stub import StubServer
from tests.servers.payloads import openai_reply
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

PNG = b"\x89PNG\r\n\x1a\n0000"
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def vllm():
    with in_thread(StubServer(["m"])) as server:
        yield server


def ask(miner, server, *arguments, **more):
    return miner("generate", *arguments, LLM_BACKEND="vllm", VLLM_API_BASE=server.v1, **more)


@pytest.mark.parametrize(
    "arguments",
    [
        ["why", "is", "the", "sky", "blue"],
        ["--seed", "3", "why is the", "sky", "blue"],
        ["why", "--seed=3", "is", "the", "-m", "m", "sky", "blue", "-q"],
        ["why", "is", "--json", "--seed", "3", "--", "the", "sky", "blue"],
    ],
)
def test_several_words_are_the_prompt_wherever_the_options_stand(miner, vllm, arguments):
    done = ask(miner, vllm, *arguments)
    assert done.returncode == 0, done.stderr
    assert vllm.bodies[-1]["messages"][0]["content"] == "why is the sky blue"
    assert vllm.bodies[-1].get("seed") == (None if arguments[0] == "why" and "--seed" not in " ".join(arguments) else 3)


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (["what", "is", "-5", "+", "3"], "what is -5 + 3"),
        (["5", "-", "3"], "5 - 3"),
        (["- a list\n- of lines"], "- a list\n- of lines"),
        (["--", "--seed", "7"], "--seed 7"),
        (["a", "--", "-", "b", "--", "c"], "a - b -- c"),
    ],
)
def test_words_that_look_like_options(miner, vllm, arguments, prompt):
    done = ask(miner, vllm, *arguments)
    assert done.returncode == 0, done.stderr
    assert vllm.bodies[-1]["messages"][0]["content"] == prompt


@pytest.mark.parametrize(
    ("arguments", "option", "meant"),
    [
        (["--temprature", "0", "hi"], "--temprature", "--temperature"),
        (["hi", "there", "--topk=3"], "--topk", "--top-k"),
        (["hi", "-temperature", "0"], "-temperature", "--temperature"),
        (["hi", "--sytem", "x"], "--sytem", "--system"),
    ],
)
def test_a_mistyped_option_is_no_word(miner, vllm, arguments, option, meant):
    done = ask(miner, vllm, *arguments)
    assert (done.returncode, done.stdout, vllm.generations) == (2, b"", [])
    assert f"Unknown option {option}." in done.stderr.decode()
    assert f"Did you mean {meant}?" in done.stderr.decode()


def test_files_and_piped_text_stand_before_the_words(miner, vllm):
    (miner.directory / "a.txt").write_text("first\n")
    done = ask(miner, vllm, "-f", "a.txt", "compare", "them", stdin=b"second\n")
    assert done.returncode == 0, done.stderr
    assert vllm.bodies[-1]["messages"][0]["content"] == "a.txt:\n\nfirst\n\nsecond\n\ncompare them"
    assert ask(miner, vllm, stdin=b"alone").returncode == 0
    assert vllm.bodies[-1]["messages"][0]["content"] == "alone"
    done = ask(miner, vllm)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"There is no prompt" in done.stderr


def test_the_key_is_the_first_line_of_standard_input_and_the_rest_the_prompt(miner):
    with in_thread(StubServer(["m"], api_key="secret")) as server:
        done = miner("generate", "--url", server.url, "--key", "-", "sum", "up", stdin=b"secret\na long text\n")
        body = server.bodies[-1]
    assert done.returncode == 0, done.stderr
    assert body["messages"][0]["content"] == "a long text\n\nsum up"


def test_all_options_reach_the_request(miner, vllm):
    (miner.directory / "tools.json").write_text(json.dumps({"tools": [TOOL]}))
    done = ask(
        miner, vllm, "hi", "--top-k", "5", "--min-p", "0.1", "--repeat-penalty", "1.1", "--presence-penalty", "0.2",
        "--frequency-penalty", "-0.3", "--reasoning-effort", "low", "--tools", "tools.json", "--tool-choice", "auto",
        "--ignore-unsupported",
    )  # fmt: skip
    body = vllm.bodies[-1]
    wanted = {
        "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": -0.3,
        "reasoning_effort": "low", "tool_choice": "auto",
    }  # fmt: skip
    assert {name: body[name] for name in wanted} == wanted
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert done.returncode == 0, done.stderr


def test_a_value_by_a_schema(miner):
    miner.directory.joinpath("s.json").write_text(json.dumps(SCHEMA))
    with in_thread(StubServer(["m"], reply='{"a": 1}')) as server:
        done = ask(miner, server, "--schema", "s.json", "--json", "hi")
        assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parsed"] == {"a": 1}


def test_a_response_that_was_cut_short_names_the_option(miner):
    cut = {"choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": '{"a":'}}]}
    with in_thread(StubServer(["m"], reply=lambda body: (200, cut))) as server:
        done = ask(miner, server, "--json-object", "--no-stream", "hi")
    said = done.stderr.decode()
    assert "Raise --max-tokens" in said, said
    assert " max_tokens" not in said


def test_images_are_sent_as_data_and_urls_fetched_here(miner, tmp_path):
    able = {"data": [{"id": "m", "object": "model", "owned_by": "x"}], "object": "list"}
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.txt").write_text("text")
    with in_thread(StubServer(["m"], side={"/v1/models": able})) as server:
        url = ["--url", server.url]
        done = miner("generate", *url, "--image", "a.png", "what", "is", "this")
        assert done.returncode == 0, done.stderr
        image, text = server.bodies[-1]["messages"][0]["content"]
        assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        assert text["text"] == "what is this"
        done = miner("generate", *url, "--image", f"{server.url}/v1/models?token=hush", "what")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"is not an image" in done.stderr
        done = miner("generate", *url, "--image", f"{server.url}/nothing?token=hush", "what")
        assert done.returncode == 2
        assert b"cannot be fetched: " in done.stderr
        assert b"hush" not in done.stderr
        done = miner("generate", *url, "--image", "b.txt", "what")
        assert done.returncode == 2
        assert b"--image 'b.txt' is not an image: it begins with b'text'" in done.stderr


def test_calls_of_tools_are_printed_as_json(miner):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    reply = openai_reply("Hm.")
    reply["choices"][0]["message"]["tool_calls"] = [call]
    reply["choices"][0]["finish_reason"] = "tool_calls"
    with in_thread(StubServer(["m"], reply=reply)) as server:
        done = ask(miner, server, "--tools", json.dumps([TOOL]), "weather in Rome")
    assert (done.returncode, done.stderr) == (0, b"")
    text, _, calls = done.stdout.decode().partition("\n")
    assert text == "Hm."
    assert json.loads(calls) == {"tool_calls": [call]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-k", "abc"], "--top-k must be an integer of at least 0, not 'abc'."),
        (["--min-p", "2"], "--min-p must be a number from 0 to 1, not 2."),
        (["--presence-penalty", "3"], "--presence-penalty must be a number from -2 to 2, not 3."),
        (["--schema", "no.json"], "--schema 'no.json' cannot be read: No such file"),
        (["--schema", '{"type": '], "is no JSON: expecting value at line 1, column 10."),
        (["--schema", "[1]"], "a JSON Schema is an object, not list"),
        (["--schema", '{"properties": {"a": {"type": "integr"}}}'],
         "--schema: the JSON Schema is not valid: properties.a.type: a type is one of"),
        (["--schema", "{}", "--json-object"], "--schema and --json-object exclude each other."),
        (["--tools", "[]"], "--tools '[]': the list of tools is empty."),
        (["--tools", '[{"nam": "x"}]'], '--tools[0] must be {"type": "function"'),
        (["--tool-choice", "auto"], "--tool-choice is for --tools."),
        (["--tools", '[{"name": "x"}]', "--tool-choice", "y"], "--tool-choice must be auto, none, required or"),
        (["--reasoning-effort", "hig"], "Did you mean high?"),
        (["--think", "--no-think"], "not allowed with"),
        (["--raw", "--think"], "--raw and --think exclude each other"),
        (["--raw", "--reasoning-effort", "low"], "--raw and --reasoning-effort exclude each other"),
        (["--image", "data:image/png,xx"], "--image must be a data:image/...;base64,... or an http(s) URL, not"),
        (["--image", "no.png"], "--image 'no.png' cannot be read: No such file"),
        (["--file", "no.txt"], "--file 'no.txt' cannot be read: No such file"),
        (["--raw", "--system", "x"], "--raw and --system exclude each other"),
        (["--timeout", "0"], "--timeout must be a number above 0"),
        (["--keep-alive", "soon"], "--keep-alive must be seconds, or a string"),
        (["--keep-alive", "5m"], "--keep-alive: vllm's model 'm' does not support keep_alive."),
    ],
)  # fmt: skip
def test_bad_input_names_the_flag_and_the_value(miner, vllm, arguments, words):
    done = ask(miner, vllm, *arguments, "hi")
    assert (done.returncode, done.stdout, vllm.bodies) == (2, b"", [])
    assert words in done.stderr.decode()


def test_what_is_left_out_is_said(miner, vllm):
    done = ask(miner, vllm, "--keep-alive", "5m", "--ignore-unsupported", "hi")
    assert (done.returncode, done.stdout) == (0, b"Hello there.\n")
    assert b"does not support it: keep_alive." in done.stderr
    done = ask(miner, vllm, "--keep-alive", "5m", "--ignore-unsupported", "--json", "hi")
    assert json.loads(done.stdout)["ignored"] == ["keep_alive"]


def test_reasoning_that_was_asked_for_goes_to_standard_error(miner):
    events = [
        {"choices": [{"index": 0, "delta": {"reasoning": "Let me "}}]},
        {"choices": [{"index": 0, "delta": {"reasoning": "see."}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}]},
    ]
    for event in events:
        event |= {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    with in_thread(StubServer(["m"], reply=events)) as server:
        done = ask(miner, server, "--think", "is", "it")
        assert (done.stdout, done.stderr) == (b"Yes.\n", b"Let me see.\n\n")
        assert ask(miner, server, "is", "it").stderr == b""
