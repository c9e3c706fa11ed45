"""docs/cli-reference.md is what the parsers say."""

from tests.cli.reference import PAGE, page


def test_the_reference_is_up_to_date():
    assert PAGE.read_text() == page(), "write it anew: python -m tests.cli.reference"
