"""`miner embed`, `rerank` and `tokenize` with a real model of each kind (`-m mixed`), in-process and at a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.live.test_mixed import WAIT, miner_serve

pytestmark = pytest.mark.mixed

TABLE = """
[defaults]
model = "smol"
context = 512
slots = 1
[models.smol]
file = "demo"
[models.vectors]
file = "{models}/minilm.gguf"
[models.ranker]
file = "{models}/ranker.gguf"
pooling = "rank"
"""


async def miner(directory: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run the command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "miner", *arguments, cwd=directory, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_STATE_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)},
    )  # fmt: skip
    async with asyncio.timeout(WAIT):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_commands_over_models_of_each_kind(tmp_path):
    models = os.environ.get("MINER_MIXED_MODELS")
    assert models, "set MINER_MIXED_MODELS to what scripts/mixed_models.py prints, or run scripts/mixed"
    async with miner_serve(tmp_path, TABLE.format(models=models)) as (url, _):
        for target in (["--url", url], ["--config", "miner.toml"]):
            similar = ["embed", *target, "-m", "vectors", "--similar", "a feline", "a car", "a cat", "--json"]
            status, out, err = await miner(tmp_path, *similar)
            assert status == 0, err
            assert [each["text"] for each in json.loads(out)["similarities"]] == ["a cat", "a car"]
            status, out, err = await miner(tmp_path, "rerank", *target, "-m", "ranker", "cats", "a dog", "a cat", "-n1")
            assert status == 0, err
            assert len(out.splitlines()) == 2
            status, out, err = await miner(tmp_path, "tokenize", *target, "-m", "vectors", "--pieces", "a cat")
            assert status == 0, err
            assert [line.split()[1] for line in out.splitlines()[1:]] == ['"[CLS]"', '"', '"', '"[SEP]"']
            status, out, err = await miner(tmp_path, "tokenize", *target, "--chat", "Hello")
            assert (status, out) == (0, "31\n"), err
            for command, able in (("embed", "vectors"), ("rerank", "ranker")):
                status, out, err = await miner(tmp_path, command, *target, "a", "b")
                assert (status, out) == (2, "")
                assert "model 'smol' does not support" in err
                assert f"These can: {able}. Name one: -m {able}" in err
