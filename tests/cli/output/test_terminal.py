"""What the status line says of the engine's progress."""

import pytest

from miner.cli.output.terminal import describe_progress
from miner.core.wire import Progress


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(1, 3, "queue"), "waiting for a free slot, 2 ahead"),
        (Progress(0, 0, "queue"), "starting the engine"),
        (Progress(50, 200, "load"), "loading the model: 25 %"),
        (Progress(0, 0, "load"), "loading the model: 0 %"),
        (Progress(512, 1531), "processing the prompt: 512 of 1531 tokens"),
    ],
)
def test_progress_in_words(progress, said):
    assert describe_progress(progress) == said
