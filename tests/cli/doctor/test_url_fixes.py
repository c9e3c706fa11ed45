"""What `miner doctor --url` says to do about a server that is there and wrong: no setting fixes it."""

import re

import pytest

from tests.cli.doctor.examine import examine
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("behaviour", "name", "fix"),
    [
        (faults.garbage_http(everywhere=True), "node", r"curl -v --max-time 10 http://127\.0\.0\.1:\d+/livez"),
        (faults.html_page(200, everywhere=True), "node: model", r"curl -i http://127\.0\.0\.1:\d+/v1/models"),
        (faults.status(401, everywhere=True), "node: key", r"miner doctor --url http://127\.0\.0\.1:\d+ --key -"),
        (faults.no_end(), "node: probe chat", r"curl -i http://127\.0\.0\.1:\d+/v1/models"),
    ],
)
def test_the_line_for_a_server_that_is_wrong(miner, behaviour, name, fix):
    with in_thread(FaultServer(behaviour)) as server:
        address = server.url.removesuffix("/v1").replace("//", "//user:word-of-login@")
        found = examine(miner, "--url", address)
    assert re.fullmatch(fix, found.row(name, "problem")["fix"]), found.checks
    assert "word-of-login" not in found.text + found.err


def test_the_line_where_nobody_listens(miner):
    port = closed_port()
    found = examine(miner, "--url", f"http://127.0.0.1:{port}")
    assert found.row("node", "problem")["fix"] == f"miner serve --port {port}"
