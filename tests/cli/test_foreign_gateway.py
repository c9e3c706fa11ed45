"""Commands over the admin routes of something that answers 200 and is no gateway."""

import json

import pytest

from tests.servers.http import RawServer, ResponseWriter
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

COMMANDS = ["ps", "top --once", "logs", "logs x", "logs -f", "load x", "unload x", "stop x", "version"]


class Foreign(RawServer):
    """Answers everything with one body."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    async def handle(self, writer: ResponseWriter) -> None:
        body = self.body
        if "follow" in writer.request.query:
            body = b"event: log\nid: 1\ndata: " + body.replace(b"\n", b" ") + b"\n\n"
        await writer.respond(200, body)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "body",
    [b"null", b"[1, 2]", b"[" * 100_000, b'{"models": {"x": {}}}'],
    ids=["null", "list", "deep", "object"],
)
def test_it_is_said_and_is_no_bug(miner, command, body):
    if command == "logs -f" and body.startswith(b"{"):
        body = b"[]"  # any object may be an entry
    with in_thread(Foreign(body)) as server:
        done = miner(*command.split(), "--url", server.url, "--json")
        assert "has no admin routes" in done.stderr.decode(), done.stderr.decode()
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["exit_code"] == 1
