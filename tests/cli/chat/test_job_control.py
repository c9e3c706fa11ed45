"""`miner chat` as a job of a shell: stopped by Ctrl-Z, continued by `fg`, and quit."""

import pytest

from tests.cli.chat.terminal import CTRL_C, CTRL_D, ENTER, Terminal
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

CTRL_Z, CTRL_BACKSLASH = "\x1a", "\x1c"

SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "miner", *sys.argv[1:]])
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpid())
    flags = termios.tcgetattr(0)
    sound = flags[0] & termios.ICRNL and flags[3] & termios.ECHO and flags[3] & termios.ICANON
    stopped = os.WIFSTOPPED(status)
    print(f"<{'stopped' if stopped else 'ended'}, {'sound' if sound else 'broken'}>", flush=True)
    if not stopped:
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
    input()
    os.tcsetpgrp(0, child)
    os.killpg(child, signal.SIGCONT)
"""


@pytest.fixture
def terminal(tmp_path):
    texts = [f"word{number} " for number in range(400)]
    with (
        in_thread(FaultServer(faults.slow(0.05, texts, between=0.05))) as server,
        Terminal(tmp_path, "chat", "--url", server.url, under=SHELL) as terminal,
    ):
        terminal.wait(">>>")
        yield terminal


def hidden(terminal):
    """Whether the cursor is."""
    return terminal.raw.rfind(b"\x1b[?25l") > terminal.raw.rfind(b"\x1b[?25h")


def test_ctrl_z_in_a_response_leaves_a_sound_terminal_and_fg_goes_on(terminal):
    terminal.type("Hi" + ENTER)
    terminal.wait("word5")
    assert hidden(terminal)
    terminal.type(CTRL_Z)
    terminal.wait("<stopped, sound>")
    assert not hidden(terminal)
    seen = len(terminal.raw)
    terminal.type("fg" + ENTER)
    terminal.wait(lambda _: terminal.raw.count(b"word", seen) > 20)
    assert "<stopped, sound>" in terminal.text  # nothing is drawn over it
    assert hidden(terminal)
    terminal.type(CTRL_C)
    terminal.wait("stopped;")
    terminal.type(CTRL_D)
    terminal.wait("<ended, sound>")
    assert terminal.end() == 0


def test_ctrl_z_at_the_prompt(terminal):
    terminal.type("half a mess" + CTRL_Z)
    terminal.wait("<stopped, sound>")
    terminal.type("fg" + ENTER)
    terminal.wait(lambda shown: "half a mess" in shown.partition("<stopped, sound>")[2])
    terminal.type(CTRL_C + CTRL_D)
    terminal.wait("<ended, sound>")
    assert terminal.end() == 0


@pytest.mark.parametrize("at", ["response", "prompt", "question"])
def test_a_chat_that_is_quit_leaves_a_sound_terminal(terminal, at):
    if at == "response":
        terminal.type("Hi" + ENTER)
        terminal.wait("word5")
    elif at == "question":
        terminal.ask("/save one", "Saved 0 messages")
        terminal.ask("/save one", "Overwrite it?")
    terminal.type(CTRL_BACKSLASH)
    terminal.wait("<ended, sound>")
    assert not hidden(terminal)
    assert terminal.end() == -3 % 256
