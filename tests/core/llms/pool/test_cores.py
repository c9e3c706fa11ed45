"""The cores are shared by the models of a table: threads of real engines, by their processes."""

from __future__ import annotations

import asyncio
import logging
import os

import psutil
import pytest

from miner.config.file.read import read_config
from miner.core.engine.procstat import physical_cores
from tests.core.engine.children import PATIENCE, eventually
from tests.core.engine.test_launchers import make_binary
from tests.core.llms.pool.files import pool_of, write
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

MODEL = '[models.{name}]\nbackend = "local"\nfile = "{name}.gguf"\ncontext = 4096\nslots = 1\n{more}\n'


@pytest.fixture
def directory(tmp_path):
    for name in "abc":
        write_tiny_model(tmp_path / f"{name}.gguf")
    make_binary(tmp_path / "llama-server")  # a script: nobody can tell whether it has OpenMP
    return tmp_path


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("miner.core.engine.threads.physical_cores", lambda: 8)


def table(names, more="", *, server='server = "./llama-server"', **options):
    models = "".join(MODEL.format(name=name, more=options.get(name, "")) for name in names)
    return f'[backends.local]\nkind = "llamacpp"\n{server}\n{models}{more}'


async def threads_of(service, names):
    """`--threads` of each engine's program, and what it says of batches."""
    for name in names:
        await service.generate("hi", model=name, max_tokens=1)
    found = {}
    for engine in (await service.health()).engines:
        if engine.pid is None:
            continue
        for process in psutil.Process(engine.pid).children(recursive=True):
            command = process.cmdline()
            if "--threads" in command:
                found[engine.model] = int(command[command.index("--threads") + 1])
                assert found[engine.model] == int(command[command.index("--threads-batch") + 1])
    return found


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", {"a": 4, "b": 4}),
        ("[limits]\ncores = 2\n", {"a": 1, "b": 1}),
        ("[limits]\ncores = 1\n", {"a": 1, "b": 1}),
        ("[limits]\ncores = 100\n", {"a": 4, "b": 4}),
        ("[limits]\nmax_loaded = 1\n", {"b": 8}),
        ('[groups.one]\nmodels = ["a", "b"]\nmax_loaded = 1\n', {"b": 8}),
        ('[groups.one]\nmodels = ["a"]\nexclusive = true\n', {"b": 8}),
    ],
)
async def test_without_openmp_engines_share_the_cores(directory, eight_cores, more, expected):
    async with pool_of(directory, table("ab", more)) as service:
        assert await threads_of(service, "ab") == expected


async def test_an_explicit_number_wins_and_the_others_share_the_rest(directory, eight_cores, caplog):
    async with pool_of(directory, table("abc", a="threads = 4")) as service:
        assert await threads_of(service, "abc") == {"a": 4, "b": 2, "c": 2}
    assert "take turns" not in caplog.text


async def test_too_many_explicit_threads_are_said_once(directory, eight_cores, caplog):
    with caplog.at_level(logging.WARNING, "miner"):
        async with pool_of(directory, table("abc", a="threads = 7", b="threads = 3")) as service:
            assert await threads_of(service, "abc") == {"a": 7, "b": 3, "c": 1}
    said = [record.getMessage() for record in caplog.records if "take turns" in record.getMessage()]
    assert len(said) == 1
    assert "11 threads for 8 cores" in said[0]
    assert "a, b" in said[0]


async def test_a_changed_table_restarts_nobody(directory, eight_cores):
    async with pool_of(directory, table("ab")) as service:
        assert await threads_of(service, "ab") == {"a": 4, "b": 4}
        before = {engine.model: engine.pid for engine in (await service.health()).engines}
        service.apply(read_config(write(directory, table("abc"))))
        assert await threads_of(service, "abc") == {"a": 4, "b": 4, "c": 2}
        assert before.items() <= {engine.model: engine.pid for engine in (await service.health()).engines}.items()
        await service.unload_model("a")
        assert await threads_of(service, "abc") == {"a": 2, "b": 4, "c": 2}


async def test_with_openmp_each_has_all_cores(directory, monkeypatch):
    monkeypatch.setattr("miner.core.engine.threads.physical_cores", lambda: 3)
    async with pool_of(directory, table("abc", server="", c="threads = 1")) as service:
        for name in "abc":
            await service.generate("hi", model=name, max_tokens=1)
        threads = {each.model: psutil.Process(each.pid).num_threads() for each in (await service.health()).engines}
    assert threads["a"] == threads["b"] == threads["c"] + 2


def affinities(pid):
    """Of the threads of a process, by thread."""
    return {task: os.sched_getaffinity(int(task)) for task in os.listdir(f"/proc/{pid}/task")}


async def test_threads_with_openmp_are_bound_only_while_two_compute(directory):
    async with pool_of(directory, table("ab", server="")) as service:

        async def one(name, tokens):
            request = {"model": name, "max_tokens": tokens, "raw": True, "extra": {"ignore_eos": True}}
            return "".join([chunk.content or "" async for chunk in service.stream("hi", **request)])

        await asyncio.gather(one("a", 50), one("b", 50))
        allowed, cores = os.sched_getaffinity(0), physical_cores()
        pids = [engine.pid for engine in (await service.health()).engines]

        def all_free():
            return all(found == allowed for pid in pids for found in affinities(pid).values())

        def all_bound():
            bound = [[min(found) for found in affinities(pid).values() if len(found) == 1] for pid in pids]
            return all(len(each) == cores == len(set(each)) for each in bound)

        await asyncio.to_thread(eventually, all_free, "threads are released")
        await one("a", 50)
        assert all_free()
        seen = len(allowed) == 1
        async with asyncio.timeout(PATIENCE):
            while not seen:  # a pair of responses lasts half a second, in which a busy machine may not let us look
                texts = asyncio.gather(one("a", 3500), one("b", 3500))
                while not texts.done():
                    await asyncio.sleep(0.01)
                    seen = seen or all_bound()
                assert all(await texts)
        await asyncio.to_thread(eventually, all_free, "threads are released again")


async def test_engines_with_too_many_threads_take_turns(directory):
    cores = physical_cores()
    many = f"threads = {cores + 1}"
    async with pool_of(directory, table("ab", a=many, b=many)) as service:
        await asyncio.gather(*(service.generate("hi", model=name, max_tokens=1) for name in "ab"))
        processes = [psutil.Process(engine.pid) for engine in (await service.health()).engines]
        states = set()

        async def one(name):
            request = {"model": name, "max_tokens": 3500, "raw": True, "extra": {"ignore_eos": True}}
            return "".join([chunk.content or "" async for chunk in service.stream("hi", **request)])

        async with asyncio.timeout(PATIENCE):
            while not states & {(True, False), (False, True)}:
                texts = asyncio.gather(one("a"), one("b"))
                while not texts.done():
                    await asyncio.sleep(0.01)
                    states.add(tuple(process.status() == psutil.STATUS_STOPPED for process in processes))
                assert all(await texts)
        engines = (await service.health()).engines
        assert [(engine.state, engine.restarts) for engine in engines] == [("ready", 0)] * 2
        assert not any(process.status() == psutil.STATUS_STOPPED for process in processes)
