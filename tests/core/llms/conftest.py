"""Backends of other packages, installed for one test."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = """
    from miner.core.llms import LLMService

    class Service(LLMService):
        async def generate(self, prompt, model, max_tokens, temperature, top_p):
            return prompt.upper()
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with this module and these entry points on the import path, as an installer would."""
    modules: list[str] = []

    def put(name: str, source: str = GOOD, *, target: str | None = None, version: str = "1.2", entry: str = "") -> None:
        directory = tmp_path / name
        module = f"module_of_{name}"
        modules.append(module)
        info = directory / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (directory / f"{module}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(
            f"[inference.backends]\n{entry or name} = {target or f'{module}:Service'}\n"
        )
        monkeypatch.syspath_prepend(str(directory))

    yield put
    for module in modules:
        sys.modules.pop(module, None)
