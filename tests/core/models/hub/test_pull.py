"""Pulling from a hub on loopback: what lands, what is resumed, what is refused."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from huggingface_hub import close_session, constants, file_download
from huggingface_hub.utils import _http

from miner.core.models.hub import download
from miner.core.models.hub import pull as pulling
from miner.core.models.hub.client import Hub
from miner.core.models.hub.pull import PARTS, pull
from miner.core.models.resolve import list_local, resolve
from miner.errors import (
    AuthenticationError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendUnavailableError,
    ConfigError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
)
from tests.core.models.hub_server import FakeHub, start

SIZE = 1_000_000


@pytest.fixture
def waits():
    """Seconds that huggingface_hub would have waited."""
    return []


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path, waits):
    """No waiting between attempts, and nothing from this machine's environment."""
    monkeypatch.setattr(download, "PAUSE", 0.001)
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    for name in list(os.environ):
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield
    close_session()


@pytest.fixture
def model(gguf_bytes):
    """A valid GGUF of about a megabyte, another one for each seed."""
    return lambda seed=0: gguf_bytes(
        {"llama.context_length": 100 + seed}, {"a": (SIZE // 4,)}, data=bytes([seed]) * SIZE
    )


@pytest.fixture
def fake(model):
    hub = FakeHub({"owner/model-GGUF": {"README.md": b"x", "m-Q4_K_M.gguf": model(), "m-Q8_0.gguf": model(1)}})
    server = start(hub)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def get(fake, models):
    """Pull from the fake hub into an empty models directory."""
    return lambda ref, **options: pull(ref, models, hub=Hub(fake.endpoint), **options)


def left(models: Path) -> list[str]:
    """Files that are neither models nor locks: the locks stay, so that all wait at the same one."""
    return sorted(path.suffix for path in (models / PARTS).iterdir() if path.suffix != ".lock")


def test_what_is_pulled_is_found(get, fake, models, model):
    told = []
    found = get("hf:owner/model-GGUF", on_progress=told.append)
    assert found.path == models / "owner" / "model-GGUF" / "m-Q4_K_M.gguf"
    assert found.path.read_bytes() == model()
    assert found.alias == "owner/model-GGUF/m-Q4_K_M"
    assert resolve("owner/model-GGUF:q4_k_m", models_dir=models) == found
    assert [item.alias for item in list_local(models_dir=models)] == ["owner/model-GGUF/m-Q4_K_M", "demo"]
    assert left(models) == []
    last = told[-1]
    assert (last.stage, last.file, last.number, last.files) == ("done", "m-Q4_K_M.gguf", 1, 1)
    assert last.done == last.total == len(model())
    for stage in ("downloading", "checking"):
        done = [item.done for item in told if item.stage == stage]
        assert done == sorted(done)


@pytest.mark.parametrize("ref", ["owner/model-GGUF:q8_0", "hf:owner/model-GGUF:m-Q8_0.gguf"])
def test_a_quantization_can_be_chosen(get, models, ref):
    assert get(ref).path == models / "owner" / "model-GGUF" / "m-Q8_0.gguf"


def test_what_is_there_is_not_pulled_again(get, fake):
    first = get("hf:owner/model-GGUF")
    sent = fake.sent
    assert get("hf:owner/model-GGUF") == first
    assert fake.sent == sent


def test_what_was_replaced_or_spoiled_is_pulled_again(get, fake, model):
    path = get("hf:owner/model-GGUF").path
    path.write_bytes(b"!" * len(model()))
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    fake.repositories["owner/model-GGUF"]["m-Q4_K_M.gguf"] = model(9)
    assert get("hf:owner/model-GGUF").path.read_bytes() == model(9)


def test_all_parts_and_the_projector(get, fake, models, gguf_bytes, model):
    fake.repositories["owner/big"] = {
        "Q8_0/b-Q8_0-00001-of-00002.gguf": model(),
        "Q8_0/b-Q8_0-00002-of-00002.gguf": model(1),
        "mmproj-F32.gguf": model(2),
        "mmproj-F16.gguf": model(3),
    }
    told = []
    found = get("hf:owner/big", on_progress=told.append)
    assert [path.name for path in found.parts] == ["b-Q8_0-00001-of-00002.gguf", "b-Q8_0-00002-of-00002.gguf"]
    assert (models / "owner" / "big" / "mmproj-F16.gguf").exists()
    assert not (models / "owner" / "big" / "mmproj-F32.gguf").exists()
    assert [(item.number, item.files) for item in told if item.stage == "done"] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].done == told[-1].total == 3 * len(model())


def test_nothing_is_in_place_until_all_is_there(get, fake, models, model):
    fake.repositories["owner/big"] = {
        "b-Q8_0-00001-of-00002.gguf": model(),
        "b-Q8_0-00002-of-00002.gguf": model(1),
    }
    fake.cuts = [len(model())] + [0] * 100
    with pytest.raises(BackendUnavailableError, match="broke off at 0 of"):
        get("hf:owner/big")
    assert [item.alias for item in list_local(models_dir=models)] == ["demo"]
    fake.cuts = []
    sent = fake.sent
    assert len(get("hf:owner/big").parts) == 2
    assert fake.sent - sent == len(model())


def test_a_model_with_missing_parts_is_refused(get, fake, model):
    fake.repositories["owner/big"] = {"b-00001-of-00002.gguf": model()}
    with pytest.raises(ModelNotFoundError, match=r"b-00002-of-00002\.gguf is not there"):
        get("hf:owner/big")


def test_cuts_are_resumed(get, fake, model):
    fake.cuts = [100_000, 300_000, 0, 0, 50_000]
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    # Three whole blocks of 64 KiB at most are lost.
    assert fake.sent - len(model()) < 3 << 16
    assert [headers.get("range") for headers in fake.downloads()] == [
        None,
        "bytes=65536-",
        "bytes=327680-",
        "bytes=327680-",
        "bytes=327680-",
        "bytes=327680-",
    ]


def test_resets_are_resumed(get, fake, model):
    fake.resets = True
    fake.cuts = [100_000, 300_000, 0, 0, 50_000]
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    assert fake.downloads()[-1]["range"] is not None


def test_a_hub_without_range_requests(get, fake, model):
    fake.ranges = False
    fake.cuts = [100_000]
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()


def test_a_hub_that_fails_for_a_while(get, fake, model):
    fake.failures = [500, 503, 429]
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()


def test_a_hub_that_fails_for_good(get, fake):
    fake.failures = [503] * 100
    with pytest.raises(BackendUnavailableError, match="503"):
        get("hf:owner/model-GGUF")
    fake.failures = [429] * 100
    with pytest.raises(BackendOverloadedError) as caught:
        get("hf:owner/model-GGUF")
    assert caught.value.retry_after == 7


def test_a_wrong_hash(get, fake, models):
    fake.wrong_hash = True
    with pytest.raises(BackendProtocolError, match="arrived with the SHA-256") as caught:
        get("hf:owner/model-GGUF")
    assert caught.value.retryable
    assert left(models) == []
    assert list_local(models_dir=models)[1:] == []


def test_a_spoiled_part_is_thrown_away(get, fake, models, model):
    fake.cuts = [200_000] + [0] * 100
    with pytest.raises(BackendUnavailableError):
        get("hf:owner/model-GGUF")
    [part] = (models / PARTS).glob("*.part")
    assert part.stat().st_size == 196_608
    part.write_bytes(b"\0" * 196_608)
    fake.cuts = []
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()


def test_more_than_announced_is_not_taken(get, fake, models, model):
    fake.repositories["owner/model-GGUF"]["m-Q4_K_M.gguf"] = model()[:300_000]
    fake.more = b"!" * 200_000
    with pytest.raises(BackendProtocolError, match="larger than the announced 300000 bytes"):
        get("hf:owner/model-GGUF")
    assert max(part.stat().st_size for part in (models / PARTS).iterdir()) <= 300_000


def test_what_is_no_model_is_not_kept(get, fake, models):
    fake.repositories["owner/page"] = {"m.gguf": b"<html>" * 100}
    with pytest.raises(BackendProtocolError, match="no usable GGUF: this is not a GGUF file"):
        get("hf:owner/page")
    assert left(models) == []


def test_hashes_from_the_files_own_headers(get, fake, model):
    fake.lists_hashes = False
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    fake.wrong_hash = True
    fake.repositories["owner/model-GGUF"]["m-Q4_K_M.gguf"] = model(5)
    with pytest.raises(BackendProtocolError, match="SHA-256"):
        get("hf:owner/model-GGUF")


def test_the_token_goes_to_the_hub_alone(fake, models):
    fake.token = "hf_secret"
    pull("hf:owner/model-GGUF", models, hub=Hub(fake.endpoint, "hf_secret"))
    for _, path, headers in fake.requests:
        assert ("authorization" in headers) == (not path.startswith("/cdn/")), path
    assert len(fake.downloads()) == 1


def test_the_stored_token_is_used_and_no_more_is_told_than_needed(get, fake, tmp_path):
    fake.token = "hf_stored"
    (tmp_path / "token").write_text("hf_stored\n")
    get("hf:owner/model-GGUF")
    assert {urlsplit(path).path.split("/")[1] for _, path, _ in fake.requests} == {"api", "owner", "cdn"}
    told = {headers["user-agent"].split("/")[0] for _, _, headers in fake.requests}
    assert told == {"unknown"}, "no telemetry: neither packages nor programs are named"


@pytest.mark.parametrize(
    ("token", "gated", "status"),
    [(None, False, 401), ("hf_wrong", False, 401), (None, True, 401), ("hf_wrong", True, 403)],
)
def test_a_token_is_missing_or_refused(fake, models, token, gated, status):
    fake.token, fake.gated = "hf_right", gated
    with pytest.raises(AuthenticationError, match="HF_TOKEN") as caught:
        pull("hf:owner/model-GGUF", models, hub=Hub(fake.endpoint, token))
    assert "owner/model-GGUF" in caught.value.operator_hint
    assert caught.value.status == status
    assert ("no such repository" in (caught.value.hint or "")) == (not gated and token is None)
    assert "hf_wrong" not in "".join(traceback.format_exception(caught.value)) + repr(Hub(fake.endpoint, token))


def test_404_names_the_nearest(get, fake):
    with pytest.raises(ModelNotFoundError, match=r"Did you mean hf:owner/model-GGUF\?") as caught:
        get("hf:owner/modle-GGUF")
    assert caught.value.available == ["hf:owner/model-GGUF"]
    with pytest.raises(ModelNotFoundError, match="If it is private, set HF_TOKEN"):
        get("hf:private/model")
    with pytest.raises(ModelNotFoundError, match="fits none of the 2 models"):
        get("hf:owner/model-GGUF:Q2_K")
    fake.repositories["owner/plain"] = {"model.safetensors": b""}
    with pytest.raises(ModelNotFoundError, match="no GGUF model"):
        get("hf:owner/plain")


def test_a_renamed_repository(get, fake, model):
    fake.repositories["new/name"] = {"m.gguf": model()}
    fake.repositories["old/name"] = {"m.gguf": model()}
    assert get("hf:old/name").path.read_bytes() == model()


@pytest.mark.parametrize("ref", ["model", "hf:x", "hf:../x", "https://x.y/a/b", "hf:a/b/c"])
def test_what_is_no_reference(get, ref):
    with pytest.raises(InvalidRequestError, match="hf:owner/repo"):
        get(ref)


def test_files_that_would_leave_the_directory_are_not_there(get, fake, models, model):
    fake.repositories["owner/bad"] = {
        "../../evil.gguf": model(),
        "/evil.gguf": model(),
        "a\\..\\evil.gguf": model(),
        ".x.gguf": model(),
    }
    with pytest.raises(ModelNotFoundError, match="no GGUF model"):
        get("hf:owner/bad")
    assert not list(models.parent.rglob("*.gguf"))


def test_a_full_disk_is_seen_before(get, fake, monkeypatch):
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MinerError, match="has 64 MiB free") as caught:
        get("hf:owner/model-GGUF")
    assert "MODELS_DIR" in caught.value.operator_hint
    assert fake.sent == 0


