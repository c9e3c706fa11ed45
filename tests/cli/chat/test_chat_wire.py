"""`miner chat` on a terminal against a server on the wire: what is shown, and what is sent."""

import json
import os
import stat
import time

import pytest

from tests.cli.chat.terminal import ALT_ENTER, CTRL_C, CTRL_D, UP, Terminal
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


def chat(tmp_path, server, *arguments, **settings):
    return Terminal(tmp_path, "chat", "--url", server.url, *arguments, **settings)


def said(server, number=-1):
    """The messages of a request."""
    return server.bodies[number]["messages"]


def test_it_says_what_it_talks_to_and_keeps_the_conversation(tmp_path):
    with in_thread(StubServer(reply="Hello there.")) as server, chat(tmp_path, server) as terminal:
        shown = terminal.wait(">>>")
        assert "m · " in shown
        assert server.url in shown
        assert "context 2,048" in shown
        assert "Ctrl-C stops" in shown
        assert "Ctrl-D leaves" in shown
        terminal.ask("Hi", "2,048 (")
        terminal.ask("And now?", "2,048 (")
        assert said(server) == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello there."},
            {"role": "user", "content": "And now?"},
        ]
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_markdown_is_drawn(tmp_path):
    text = (
        "# Head\n\nSome **bold** text.\n\n1. one\n2. two\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    with in_thread(StubServer(reply=text)) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        shown = terminal.ask("Hi", "2,048 (")
    assert "# Head" not in shown
    assert "**" not in shown
    assert "```" not in shown
    lines = shown.split("\n")
    assert "Some bold text." in lines
    assert " 1. one" in lines
    assert "── python" in shown
    assert "x = 1" in lines


@pytest.mark.parametrize("columns", [40, 200])
def test_narrow_and_wide(tmp_path, columns):
    text = "word " * 60 + "\n\n| name | what it means, at some length |\n|---|---|\n| x | " + "long " * 20 + "|\n"
    with in_thread(StubServer(reply=text)) as server, chat(tmp_path, server, columns=columns) as terminal:
        terminal.wait(">>>")
        shown = terminal.ask("Hi", "2,048 (")
        assert shown.count("word") == 60
        assert shown.count("long") == 20
        shown = terminal.ask("/help", "a space before it")
    assert all(len(line) <= columns for line in shown.split("\n"))


def test_no_color_has_no_colour(tmp_path):
    text = "Some **bold** `code`.\n\n```python\ndef f(): pass\n```\n"
    with in_thread(StubServer(reply=text)) as server, chat(tmp_path, server, NO_COLOR="1") as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "2,048 (")
        terminal.type(CTRL_D)
        terminal.end()
    codes = {code for part in terminal.raw.split(b"\x1b[")[1:] for code in part.partition(b"m")[0].split(b";")}
    assert not codes & {b"%d" % number for number in [*range(30, 38), *range(40, 48), *range(90, 98), 38, 48]}


@pytest.mark.parametrize("plain", [[], ["--plain"]])
def test_control_characters_of_a_model_never_reach_the_terminal(tmp_path, plain):
    nasty = "safe\x1b]0;owned\x07 \x1b[2J\x1b[31m \x9b1m \x9d0;t\x9c \x08\x08 end \u202eabc \x00"
    reply = [delta(content=nasty), delta(reasoning_content="r\x1b]52;c;AAAA\x07"), finish(), usage_chunk()]
    with in_thread(StubServer(reply=reply)) as server, chat(tmp_path, server, *plain) as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "2,048 (")
    for bad in (b"\x1b]0;owned", b"\x1b[2J", b"\x1b[31m ", b"\x1b]52", "\x9b".encode(), "\x9d".encode(), b"\x07"):
        assert bad not in terminal.raw, bad
    assert "\u202e".encode() not in terminal.raw
    assert b"\x00" not in terminal.raw


def test_reasoning_is_apart_and_can_be_hidden(tmp_path):
    reply = [delta(reasoning_content="Let me think.\nAgain."), delta(content="Four."), finish(), usage_chunk()]
    with in_thread(StubServer(reply=reply)) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        shown = terminal.ask("Hi", "2,048 (")
        assert "│ Let me think.\n│ Again." in shown
        terminal.ask("/set hide_reasoning", "hide_reasoning is on")
        shown = terminal.ask("Hi", "2,048 (")
        assert shown.count("Let me think") == 1
        assert shown.count("Four.") == 2
    assert "Let me think" not in json.dumps(server.bodies)


def test_several_lines_are_one_message(tmp_path):
    with in_thread(StubServer()) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        terminal.ask(f"one{ALT_ENTER}two", "2,048 (")
        assert said(server)[-1]["content"] == "one\ntwo"
        terminal.type('"""first\r')
        terminal.type("second\r")
        terminal.ask('third"""', "2,048 (")
        assert said(server)[-1]["content"] == "first\nsecond\nthird"
        terminal.paste("a\r\nb\r\n/help\r\nc")
        terminal.ask("", "2,048 (")
        assert said(server)[-1]["content"].split("\n") == ["a", "b", "/help", "c"]
    assert len(server.bodies) == 3


