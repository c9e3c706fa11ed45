"""What a command does that does not let itself be stopped. How signals stop a generation: commands/test_generate.py."""

import signal

import pytest

from tests.cli.conftest import LONG

pytestmark = pytest.mark.process

STUBBORN = """
import asyncio, sys
import miner.cli.signals as signals
signals._GRACE_SECONDS = 0.2
async def main(_):
    print("on", flush=True)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            print("no", flush=True)
sys.exit(signals.run_until_stopped(main))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_let_itself_be_stopped_is_ended_after_a_while(miner, number):
    script = miner.directory / "stubborn.py"
    script.write_text(STUBBORN)
    process = miner.start_script(script)
    assert process.stdout.readline() == b"on\n"
    process.send_signal(number)
    assert process.wait(LONG) == 128 + number
    assert process.stdout.read() == b"no\n"
