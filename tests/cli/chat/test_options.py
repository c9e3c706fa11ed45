"""The options of `miner chat` and `miner run`: what they set, and what is refused before a chat begins."""

import json
import sys

import pytest

from tests.cli.chat.terminal import CTRL_D, Terminal
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}


@pytest.fixture
def server():
    with in_thread(StubServer(models=["m", "other"])) as server:
        yield server


@pytest.mark.parametrize("tools", ["tools.json", json.dumps([TOOL])], ids=["a file", "written out"])
def test_a_tool_is_chosen_for_each_message_while_the_tools_are_on(tmp_path, server, tools):
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    options = ["--tools", tools, "--tool-choice", "add"]
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", *options, columns=100) as terminal:
        terminal.wait(">>>")
        server.reply = [delta(tool_calls=[CALL]), finish("tool_calls"), usage_chunk()]
        terminal.ask("Hi", "result>")
        assert server.bodies[-1]["tool_choice"] == {"type": "function", "function": {"name": "add"}}
        assert server.bodies[-1]["tools"][0]["function"]["name"] == "add"
        server.reply = "It is 3."
        terminal.ask("3", "It is 3.")
        assert server.bodies[-1].get("tool_choice", "auto") == "auto"  # else it would be called again for ever
        terminal.wait(lambda shown: shown.count(">>>") == 2)
        terminal.ask("/tools off", "Tools are off")
        terminal.ask("Hi", "It is 3.")
        assert "tools" not in server.bodies[-1]
        assert "tool_choice" not in server.bodies[-1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--temperature", "x"], "--temperature"),
        (["--seed", "abc"], "--seed"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--tool-choice", "auto"], "--tool-choice is for --tools"),
        (["--keepalive", "zz"], "--keepalive"),
        (["--keep-alive", "zz"], "--keep-alive"),
        (["--format", "nosuch"], "--format 'nosuch'"),
        (["--format", "[]"], "--format '[]'"),
        (["--format", "nosuch", "--regex", "a"], "--format and --regex exclude each other"),
        (["--schema", "nosuch"], "--schema 'nosuch'"),
        (["--tools", "nosuch"], "--tools 'nosuch'"),
    ],
)
def test_a_wrong_option_is_named_as_it_was_written_before_the_chat_begins(tmp_path, server, options, named):
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", *options, columns=120) as terminal:
        assert terminal.end() == 2
    assert named in terminal.text
    assert ">>>" not in terminal.text


@pytest.mark.parametrize(
    ("options", "named"), [(["--regex", "a+"], "--regex"), (["--repeat-penalty", "1.1"], "--repeat-penalty")]
)
def test_what_the_model_does_not_support_is_refused_before_the_chat_begins(tmp_path, server, options, named):
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", *options, columns=120) as terminal:
        assert terminal.end() == 2
        assert f"{named}: server" in terminal.text
        assert f"Leave {named} out, or add --ignore-unsupported." in terminal.text
    with Terminal(
        tmp_path, "chat", "--url", server.url, "-m", "m", *options, "--ignore-unsupported", columns=120
    ) as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "2,048 (")
    assert server.bodies


def test_in_a_chat_what_is_not_supported_is_taken_back_with_commands(tmp_path, server):
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", columns=120) as terminal:
        terminal.wait(">>>")
        terminal.ask("/set repeat_penalty 1.1", "repeat_penalty = 1.1")
        terminal.ask("Hi", "/set repeat_penalty default takes it back")
        assert "unsupported=" not in terminal.text


def under_a_shell(tmp_path, line):
    """`miner` as MINER in a line of a shell on a terminal."""
    line = line.replace("MINER", f"{sys.executable} -m miner")
    return Terminal(tmp_path, under=f"import os; os.execv('/bin/sh', ['sh', '-c', {line!r}])", columns=120)


def test_after_the_key_has_come_from_a_file_the_chat_is_typed_at_the_terminal(tmp_path):
    (tmp_path / "key.txt").write_text("secret\n")
    with in_thread(StubServer(models=["m"], api_key="secret")) as server:
        with under_a_shell(tmp_path, f"MINER chat --url {server.url} -m m --key - < key.txt") as terminal:
            terminal.wait(">>>")
            terminal.ask("Hi", "2,048 (")
            terminal.wait(lambda shown: shown.count(">>>") == 2)
            terminal.type(CTRL_D)
            assert terminal.end() == 0
        assert server.bodies[-1]["messages"][-1]["content"] == "Hi"


def test_what_follows_the_key_on_standard_input_is_one_prompt(tmp_path):
    (tmp_path / "key.txt").write_text("secret\nHi\n")
    with in_thread(StubServer(models=["m"], api_key="secret")) as server:
        with under_a_shell(tmp_path, f"MINER chat --url {server.url} -m m --key - < key.txt") as terminal:
            assert terminal.end() == 0
        assert server.bodies[-1]["messages"][-1]["content"] == "Hi"


@pytest.mark.parametrize(
    ("arguments", "example"),
    [(["chat"], "miner chat "), (["run", "m"], "miner run NAME "), (["generate"], "miner generate ")],
)
def test_without_a_prompt_the_example_is_of_the_command_that_was_typed(miner, arguments, example):
    done = miner(*arguments, "--url", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert f"Such as: {example}" in done.stderr.decode()


def test_levels_of_reasoning_are_listed_once(miner):
    done = miner("run", "m", "--think=foo", "Hi")
    assert done.returncode == 2
    assert done.stderr.count(b" none,") == 1


@pytest.mark.parametrize("command", ["chat", "run"])
def test_the_default_of_a_chat_is_in_the_help_of_max_tokens(miner, command):
    text = " ".join(miner(command, "--help").stdout.decode().split())
    assert "DEFAULT_MAX_TOKENS, else 4096 in a chat and 512 for one prompt" in text
