"""The live view, in a terminal and without one; and that measuring does not feel it."""

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]
SECONDS = 120


def command(requests, seconds, mode="show"):
    return [sys.executable, "-m", "tests.cli.bench.live_program", str(requests), str(seconds), mode]


def in_terminal(arguments, columns, **environment):
    """The screens of a program that has a terminal: all that were seen, and the last one."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        arguments, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)} | environment,
    )  # fmt: skip
    os.close(theirs)
    screen = pyte.Screen(columns, 24)
    stream, seen, ends = pyte.ByteStream(screen), [], time.monotonic() + SECONDS
    try:
        while time.monotonic() < ends:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(ours, 65536)
            except OSError:  # the child has ended
                break
            stream.feed(data)
            seen.append("\n".join(line.rstrip() for line in screen.display).rstrip())
        assert child.wait(timeout=SECONDS) == 0
    finally:
        child.kill()
        os.close(ours)
    return seen


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_how_far_it_is_and_keeps_one_line_a_run(columns):
    seen = in_terminal(command(32, 0.2), columns)
    running = [screen for screen in seen if "in flight" in screen and "TTFT p50" in screen]
    assert running
    assert any(re.search(r"concurrency 2( \(run 1 of 2\))?.* \d+/32", screen) for screen in running)
    assert any(re.search(r"\d+ done, [1-9] failed", screen) for screen in running)
    assert any(re.search(r"tokens/s +[▁-█]+", screen) for screen in running)
    last = " ".join(seen[-1].split("\n"))
    assert "in flight" not in last, "what was drawn is erased"
    assert "concurrency 4 (run 2 of 2): 28 done" in last or columns == 40
    assert "overloaded" in last.replace(" ", "").replace("\n", "")


def test_nothing_is_redrawn_without_a_terminal():
    done = subprocess.run(
        command(8, 0.05), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True
    )  # fmt: skip
    assert "\x1b" not in done.stderr
    assert "concurrency 2 (run 1 of 2): 8 requests\n  7 done in " in done.stderr
    assert "1 failed (1 overloaded), 321 tokens/s, TTFT p50 50.0 ms\n" in done.stderr, "the figures of the result"
    assert "in flight" not in done.stdout


def test_quiet_shows_nothing():
    done = subprocess.run(
        command(8, 0.05, "quiet"), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True
    )  # fmt: skip
    assert done.stderr == ""


def test_no_color_and_a_terminal_that_knows_nothing():
    assert "\x1b[31m" not in "".join(in_terminal(command(8, 0.05), 80, NO_COLOR="1"))
    screens = in_terminal(command(8, 0.05), 80, TERM="dumb")
    assert "run 1 of 2): 8 requests" in screens[-1]


def test_measuring_does_not_feel_it():
    """In the median it keeps the event loop for less than a millisecond; a draw takes a fraction of one."""
    late = in_terminal(command(32, 0.2), 120)[-1]
    found = re.search(r"lag p50 ([\d.]+) ms", late)
    assert found is not None
    assert float(found.group(1)) < 1