def test_history_goes_on_in_the_next_chat_in_a_private_file(tmp_path):
    with in_thread(StubServer()) as server:
        for line in ("first question", None):
            with chat(tmp_path, server) as terminal:
                terminal.wait(">>>")
                if line is None:
                    terminal.type(UP)
                    terminal.wait("first question")
                    terminal.ask("", "2,048 (")
                else:
                    terminal.ask(line, "2,048 (")
                terminal.type(CTRL_D)
                terminal.end()
    assert said(server)[-1]["content"] == "first question"
    (file,) = tmp_path.rglob("history")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_ctrl_c_stops_a_response_and_keeps_the_chat(tmp_path):
    words = faults.slow(0.0, ["word "] * 500, between=0.05)
    with in_thread(FaultServer(words, models=["m"])) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "word word")
        terminal.type(CTRL_C)
        terminal.wait("(stopped")
        server.behaviour = faults.ok(["Fine."])
        terminal.ask("Again", "Fine.")
        messages = server.generations[-1].json["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"].startswith("word word")


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave_and_the_second_leaves(tmp_path):
    with in_thread(StubServer()) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        terminal.type("half a line" + CTRL_C)
        terminal.wait(lambda shown: shown.count(">>>") == 2)
        time.sleep(1)
        terminal.type(CTRL_C)
        terminal.wait("Ctrl-D or /exit leaves")
        time.sleep(1)
        terminal.type(CTRL_C)
        assert terminal.end() == 0
    assert server.bodies == []


def test_an_unknown_command_is_guessed_and_not_sent(tmp_path):
    with in_thread(StubServer()) as server, chat(tmp_path, server) as terminal:
        terminal.wait(">>>")
        terminal.ask("/modle", "Did you mean /model?")
        terminal.ask("/regenerate", "Did you mean /retry?")
        terminal.ask("/frobnicate x", "/help lists the commands.")
        assert server.bodies == []
        terminal.ask(" /etc/passwd is what?", "2,048 (")
    assert said(server)[-1]["content"] == " /etc/passwd is what?"


@pytest.mark.parametrize(
    ("behaviour", "shown"),
    [
        (faults.status(503, {"error": {"message": "Down."}}), "Down."),
        (faults.truncated(["Half an "]), "miner: "),
        (faults.reset(), "miner: "),
    ],
)
def test_a_failure_is_shown_and_the_message_can_be_sent_again(tmp_path, behaviour, shown):
    served = FaultServer(behaviour, models=["m"])
    with in_thread(served) as server, chat(tmp_path, server, BACKEND_RETRIES="0") as terminal:
        terminal.wait(">>>")
        text = terminal.ask("Hi", "/retry sends it again")
        assert shown in text
        server.behaviour = faults.ok(["Better."])
        terminal.ask("/retry", "Better.")
        assert server.generations[-1].json["messages"] == [{"role": "user", "content": "Hi"}]


def test_what_had_come_before_a_failure_stays_in_the_conversation(tmp_path):
    served = FaultServer(faults.truncated(["Half an ", "answer"]), models=["m"])
    with in_thread(served) as server, chat(tmp_path, server, BACKEND_RETRIES="0") as terminal:
        terminal.wait(">>>")
        text = terminal.ask("Hi", "Your message is kept: /retry sends it again.")
        assert "What had come stays in the conversation." in text
        server.behaviour = faults.ok(["Better."])
        terminal.ask("go on", "Better.")
        messages = server.generations[-1].json["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"] == "Half an answer"


def test_retry_replaces_what_had_come_before_a_failure(tmp_path):
    served = FaultServer(faults.truncated(["Half an ", "answer"]), models=["m"])
    with in_thread(served) as server, chat(tmp_path, server, BACKEND_RETRIES="0") as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "/retry sends it again")
        server.behaviour = faults.ok(["Whole."])
        terminal.ask("/retry", "Whole.")
        assert server.generations[-1].json["messages"] == [{"role": "user", "content": "Hi"}]
        terminal.ask("Next", lambda shown: shown.count("Whole.") == 2)
        contents = [each["content"] for each in server.generations[-1].json["messages"]]
        assert contents == ["Hi", "Whole.", "Next"]


def test_nothing_is_kept_of_a_response_that_never_began(tmp_path):
    refused = faults.status(503, {"error": {"message": "Down."}})
    served = FaultServer(refused, models=["m"])
    with in_thread(served) as server, chat(tmp_path, server, BACKEND_RETRIES="0") as terminal:
        terminal.wait(">>>")
        assert "What had come" not in terminal.ask("Hi", "/retry sends it again")
        server.behaviour = faults.ok(["Fine."])
        terminal.ask("Else", "Fine.")
        assert server.generations[-1].json["messages"] == [{"role": "user", "content": "Else"}]


def test_a_slash_alone_is_no_message(tmp_path):
    with in_thread(StubServer()) as server, chat(tmp_path, server) as terminal:
        shown = terminal.wait(">>>")
        before = shown.count("/help lists the commands.")
        terminal.ask("/", lambda shown: shown.count("/help lists the commands.") == before + 1)
        assert server.bodies == []


def test_a_conversation_that_is_missing_at_the_start_gets_no_word_of_models(tmp_path):
    with in_thread(StubServer()) as server, chat(tmp_path, server, "--load", "nosuch") as terminal:
        assert terminal.end() == 2
        assert "Saved are: none." in terminal.text
        assert "/model" not in terminal.text


def test_a_stream_that_is_lost_is_told_in_words_for_people(tmp_path):
    served = FaultServer(faults.truncated(["Half an "]), models=["m"])
    with in_thread(served) as server, chat(tmp_path, server, BACKEND_RETRIES="0") as terminal:
        terminal.wait(">>>")
        text = " ".join(terminal.ask("Hi", "/retry sends it again").split())
        assert "What had come stays in the conversation. Your message is kept" in text
        assert "`partial`" not in text


def test_an_unreachable_server_ends_with_its_error(tmp_path):
    with Terminal(tmp_path, "chat", "--url", "http://127.0.0.1:9") as terminal:
        assert terminal.end() == 1
    assert "miner: " in terminal.text
    assert "--url" in terminal.text or "127.0.0.1:9" in terminal.text
