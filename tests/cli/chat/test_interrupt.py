"""Ctrl-C in a chat, also at the moments between a prompt and a response, in which nobody waits for it."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

import pytest

from miner.cli.chat.interrupt import Interrupted, interruptible, interrupts_kept, on_interrupt
from tests.cli.chat.terminal import CTRL_C, CTRL_D, ENTER, PATIENCE, Terminal
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.threaded import in_thread


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


async def forever():
    await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)


@contextmanager
def chatting(tmp_path, behaviour):
    """A server, and a chat with it that waits for a message."""
    with (
        in_thread(FaultServer(behaviour, models=["m"])) as server,
        Terminal(tmp_path, "chat", "--url", server.url) as terminal,
    ):
        terminal.wait(">>>")
        yield server, terminal


def wait_for_requests(server, terminal, path=None):
    end = time.monotonic() + PATIENCE
    while not any(path in (None, request.path) for request in list(server.requests)):
        terminal.read(0.02)
        assert time.monotonic() < end, terminal.text


@pytest.mark.process
async def test_one_between_two_blocks_is_for_the_next():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_kept():
        interrupt()
        await asyncio.sleep(0)
        with pytest.raises(Interrupted):
            await interruptible(forever())
        assert await interruptible(asyncio.sleep(0.01, "next")) == "next"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.process
async def test_one_at_the_very_end_takes_nothing_away():
    async def done():
        interrupt()
        return "all of it"

    with interrupts_kept():
        assert await interruptible(done()) == "all of it"
        with pytest.raises(Interrupted):
            await interruptible(forever())


@pytest.mark.process
async def test_one_between_two_blocks_is_for_one_of_them():
    stopped = []

    async def command():
        try:
            await interruptible(forever())
        except Interrupted:
            stopped.append("the response in the command")

    with interrupts_kept():
        interrupt()
        await asyncio.sleep(0)
        await interruptible(command())
        assert await interruptible(asyncio.sleep(0.05, "next")) == "next"
    assert stopped == ["the response in the command"]


@pytest.mark.process
async def test_the_innermost_block_gets_it():
    got = []

    def call():
        got.append("inner")
        return True

    async def outer():
        with on_interrupt(call):
            interrupt()
            await asyncio.sleep(0.01)
        interrupt()
        await forever()

    with pytest.raises(Interrupted):
        await interruptible(outer())
    assert got == ["inner"]


@pytest.mark.process
def test_a_load_whose_model_is_looked_for_can_be_stopped(tmp_path):
    with chatting(tmp_path, faults.ok(["Fine."])) as (server, terminal):
        terminal.ask("/save one", "Saved 0 messages")
        (file,) = tmp_path.rglob("one.json")
        file.write_text(file.read_text().replace('"m"', '"another"'))
        server.behaviour = faults.silent()
        server.requests.clear()
        terminal.ask("/load one", "Loaded one")
        wait_for_requests(server, terminal)
        terminal.type(CTRL_C)
        terminal.wait("The model stays m.")
        server.behaviour = faults.ok(["Fine."])
        terminal.ask("Hi", "Fine.")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


@pytest.mark.process
@pytest.mark.parametrize("command", ["/tools pipe", "/json pipe", "/image pipe", "/image URL/silent.png"])
def test_what_a_command_waits_for_can_be_left(tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    with chatting(tmp_path, faults.ok()) as (server, terminal):
        server.behaviour = faults.silent()
        terminal.type(command.replace("URL", server.url) + ENTER)
        terminal.wait(lambda shown: shown.count(">>>") == 1 and command.split()[0] in shown)
        if "URL" in command:
            wait_for_requests(server, terminal, "/silent.png")
        else:
            time.sleep(0.3)  # whichever comes first, nothing else happens
        terminal.type(CTRL_C)
        terminal.wait("(stopped)")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


@pytest.mark.process
def test_a_key_that_is_held_stops_the_response_and_keeps_the_chat(tmp_path):
    words = faults.slow(0.0, ["word "] * 500, between=0.05)
    with chatting(tmp_path, words) as (server, terminal):
        terminal.ask("Hi", "word word")
        for _ in range(20):
            terminal.type(CTRL_C)
            terminal.read(0.03)
        terminal.wait("(stopped")
        server.behaviour = faults.ok(["Fine."])
        time.sleep(1)
        terminal.ask("Again", "Fine.")


@pytest.mark.process
@pytest.mark.parametrize("size", [2_000, 50_000])
def test_ctrl_c_is_not_behind_a_paste_in_a_response(tmp_path, size):
    """The terminal's own queue has room for 4095 bytes."""
    words = faults.slow(0.0, ["word "] * 500, between=0.05)
    with chatting(tmp_path, words) as (server, terminal):
        terminal.ask("Hi", "word word")
        paste_all(terminal, "a line of the paste\r" * (size // 20))
        terminal.read(0.5)
        terminal.type(CTRL_C)
        terminal.wait("(stopped")
        time.sleep(1)
        server.behaviour = faults.ok(["Fine."])
        terminal.ask("Again", "Fine.")
        messages = server.generations[-1].json["messages"]
    assert messages[-1]["content"] == "Again"
    assert len(server.generations) == 2


@pytest.mark.process
def test_what_is_typed_and_pasted_in_a_response_is_for_the_next_prompt(tmp_path):
    words = faults.slow(0.0, ["word "] * 30, between=0.1)
    with chatting(tmp_path, words) as (server, terminal):
        terminal.ask("Hi", "word word")
        terminal.type("About this: ")
        terminal.paste("one\rtwo\rthree")
        terminal.wait("tokens/s")
        server.behaviour = faults.ok(["Fine."])
        terminal.type(ENTER)
        terminal.wait("Fine.")
    assert server.generations[-1].json["messages"][-1]["content"] == "About this: one\ntwo\nthree"


@pytest.mark.process
def test_a_line_that_is_typed_before_the_chat_is_there_is_sent(tmp_path):
    with (
        in_thread(FaultServer(faults.ok(["Fine."]), models=["m"])) as server,
        Terminal(tmp_path, "chat", "--url", server.url) as terminal,
    ):
        terminal.type("Hello" + ENTER)
        terminal.wait("Fine.")
    assert server.generations[-1].json["messages"][-1]["content"] == "Hello"


def paste_all(terminal, text):
    """Paste more than a terminal takes at once, as a terminal does: what it does not take now, it writes later."""
    data = f"\x1b[200~{text}\x1b[201~"
    end = time.monotonic() + PATIENCE
    for start in range(0, len(data), 500):
        while not terminal.writable():
            terminal.read(0.02)
            assert time.monotonic() < end, terminal.text
        terminal.type(data[start : start + 500])


@pytest.mark.process
@pytest.mark.parametrize("pause", [0.6, 0.7, 1.0])
def test_two_signals_leave(tmp_path, pause):
    """Not as keys: a prompt that is about to end has the terminal for itself and would keep them."""
    with chatting(tmp_path, faults.ok()) as (_, terminal):
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait("Ctrl-D or /exit leaves")
        time.sleep(pause)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
