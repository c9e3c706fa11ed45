"""`miner run hf:OWNER/REPOSITORY`: what is not here is downloaded first."""

import subprocess
import sys

import pytest

from tests.cli.chat.terminal import CTRL_D, Terminal
from tests.cli.conftest import LONG, environment
from tests.core.models.hub_server import FakeHub, start
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

SMALL = {"LLAMACPP_THREADS": "1", "LLAMACPP_PARALLEL": "1"}
NAME = "hf:owner/tiny-GGUF"


@pytest.fixture
def hub(tmp_path):
    content = write_tiny_model(tmp_path / "tiny.gguf").read_bytes()
    fake = FakeHub({"owner/tiny-GGUF": {"tiny-Q8_0.gguf": content}})
    server = start(fake)
    yield fake
    server.shutdown()
    server.server_close()


def settings(tmp_path, hub):
    return {"HF_ENDPOINT": hub.endpoint, "MODELS_DIR": str(tmp_path / "models"), **SMALL}


def test_it_is_downloaded_once(tmp_path, hub):
    def run():
        return subprocess.run(
            [sys.executable, "-m", "miner", "run", NAME, "--max-tokens", "4", "Hi"], stdin=subprocess.DEVNULL,
            capture_output=True, cwd=tmp_path, env=environment(tmp_path, **settings(tmp_path, hub)), timeout=LONG,
        )  # fmt: skip

    first, asked = run(), len(hub.requests)
    assert first.returncode == 0, first.stderr
    assert f"{NAME} is not here yet: downloading it.".encode() in first.stderr
    assert b"100 %" in first.stderr
    second = run()
    assert second.returncode == 0, second.stderr
    assert b"not here yet" not in second.stderr
    assert len(hub.requests) == asked
    unknown = subprocess.run(
        [sys.executable, "-m", "miner", "run", "hf:owner/nothing-GGUF", "Hi"], stdin=subprocess.DEVNULL,
        capture_output=True, cwd=tmp_path, env=environment(tmp_path, **settings(tmp_path, hub)), timeout=LONG,
    )  # fmt: skip
    assert unknown.returncode in (1, 2)
    assert b"nothing-GGUF" in unknown.stderr


def test_a_chat_with_a_model_that_writes_random_bytes(tmp_path, hub):
    """Bytes are its tokens, control characters among them: the screen stays whole."""
    more = settings(tmp_path, hub)
    with Terminal(
        tmp_path, "run", NAME, "--max-tokens", "400", "--seed", "3", "--temperature", "2", **more
    ) as terminal:
        terminal.wait(">>>")
        terminal.ask("Hi", "/ 2,048 (")
        terminal.ask("/stats", "The only response: ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    ours = terminal.raw.replace(b"\x1b[", b"").replace(b"\r", b"").replace(b"\n", b"").replace(b"\t", b"")
    assert not [byte for byte in ours if byte < 0x20 and byte != 0x1B]
