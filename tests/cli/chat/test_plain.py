"""`miner chat` and `miner run` where there is no terminal to draw on, and for one prompt."""

import json
import os
import subprocess
import sys

import pytest

from tests.cli.chat.terminal import CTRL_D, Terminal
from tests.cli.conftest import LONG, environment
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


@pytest.fixture
def server():
    with in_thread(StubServer(models=["m", "other"], reply="Some **bold** text.")) as server:
        yield server


def run(tmp_path, *arguments: str, stdin: bytes | None = None, **settings: str):
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        [sys.executable, "-m", "miner", *arguments], capture_output=True, cwd=tmp_path,
        env=environment(tmp_path, **settings), timeout=LONG, **given,
    )  # fmt: skip


def test_what_is_piped_in_is_one_prompt(tmp_path, server):
    done = run(tmp_path, "chat", "--url", server.url, "-m", "m", stdin=b"two\nlines\n/help\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Some **bold** text.\n", b"")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "two\nlines\n/help"}]


def test_run_with_a_prompt_of_several_words_after_what_is_piped_in(tmp_path, server):
    done = run(tmp_path, "run", "--url", server.url, "other", "explain", "this", stdin=b"text\n")
    assert (done.returncode, done.stdout) == (0, b"Some **bold** text.\n")
    assert server.bodies[-1]["model"] == "other"
    assert server.bodies[-1]["messages"][-1]["content"] == "text\n\nexplain this"


def test_json_is_one_object(tmp_path, server):
    done = run(tmp_path, "run", "m", "--url", server.url, "--json", "Hi")
    assert json.loads(done.stdout)["content"] == "Some **bold** text."


def test_flags_of_ollama(tmp_path, server):
    server.reply = [delta(reasoning_content="Hmm."), delta(content='{"a": 1}'), finish(), usage_chunk()]
    flags = ["--format", "json", "--verbose", "--hidethinking", "--nowordwrap"]
    done = run(tmp_path, "run", "m", "--url", server.url, *flags, "Hi")
    assert (done.returncode, done.stdout) == (0, b'{"a": 1}\n')
    assert b"8 tokens" in done.stderr
    assert b"Hmm." not in done.stderr
    assert server.bodies[-1]["response_format"]["type"] == "json_object"
    refused = run(tmp_path, "run", "m", "--url", server.url, "--keepalive", "5m", "Hi")
    assert refused.returncode == 2
    assert b"keep" in refused.stderr


def test_no_prompt_at_all(tmp_path, server):
    done = run(tmp_path, "chat", "--url", server.url)
    assert done.returncode == 2
    assert b"There is no prompt" in done.stderr
    done = run(tmp_path, "run")
    assert done.returncode == 2
    assert b"No model is named" in done.stderr
    assert server.bodies == []


@pytest.mark.parametrize("option", [["--json"], ["--raw"], ["--no-stream"]])
def test_options_of_one_prompt_are_refused_for_a_chat(tmp_path, server, option):
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", *option) as terminal:
        assert terminal.end() == 2
    assert f"{option[0]} needs a prompt" in terminal.text


def test_a_dumb_terminal_gets_plain_text(tmp_path, server):
    server.reply = [delta(content="Some **bold** \x1b]0;owned\x07 text."), finish(), usage_chunk()]
    with Terminal(tmp_path, "chat", "--url", server.url, "-m", "m", TERM="dumb") as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "2,048 (")
        assert "Some **bold**" in terminal.text
        terminal.wait(lambda shown: shown.count(">>>") == 2)
        terminal.type('"""a\n')
        terminal.wait("\n...")
        terminal.ask('b"""', "2,048 (")
        terminal.ask("/stats", "All 2 responses")
        terminal.wait(lambda shown: shown.count(">>>") == 4)
        terminal.type("\x03")
        terminal.wait("Ctrl-D or /exit leaves")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert server.bodies[-1]["messages"][-1]["content"] == "a\nb"
    assert b"\x1b" not in terminal.raw


def test_one_prompt_on_a_terminal_has_no_control_characters(tmp_path, server):
    server.reply = [delta(content="safe \x1b]0;owned\x07\x9b31m"), finish(), usage_chunk()]
    with Terminal(tmp_path, "run", "m", "--url", server.url, "Hi") as terminal:
        assert terminal.end() == 0
    assert "safe" in terminal.text
    assert b"\x1b]0;owned" not in terminal.raw
    assert "\x9b".encode() not in terminal.raw
    done = run(tmp_path, "run", "m", "--url", server.url, "Hi")
    assert done.stdout == "safe \x1b]0;owned\x07\x9b31m\n".encode()  # a file has what the model wrote


def test_output_elsewhere_each_line_is_a_message(tmp_path, server):
    out = tmp_path / "out"
    command = f"{sys.executable} -m miner chat --url {server.url} -m m > {out}"
    with Terminal(tmp_path, "--version") as terminal:
        terminal.end()
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", command], stdin=slave, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path),
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"Hi\nAgain\n/exit\n")
    _, errors = process.communicate(timeout=LONG)
    os.close(master)
    assert process.returncode == 0
    assert out.read_text() == "Some **bold** text.\nSome **bold** text.\n"
    assert len(server.bodies) == 2
    assert b">>> " in errors
