"""JSON that anybody may have written."""

import pytest

from miner.cli.json_value import loads


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '"\\ud800"', "NaN", "1e", "", "9" * 5000, b"\xff"])
def test_what_cannot_be_used_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_the_rest_is_read():
    assert loads(b'{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}
