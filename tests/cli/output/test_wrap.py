"""Text on lines of a given width."""

import shlex

import pytest

from miner.cli.output.wrap import cell_len, fitted, wrapped

PAGE = """\
examples:
  miner generate "Why is the sky blue?" --max-tokens 100 --system 'Answer in one word.'
  git diff | miner generate "Review this."

The first paragraph has two lines that are together
too wide for a narrow terminal, with --an-option-name.

exit status:
  0    success
  130  interrupted by Ctrl-C, and some more words to wrap
"""


def test_words_stay_whole_and_cells_count():
    assert wrapped("a --long-option b", 8) == "a\n--long-option\nb"
    assert wrapped("你好 世界 x", 7, "  ") == "  你好\n  世界 x".replace("世界 x", "世界\n  x")
    assert wrapped("\x1b[31mred\x1b[0m text", 8) == "\x1b[31mred\x1b[0m text"
    assert wrapped("", 8) == ""


def test_a_page_that_fits_stays_as_it_is():
    assert fitted(PAGE, 100) == PAGE


@pytest.mark.parametrize("width", [30, 40, 60])
def test_a_page_on_a_narrow_terminal(width):
    text = fitted(PAGE, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert " ".join(text.replace("\\\n", "").split()) == " ".join(PAGE.split())
    (example,) = [line for line in text.replace("\\\n", "").splitlines() if "sky" in line]
    assert shlex.split(example) == shlex.split(PAGE.splitlines()[1])
    assert "  130  interrupted by" in text
    assert text.endswith("\n")
    if width == 30:
        assert "\n       " in text.partition("130")[2], "the list keeps its indent"