def test_a_directory_that_cannot_be_written(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MinerError, match="cannot be written") as caught:
        pull("hf:owner/model-GGUF", tmp_path / "file", hub=Hub(fake.endpoint))
    assert "MODELS_DIR" in caught.value.operator_hint


def test_connection_to_the_hub_is_refused(models):
    with pytest.raises(BackendUnavailableError, match=r"cannot be reached.*HF_ENDPOINT"):
        pull("hf:a/b", models, hub=Hub("http://127.0.0.1:9"))


def test_read_timeout_of_the_hub(fake, models, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    fake.silent = threading.Event()
    with pytest.raises(BackendUnavailableError, match=r"broke off at 0 of .*timed out"):
        pull("hf:owner/model-GGUF", models, hub=Hub(fake.endpoint))
    fake.silent.set()


def test_an_answer_that_is_not_a_hubs(fake, models):
    fake.repositories["owner/model-GGUF"] = None
    with pytest.raises(BackendUnavailableError):
        pull("hf:owner/model-GGUF", models, hub=Hub(fake.endpoint))
    with pytest.raises(BackendProtocolError, match="Is HF_ENDPOINT"):
        pull("hf:owner/list", models, hub=Hub(f"{fake.endpoint}/api/models?search=none&x="))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used(get, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    close_session()
    with pytest.raises(ConfigError, match="The proxy that the environment names cannot be used"):
        get("hf:owner/model-GGUF")


@pytest.mark.parametrize("secret", ["hf_se\ncret", "hf_s\u00e9cret", ""])
def test_what_is_no_token_is_not_shown(secret):
    with pytest.raises(ConfigError, match="HF_TOKEN is not a token") as caught:
        Hub("https://hub.example", secret)
    assert "cret" not in str(caught.value)


def test_a_password_in_the_address_is_not_shown():
    with pytest.raises(ConfigError, match="HF_ENDPOINT holds a user name or password") as caught:
        Hub("https://user:secret@hub.example")
    assert "secret" not in str(caught.value)


def test_a_hub_that_says_to_stay_offline(get, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        get("hf:owner/model-GGUF")


def test_without_the_library(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError) as caught:
        get("hf:owner/model-GGUF")
    assert caught.value.operator_hint == 'Install it with: pip install "llm-service-backends[llamacpp]"'


def test_a_proxy_is_used(fake, models, model, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", fake.endpoint)
    close_session()
    assert pull("hf:owner/model-GGUF", models, hub=Hub("http://hub.invalid")).path.read_bytes() == model()
    assert fake.requests[0][1].startswith("http://hub.invalid/api/models/owner/model-GGUF")


PULL = """
import resource, sys
from pathlib import Path
from miner.core.models.hub.client import Hub
from miner.core.models.hub.pull import pull
if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
pull(sys.argv[1], Path(sys.argv[2]), hub=Hub(sys.argv[3]))
"""


@pytest.fixture
def in_process(fake, models):
    """Pull in a process of its own."""
    started = []

    def begin(*limit):
        """With a limit: no file can have more bytes."""
        command = [sys.executable, "-c", PULL, "hf:owner/model-GGUF", models, fake.endpoint, *limit]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def part_of(models, at_least):
    """Wait until the part has so many bytes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for part in (models / PARTS).glob("*.part"):
            if part.stat().st_size >= at_least:
                return part
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.process
def test_killed_and_resumed(in_process, fake, get, models, model):
    fake.pause = 0.02
    for goal in (100_000, 300_000):
        process = in_process()
        part = part_of(models, goal)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert goal <= part.stat().st_size < len(model())
    assert list_local(models_dir=models)[1:] == []
    have = part.stat().st_size
    fake.pause = 0
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    assert fake.downloads()[-1]["range"] == f"bytes={have}-"
    assert left(models) == []


@pytest.mark.process
def test_a_disk_that_fills_up_on_the_way(in_process, fake, get, models, model):
    process = in_process("300000")
    _, errors = process.communicate(timeout=120)
    assert "MinerError: The disk of the models directory is full. Pull again" in errors.decode()
    assert f"Make room in {models}" in errors.decode()
    assert get("hf:owner/model-GGUF").path.read_bytes() == model()
    assert fake.downloads()[-1]["range"] == "bytes=300000-"


@pytest.mark.process
def test_one_download_of_a_file_at_a_time(in_process, fake, models, model):
    fake.pause = 0.01
    processes = [in_process() for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert fake.sent == len(model())
    assert resolve("owner/model-GGUF", models_dir=models).path.read_bytes() == model()
    assert left(models) == []


@pytest.mark.process
def test_a_waiting_process_takes_over_a_dead_download(in_process, fake, get, models, model):
    fake.pause = 0.02
    process = in_process()
    part_of(models, 100_000)
    told = []
    result = []
    waiter = threading.Thread(target=lambda: result.append(get("hf:owner/model-GGUF", on_progress=told.append)))
    waiter.start()
    deadline = time.monotonic() + 60
    while not any(item.stage == "waiting" for item in told) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    waiter.join(timeout=60)
    assert result[0].path.read_bytes() == model()
    assert told[0].stage == "waiting"


@pytest.mark.process
def test_a_download_that_stands_still_is_not_waited_for(in_process, fake, get, models, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.6)
    fake.pause = 30
    in_process()
    part_of(models, 0)
    with pytest.raises(BackendUnavailableError, match="no progress"):
        get("hf:owner/model-GGUF")


def test_progress_has_speed_and_time_left(get, fake):
    fake.pause = 0.012
    told = []
    get("hf:owner/model-GGUF", on_progress=told.append)
    measured = [item for item in told if item.speed]
    assert measured
    for item in measured:
        assert item.left == pytest.approx((item.total - item.done) / item.speed)
        assert 0 < item.speed < 1e9
