"""The bar of a pull, on a terminal and without one."""

import io
import sys

from miner.cli.output.progress import PullBar
from miner.core.models.hub.download import PullProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with PullBar() as bar:
        bar(PullProgress("waiting", "a/m.gguf", 0, 2, 0, 4 << 30))
        bar(PullProgress("downloading", "a/m.gguf", 1, 2, 1 << 30, 4 << 30, 1 << 20, 3723.0))
    assert terminal.getvalue().replace("\r\x1b[K", "|") == (
        "\x1b[Km.gguf: waiting for another download of the same file"
        "|m.gguf (1 of 2)  [######..................]   25 %  1.00 GiB of 4.00 GiB  1.00 MiB/s  1:02:03 left\r\n"
    )
    monkeypatch.setenv("COLUMNS", "40")
    with PullBar() as bar:
        bar(PullProgress("downloading", "a/m.gguf", 1, 1, 1 << 30, 4 << 30, 1 << 20, 65.0))
    assert len(terminal.getvalue().rpartition("\x1b[K")[2].rstrip("\r\n")) == 39


def test_lines_where_there_is_no_terminal(capsys):
    with PullBar() as bar:
        for done in range(101):
            bar(PullProgress("downloading", "m.gguf", 1, 1, done, 100))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[3] == "m.gguf   30 %  30 B of 100 B"
