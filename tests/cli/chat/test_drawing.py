"""How a response is drawn while it arrives: once what is finished, again only what is open."""

import asyncio
import re

import pyte
import pytest

from miner.cli.chat.blocks import Blocks
from miner.cli.chat.render import Renderer
from miner.cli.chat.screen import Screen, rows_of
from miner.cli.chat.view import MarkdownView
from tests.cli.chat.terminal import Terminal
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

TEXTS = {
    "prose": "".join(f"Sentence {n} of this long text goes on." + ("\n\n" if n % 6 == 5 else " ") for n in range(160)),
    "lines": "".join(f"Line number {n} of a text without any blank line.\n" for n in range(160)),
    "list": "".join(f"{n}. item **number** {n}\n   - below it\n" for n in range(1, 120)),
    "code": "```python\n" + "".join(f"def function_{n}(x):  # why\n    return {n}\n" for n in range(120)) + "```\n",
    "mixed": ("# Head\n\nSome *text*.\n\n- a\n- b\n\n```js\nlet x = 1\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n> said\n\n") * 12,
}  # fmt: skip


def pieces_of(text: str) -> list[str]:
    """Pieces of six characters."""
    return [text[at : at + 6] for at in range(0, len(text), 6)]


class PyteScreen(Screen):
    """A screen in memory; `size` may change."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.size = columns, rows
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self.stream = pyte.Stream(self.screen)
        self.bytes = 0
        self.printed: list[str] = []
        super().__init__()

    columns = property(lambda self: self.size[0])
    rows = property(lambda self: self.size[1])

    def show(self, finished, below=()) -> None:
        self.printed += finished
        super().show(finished, below)

    def _put(self, text: str) -> None:
        self.bytes += len(text)
        self.stream.feed(text.replace("\n", "\r\n"))

    @property
    def text(self) -> list[str]:
        width = self.screen.columns
        gone = ["".join(line[at].data for at in range(width)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]


def view_on(screen: Screen) -> MarkdownView:
    return MarkdownView(screen, colour=True, language=None, reasoning=True)


@pytest.mark.parametrize("name", TEXTS)
async def test_drawing_at_every_token_costs_the_same_at_the_end_as_at_the_start(name):
    """Counted in characters that are rendered, with a frame for each token, which is more than there ever are."""
    text = TEXTS[name]
    view = view_on(PyteScreen())
    costs = []
    for piece in pieces_of(text):
        before = view.renderer.rendered_characters
        view.content(piece)
        view._frame()
        costs.append(view.renderer.rendered_characters - before)
    view.end()
    quarter = len(costs) // 4
    assert sum(costs[-quarter:]) < 2.5 * sum(costs[:quarter]) + 40_000
    assert max(costs) < 6_000


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_what_is_drawn_in_pieces_looks_as_what_is_drawn_at_once(name, columns):
    text = TEXTS[name][:3000]
    whole, pieces = PyteScreen(columns), PyteScreen(columns)
    view = view_on(whole)
    view.content(text)
    view.end()
    view = view_on(pieces)
    for at, piece in enumerate(pieces_of(text)):
        view.content(piece)
        if at % 11 == 0:
            view._frame()
    view.end()
    if name != "lines":  # a long paragraph is finished in parts
        assert "\n".join(pieces.text).rstrip() == "\n".join(whole.text).rstrip()
    assert [line for line in pieces.text if line] == [line for line in whole.text if line]


async def test_a_resize_in_the_middle_loses_nothing():
    screen = PyteScreen(100, 30)
    view = view_on(screen)
    for at, piece in enumerate(pieces_of("".join(f"word{n} " + ("\n\n" if n % 20 == 19 else "") for n in range(400)))):
        view.content(piece)
        if at % 3 == 0:
            view._frame()
        if at in (150, 300):
            screen.size = (60, 20) if at == 150 else (120, 40)
            screen.screen.resize(screen.size[1], screen.size[0])
    view.end()
    shown = " ".join(screen.printed).split()
    assert shown == [f"word{n}" for n in range(400)]


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("a" * 100, 2),
        ("界" * 50, 2),
        ("a" + "界" * 49 + "b", 3),  # the last cell of a row stays empty before a wide character, as in tmux
        ("\x1b[1ma\x1b[0m" + "界" * 49 + "b", 3),
        ("a" * 120, 2),  # was cut at the 100 columns in which it was drawn
        ("", 1),
    ],
)
def test_the_rows_that_a_narrower_terminal_makes_of_a_line(line, rows):
    assert rows_of(line, 100, 50) == rows


def test_wide_characters_are_erased_whole_when_the_terminal_becomes_narrower(monkeypatch):
    monkeypatch.setenv("TMUX", "x")
    screen = PyteScreen(100, 30)
    screen.show([], ["first", "a" + "界" * 49 + "b", "status"])
    screen.size = (50, 30)
    frames = []
    screen._put = frames.append
    screen.show([], ["first"])
    assert frames[0].startswith("\r\x1b[4A\x1b[J"), "two rows above the last line, and two more of the wrapped one"


async def test_tokens_that_come_fast_are_drawn_together():
    """A frame follows the last one by its time at the least, so thousands of tokens at once are a few frames."""
    screen = PyteScreen()
    view = view_on(screen)
    for number, piece in enumerate(pieces_of(TEXTS["prose"])):
        view.content(piece)
        if number % 50 == 0:
            await asyncio.sleep(0)
    view.end()
    assert screen.bytes < 3 * len(TEXTS["prose"])


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("para\n#", 0),  # may become #tag
        ("para\n\nnext\n", 1),
        ("- a\n- b\n", 1),
        ("```py\nx = 1\ny", 2),  # the beginning, and a line
        ("| a | b |\n|---|---|\n| 1 |", 0),
        ("text\n---\n", 0),
    ],
)
def test_only_what_cannot_change_is_finished(text, finished):
    blocks = Blocks()
    blocks.add(text)
    assert len(blocks.finished()) == finished


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a <vector> b", ["a <vector> b"]),
        ("<div>\nx\n</div>", ["<div>", "x", "</div>"]),
        ("one\ntwo", ["one", "two"]),
        ("[t](http://x.y)", ["t (http://x.y)"]),
        ("<http://x.y>", ["http://x.y"]),
        ("![alt](a.png)", ["alt (a.png)"]),
        ("[1]: http://x", ["[1]: http://x"]),
        ("9. nine\n10. ten", [" 9. nine", "10. ten"]),
        ("日本語 and 👩‍🚀", ["日本語 and 👩‍🚀"]),
        ("# H\ntext", ["H", "", "text"]),
        ("a\n\n\n\nb", ["a", "", "b"]),
        ("```\n  x\n```", ["─" * 60, "  x", "─" * 60]),
        ("~~~py\nx", ["── py " + "─" * 54, "x", "─" * 60]),
        ("    code", ["code"]),
        ("```all of it is on the line of the marks", ["─" * 60, "all of it is on the line of the marks", "─" * 60]),
        ("**bold", ["**bold"]),
    ],
)
def test_nothing_of_a_text_vanishes(text, lines):
    blocks, renderer = Blocks(), Renderer(80, colour=False)
    blocks.add(text)
    shown = [line for piece in blocks.finished(ended=True) for line in renderer.finished(piece)]
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown]
    assert plain == lines


@pytest.mark.process
def test_a_window_that_changes_its_size_while_a_response_comes(tmp_path):
    from tests.servers import faults
    from tests.servers.faults import FaultServer

    words = [f"word{n} " for n in range(120)]
    slow = FaultServer(faults.slow(0.0, words, between=0.02), models=["m"])
    with in_thread(slow) as server, Terminal(tmp_path, "chat", "--url", server.url, columns=100) as terminal:
        terminal.wait(">>>")
        terminal.type("Hi\r")
        terminal.wait("word20 ")
        terminal.resize(50, 16)
        terminal.wait("word60")
        terminal.resize(120, 30)
        shown = terminal.wait("2,048 (").replace("\n", " ")
    assert [n for n in range(120) if f"word{n} " not in f"{shown} "] == []


@pytest.mark.process
def test_a_table_is_drawn_at_40_columns(tmp_path):
    text = "| name | meaning |\n|---|---|\n| first | a long meaning that needs some lines |\n"
    with (
        in_thread(StubServer(reply=text)) as server,
        Terminal(tmp_path, "chat", "--url", server.url, columns=40) as terminal,
    ):
        terminal.wait(">>>")
        shown = terminal.ask("Hi", "2,048 (")
    assert "first" in shown
    assert "|" not in shown
