"""Discovery: fresh, isolated, ordered; proved with real distributions in directories on the import path."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import miner.core.llms as llms
from miner.core.llms import registry
from miner.core.llms.LLMService import LLMService
from miner.core.llms.registry import find_backends, get_backend, get_backends, load_backend
from miner.errors import ConfigError
from tests.core.llms.conftest import GOOD, Install
from tests.core.services import settings


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the built-in backends were not registered."""
    own = registry.entry_points

    def others(*, group: str) -> list[object]:
        return [point for point in own(group=group) if not point.value.startswith("miner.")]

    monkeypatch.setattr(registry, "entry_points", others)


def test_the_built_in_backends_come_first_then_the_others_by_name(install: Install):
    install("zebra")
    install("aardvark")
    install("my_llm", entry="later")
    names = [backend.name for backend in find_backends()]
    assert names == ["llamacpp", "ollama", "vllm", "openai", "pool", "aardvark", "later", "zebra"]
    found = {backend.name: backend for backend in find_backends()}
    assert (found["later"].distribution, found["later"].version) == ("my_llm", "1.2")
    assert found["later"].target == "module_of_my_llm:Service"
    assert found["ollama"].distribution == "llm-service-backends"


async def test_a_package_that_is_installed_after_the_import_is_found_on_the_next_call(install: Install):
    assert "late" not in get_backends()
    install("late")
    assert issubclass(get_backends()["late"], LLMService)
    service = get_backend("late", settings())
    assert type(service).__module__ == "module_of_late"
    assert await service.generate("hello") == "HELLO"


BROKEN = {
    "raises": ("raise RuntimeError('no luck')", None, "RuntimeError: no luck"),
    "missing": ("import torch_of_nobody.nn", None, "module 'torch_of_nobody' is missing: pip install torch_of_nobody"),
    "syntax": ("def (:", None, "SyntaxError"),
    "exits": ("raise SystemExit(3)", None, "SystemExit: 3"),
    "nothing": ("", None, "AttributeError"),
    "nomodule": ("", "no_such_module_at_all:Service", "module 'no_such_module_at_all' is missing"),
    "other": ("class Service: pass", None, "it is not a subclass of miner.core.llms.LLMService"),
    "number": ("Service = 5", None, "it is not a subclass of miner.core.llms.LLMService"),
    "needs": ("import xllamacpp_of_nobody", None, "pip install xllamacpp_of_nobody"),
    "asked": (GOOD + """
        @classmethod
        def unavailable_reason(cls, config=None):
            raise OSError("no such device")
""", None, "OSError: no such device"),
    "says": (GOOD + """
        @classmethod
        def unavailable_reason(cls, config=None):
            return "there is no GPU"
""", None, "there is no GPU"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_backend_is_skipped_with_one_warning_and_breaks_nothing(
    name: str, install: Install, caplog: pytest.LogCaptureFixture
):
    source, target, reason = BROKEN[name]
    install(name, source, target=target)
    install("fine")
    with caplog.at_level(logging.WARNING):
        names = list(get_backends())
    assert name not in names
    assert names[-1] == "fine"
    assert {"ollama", "vllm"} <= set(names)
    [warning] = [record.getMessage() for record in caplog.records if f"'{name}'" in record.getMessage()]
    assert reason in warning
    assert load_backend(name).cls is None
    assert reason in (load_backend(name).reason or "")


@pytest.mark.parametrize(
    ("module", "extra"),
    [("xllamacpp", "llamacpp"), ("llama_cpp", "llama-cpp-python"), ("vllm", "vllm")],
)
def test_a_missing_engine_package_names_the_extra(
    module: str, extra: str, install: Install, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    install("lacking", f"import {module}")
    reason = load_backend("lacking").reason or ""
    assert f"module '{module}' is missing" in reason or module in reason
    assert f'pip install "llm-service-backends[{extra}]"' in reason


def test_an_unknown_name_is_one_warning_with_the_names_and_the_first_backend(
    install: Install, alone: None, caplog: pytest.LogCaptureFixture
):
    install("beta")
    install("alpha")
    with caplog.at_level(logging.WARNING):
        service = get_backend("no-such", settings())
    assert type(service).__module__ == "module_of_alpha"
    [record] = caplog.records
    assert record.getMessage() == ("Backend 'no-such' is unknown; using 'alpha'. Available backends: alpha, beta")


def test_an_unusable_name_says_why(install: Install, alone: None, caplog: pytest.LogCaptureFixture):
    install("alpha")
    install("broken", "import torch_of_nobody")
    with caplog.at_level(logging.WARNING):
        service = get_backend("broken", settings())
    assert type(service).__module__ == "module_of_alpha"
    [record] = caplog.records
    assert "Backend 'broken' cannot be used (module 'torch_of_nobody' is missing" in record.getMessage()


def test_no_backend_at_all(alone: None):
    with pytest.raises(ValueError, match=r"^No backends available: install one, for example pip install"):
        get_backend("no-such", settings())
    assert get_backends() == {}


def test_the_name_comes_from_the_settings(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    install("fine")
    assert type(get_backend(None, settings(llm_backend="fine"))).__module__ == "module_of_fine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_BACKEND", "fine")
    assert type(get_backend()).__module__ == "module_of_fine"
    config = settings(llm_backend="fine")
    assert get_backend("vllm", config).config is config

    class Foreign:
        llm_backend = "fine"

    assert type(get_backend(config=Foreign())).__module__ == "module_of_fine"


def test_loading_by_name_never_falls_back(install: Install):
    install("fine")
    assert load_backend("fine").cls is not None
    with pytest.raises(ConfigError, match="There is no backend 'no-such'") as caught:
        load_backend("no-such")
    assert "llamacpp, ollama, vllm, openai, pool, fine" in (caught.value.operator_hint or "")


def test_one_name_twice_the_first_on_the_path_is_used(install: Install):
    install("behind", GOOD.replace("upper", "lower"), entry="twice")
    install("front", entry="twice")
    assert load_backend("twice").distribution == "front"


def test_backends_are_listed_on_first_access_only(install: Install, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(llms, "BACKENDS", raising=False)
    install("fine")
    assert set(llms.BACKENDS) == set(get_backends())
    assert llms.BACKENDS is llms.BACKENDS
    monkeypatch.delattr(llms, "BACKENDS", raising=False)
    with pytest.raises(AttributeError, match="has no attribute 'BACKEND'"):
        llms.BACKEND  # noqa: B018


@pytest.mark.process
def test_importing_loads_no_backend_and_no_engine():
    code = (
        "import sys, miner.core.llms; "
        "print([m for m in sys.modules if m.startswith('miner.core.llms.llm_') or m in "
        "('xllamacpp', 'llama_cpp', 'vllm', 'torch', 'pydantic', 'aiohttp.web')])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_points_name_wins(install: Install, alone: None) -> None:
    """The published example registers a class `NewService` as `newbackend`."""
    source = GOOD.replace("class Service", "class NewService")
    install("dist", source, entry="newbackend", target="module_of_dist:NewService")
    service = get_backend("newbackend", settings())
    assert service.name == "newbackend"
    install("other", GOOD.replace("(LLMService):", "(LLMService):\n        name = 'their-own'"), entry="second")
    assert get_backend("second", settings()).name == "second"
    assert load_backend("second").service(settings()).name == "second"
