"""The screen, the JSON and the exit status: many things wrong at once, narrow terminals, no secret anywhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

from miner.config.config import MinerConfig
from miner.config.sources import variable_of
from miner.gateway.settings import GatewaySettings
from tests.cli.conftest import LONG, environment
from tests.cli.doctor.examine import examine
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

SECRETS = {
    "VLLM_API_KEY": "vllm-Secret-1111",
    "LLAMACPP_API_KEY": "llama-Secret-2222", "MINER_OPENAI_API_KEY": "oai-Secret-3333",
    "HF_TOKEN": "hf_Secret4444", "MINER_API_KEYS": "client-Secret-5555-aaaa,client-Secret-6666-bbbb",
    "HTTP_PROXY": "http://proxyuser:proxy%2FSecret7777@127.0.0.1:9",
    "HTTPS_PROXY": "http://tokenonly8888Secret@127.0.0.1:9",
    "OLLAMA_BASE_URL": "http://someone:ollama-Secret-9999@127.0.0.1:9", "AWS_SECRET_ACCESS_KEY": "aws-Secret-0000",
    "SOME_SERVICE_PASSWORD": "password-Secret-1212",
}  # fmt: skip
PARTS = re.compile(r"Secret|proxyuser|8888|7777")


class Hub(RawServer):
    """Refuses the token, and says which it was."""

    async def handle(self, writer: ResponseWriter) -> None:
        await writer.respond(401, {"error": f"not {writer.request.headers.get('authorization')}"})


def seven_wrong(directory, port: int) -> dict[str, str]:
    """Of Settings, Engines, Exposure, Network and Machine."""
    (directory / "miner.toml").write_text(
        f'[backends.gpu]\nkind = "vllm"\nurl = "http://127.0.0.1:{port}/v1"\n'
        '[models.q]\nbackend = "gpu"\nname = "Qwen"\n'
        '[models.lost]\nbackend = "llamacpp"\nfile = "demo"\ncontext = 512\n'
    )
    (directory / ".env").write_text("LLAMACPP_PARALLEL=lots\nMINER_SRVE_PORT=9\n")
    (directory / "file").write_text("")
    return {
        "MINER_API_KEYS": "changemechangeme", "MINER_SERVE_TRUSTED_PROXIES": "0.0.0.0/0",
        "SSL_CERT_FILE": "/nowhere.pem", "MODELS_DIR": str(directory / "file" / "models"),
    }  # fmt: skip


WRONG = ("LLAMACPP_PARALLEL", "MINER_SRVE_PORT", "gpu", "lost: context", "API keys", "proxies in front",
         "SSL_CERT_FILE", "disk: models")  # fmt: skip


def test_seven_things_wrong_at_once(miner, tmp_path):
    found = examine(miner, "--no-probe", **seven_wrong(tmp_path, closed_port()))
    for name in WRONG:
        assert found.row(name, "problem")["fix"], name
    assert found.status == 1
    assert found.summary["problem"] >= 7
    assert found.summary["first"] == {
        "name": "LLAMACPP_PARALLEL", "fix": "sed -i.bak '/^LLAMACPP_PARALLEL=/d' .env"
    }  # fmt: skip


def test_the_screen_has_them_all_and_what_to_do_first(miner, tmp_path):
    done = miner("doctor", "--no-probe", HF_HUB_OFFLINE="1", **seven_wrong(tmp_path, closed_port()))
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (1, b"")
    assert out.count("\n problem ") >= 7
    assert re.search(r"^\d+ problems(, \d+ notes?)? \(\d+ ok, \d+ skipped\)$", out, re.MULTILINE)
    assert out.endswith("First: LLAMACPP_PARALLEL\n  -> sed -i.bak '/^LLAMACPP_PARALLEL=/d' .env\n")
    assert "\x1b" not in out


def test_strict_counts_notes(miner):
    settings = {"MINER_NOTHING_LIKE_IT": "1", "HF_HUB_OFFLINE": "1", "MINER_SERVE_PORT": str(closed_port())}
    assert miner("doctor", "--no-probe", **settings).returncode == 0
    assert miner("doctor", "--no-probe", "--strict", **settings).returncode == 1


def test_verbose_shows_what_was_seen_and_quiet_only_what_is_wrong(miner):
    verbose = miner("doctor", "--no-probe", "-v", HF_HUB_OFFLINE="1").stdout.decode()
    assert re.search(r"^ +executable: ", verbose, re.MULTILINE)
    quiet = miner("doctor", "--no-probe", "-q", HF_HUB_OFFLINE="1", MINER_NOTHING_LIKE_IT="1").stdout.decode()
    assert "MINER_NOTHING_LIKE_IT" in quiet
    assert " ok " not in quiet.partition("(")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "nowhere"], "must start with http://"), (["--key", "k"], "--key is for --url"),
        (["--timeout", "soon"], "--timeout soon"), (["--url", "http://h", "--config", "x"], "exclude"),
        (["--config", "x", "--backend", "vllm"], "exclude"), (["extra"], "Unexpected argument"),
    ],
)  # fmt: skip
def test_usage(miner, arguments, words):
    done = miner("doctor", *arguments)
    assert done.returncode == 2
    assert words in done.stderr.decode()


@pytest.mark.parametrize("arguments", [["--json"], ["-v"], ["-v", "--json", "--debug"]])
def test_no_secret_is_shown(miner, tmp_path, arguments):
    with in_thread(StubServer(api_key="right")) as server, in_thread(Hub()) as hub:
        (tmp_path / "keyfile").write_text("keyfile-Secret-1313\n")
        (tmp_path / "miner.toml").write_text(
            f'[backends.a]\nkind = "vllm"\nurl = "{server.v1}"\nplain_key = "plain-Secret-1414"\n'
            f'[backends.b]\nkind = "openai"\nurl = "{server.v1}"\nkey_file = "keyfile"\n'
            '[backends.c]\nkind = "vllm"\ncommand = ["serve", "--api-key", "command-Secret-1515"]\nwrong = 1\n'
        )
        for config in ({}, {"LLM_BACKEND": "vllm", "MINER_LLM_FALLBACKS": "ollama,openai,llamacpp"}):
            settings = SECRETS | config | {
                "VLLM_API_BASE": server.v1, "MINER_OPENAI_API_BASE": server.v1.replace("//", "//usr:url-Secret-1616@"),
                "LLAMACPP_API_BASE": server.url, "HF_HUB_OFFLINE": "", "HF_ENDPOINT": hub.url,
            }  # fmt: skip
            done = miner("doctor", *arguments, **settings)
            assert done.returncode == 1
            text = (done.stdout + done.stderr).decode()
            assert not PARTS.search(text), [line for line in text.splitlines() if PARTS.search(line)]
            assert "***" in text


def test_all_secret_settings_are_scanned():
    """A secret setting that is new has to be in SECRETS."""
    names = {
        variable_of(name) for cls in (MinerConfig, GatewaySettings) for name, field in cls.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }  # fmt: skip
    assert names <= set(SECRETS)


def on_terminal(directory, columns: int, *arguments: str, **settings: str) -> tuple[pyte.Screen, bytes, int]:
    """Run it on a terminal of so many columns; the screen, all that was written, and the exit status."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 400, columns, 0, 0))
    env = environment(directory, HF_HUB_OFFLINE="1", TERM="xterm-256color", **settings)
    del env["COLUMNS"]
    process = subprocess.Popen(
        [sys.executable, "-m", "miner", "doctor", *arguments], stdin=slave, stdout=slave, stderr=slave, cwd=directory,
        env=env, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    written, end = b"", time.monotonic() + LONG
    while time.monotonic() < end:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(master)
    status = process.wait(LONG)
    screen = pyte.Screen(columns, 400)
    pyte.ByteStream(screen).feed(written)
    return screen, written, status


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_of_any_width(tmp_path, columns):
    settings = seven_wrong(tmp_path, closed_port())
    screen, written, status = on_terminal(tmp_path, columns, "--no-probe", **settings)
    assert status == 1
    lines = [line.rstrip() for line in screen.display if line.strip()]
    text = "\n".join(lines)
    assert lines[0] == "Settings"  # the status line is gone
    assert b"checking" in written
    assert b"\x1b[31mproblem\x1b[0m" in written
    assert "First: LLAMACPP_PARALLEL" in text
    for name in WRONG:
        assert name in text or name in text.replace("\n", " "), name
    plain = re.sub(rb"\x1b\[[0-9;]*[mK]|\r", b"", written).decode().splitlines()
    long = [line for line in plain if len(line) > columns and "-> " not in line and "checking" not in line]
    assert long == []


def test_no_colour(tmp_path):
    _, written, _ = on_terminal(tmp_path, 80, "--no-probe", NO_COLOR="1")
    assert not re.search(rb"\x1b\[[0-9;]*m", written)


def test_the_working_directory_is_no_secret(miner, tmp_path):
    done = miner("doctor", "--no-probe", "-v", PWD=str(tmp_path), HF_HUB_OFFLINE="1", COLUMNS="200")
    assert f"{tmp_path}/" in done.stdout.decode()
