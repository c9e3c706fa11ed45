"""Which engines of a file's models are loaded together, on real engines: three links to the demo model stand for three
models, of which each takes some 200 MiB.
"""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import pytest

from miner.config.config import MinerConfig
from miner.config.file.read import parse_config
from miner.core.llms import get_backend
from miner.core.llms.llamacpp import memory
from miner.core.models.memory.available import Memory
from miner.core.models.memory.processes import held_memory
from miner.core.models.resolve import resolve
from miner.errors import BackendOverloadedError, EngineStartError
from tests.core.engine.children import PATIENCE

pytestmark = pytest.mark.engine

MIB = 1 << 20


class Table:
    """A file over models of which each is the demo model."""

    def __init__(self, directory, text, names="abc"):
        self.path = directory / "miner.toml"
        self.names = names
        self.write(text)

    def write(self, text, **more):
        """`more`: keys of single models."""
        models = "".join(f'[models.{name}]\nfile = "./{name}.gguf"\n{more.get(name, "")}\n' for name in self.names)
        self.path.write_text(f"[defaults]\ncontext = 512\nslots = 1\nthreads = 1\n{models}\n{text}\n")
        for name in self.names:
            link = self.path.parent / f"{name}.gguf"
            if not link.exists():
                link.symlink_to(resolve("demo").path)
        return self


@asynccontextmanager
async def serving(table, **settings):
    async with get_backend("pool", MinerConfig(config=str(table.path), **settings)) as service:
        yield service


async def ask(service, model, tokens=2):
    """One request; returns the engines that run after it."""
    await service.generate("Hi", model=model, max_tokens=tokens, extra={"ignore_eos": True})
    return await running(service)


async def running(service):
    return sorted(engine.model for engine in (await service.health()).engines if engine.state == "ready")


async def test_of_three_of_which_two_fit_the_least_recently_used_goes(tmp_path):
    async with serving(Table(tmp_path, '[limits]\nmemory = "450MiB"')) as service:
        assert await ask(service, "a") == ["a"]
        assert await ask(service, "b") == ["a", "b"]
        await ask(service, "a")
        assert await ask(service, "c") == ["a", "c"]


async def comes_to(service, names):
    """Wait until these engines run."""
    async with asyncio.timeout(PATIENCE):
        while await running(service) != names:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("groups", "after"),
    [
        ('[groups.chat]\nmodels = ["a", "c"]\nmax_loaded = 1', ["b", "c"]),
        ('[groups.big]\nmodels = ["c"]\nexclusive = true', ["c"]),
        ('[groups.big]\nmodels = ["b", "c"]\nexclusive = true', ["b", "c"]),
        ("[limits]\nmax_loaded = 1", ["c"]),
    ],
)
async def test_groups(tmp_path, groups, after):
    async with serving(Table(tmp_path, groups)) as service:
        for name in "ab":
            await ask(service, name)
        assert await ask(service, "c") == after


async def test_a_pinned_model_stays_and_the_refusal_names_it(tmp_path):
    table = Table(tmp_path, "").write('[groups.chat]\nmodels = ["a", "b"]\nmax_loaded = 1', a="pin = true")
    async with serving(table) as service:
        await ask(service, "a")
        with pytest.raises(BackendOverloadedError, match="group 'chat' allows 1 loaded at once, and 'a' is pinned"):
            await ask(service, "b")
        assert await ask(service, "c") == ["a", "c"]


async def test_of_two_that_wait_the_higher_priority_is_first(tmp_path):
    table = Table(tmp_path, "").write("[limits]\nmax_loaded = 1", c="priority = 5")
    async with serving(table, llamacpp_fairness_wait=0.1) as service:
        await ask(service, "a")
        order = []

        async def wait_for(name):
            await ask(service, name)
            order.append(name)

        async def queues(name):
            async with asyncio.timeout(PATIENCE):
                while not any(e.model == name and e.queued for e in (await service.health()).engines):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async with service.stream("Hi", model="a", max_tokens=200) as first:  # has the slot until it is read
            await anext(first)
            waiting = []
            for name in "bc":
                waiting.append(asyncio.create_task(wait_for(name)))
                await queues(name)
        await asyncio.gather(*waiting)
        assert order == ["c", "b"]


async def test_a_model_beyond_the_budget_is_refused_and_the_others_serve(tmp_path):
    table = Table(tmp_path, "").write('[limits]\nmemory = "300MiB"', c="context = 8192\nslots = 16")
    async with serving(table) as service:
        await ask(service, "a")
        with pytest.raises(EngineStartError, match=r"'c' does not fit into memory. The model needs .* 300 MiB"):
            await ask(service, "c")
        assert await ask(service, "b") == ["b"]


async def test_a_changed_file_changes_limits_and_rules_of_running_engines(tmp_path):
    table = Table(tmp_path, "")
    async with serving(table) as service:
        for name in "abc":
            await ask(service, name)
        pids = {engine.model: engine.pid for engine in (await service.health()).engines}
        table.write("[limits]\nmax_loaded = 2")
        service.apply(parse_config(table.path.read_text(), table.path))
        await comes_to(service, ["b", "c"])
        table.write('[groups.one]\nmodels = ["b", "c"]\nmax_loaded = 1')
        service.apply(parse_config(table.path.read_text(), table.path))
        await comes_to(service, ["c"])
        assert await ask(service, "a") == ["a", "c"]
        assert {engine.model: engine.pid for engine in (await service.health()).engines}["c"] == pids["c"]


@contextmanager
def allocated(size):
    """A process that holds so many bytes."""
    code = f"block = bytearray({size}); block[::4096] = b'x' * len(block[::4096]); print('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"done"
        yield child
        child.communicate(b"\n", timeout=PATIENCE)


async def test_memory_that_another_process_takes_is_seen_and_used_again(tmp_path, monkeypatch):
    """A machine of 700 MiB, of which the real processes below this one take what they take."""
    before = held_memory([os.getpid()])

    def available_memory(*, gpus=True):
        taken = held_memory([os.getpid()]) - before
        return Memory(max(700 * MIB - taken, 0), 700 * MIB)

    monkeypatch.setattr(memory, "available_memory", available_memory)
    async with serving(Table(tmp_path, "")) as service:
        assert await ask(service, "a") == ["a"]
        assert await ask(service, "b") == ["a", "b"]
        with allocated(300 * MIB):
            await asyncio.sleep(1.1)
            assert await ask(service, "c") == ["c"]
            with allocated(300 * MIB):
                await asyncio.sleep(1.1)
                with pytest.raises(BackendOverloadedError, match=r"'a' needs about .* left for all engines") as caught:
                    await ask(service, "a")
                assert await running(service) == ["c"], "a refusal evicts nobody"
            assert "python" in caught.value.operator_hint
        await asyncio.sleep(1.1)
        assert await ask(service, "a") == ["a", "c"]
