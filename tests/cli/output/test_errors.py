"""What errors look like on standard error."""

import pytest

from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

HOSTILE = "out of luck \x1b[2J\x1b]0;owned\x07 \x9b31m"


@pytest.mark.parametrize("command", [("generate", "hi"), ("tokenize", "hi"), ("bench", "--requests", "1"), ("ps",)])
def test_what_a_server_says_in_an_error_moves_no_cursor(miner, command):
    body = {"error": {"message": HOSTILE, "type": "server_error"}}
    with in_thread(FaultServer(faults.status(500, body, everywhere=True))) as server:
        done = miner(*command, "--url", server.url.removesuffix("/v1"), MAX_RETRIES="1")
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "out of luck" in said
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
