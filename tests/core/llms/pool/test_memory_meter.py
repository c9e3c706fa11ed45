"""What engines may take as of now, with measurements handed in; and with the memory of a real child."""

import asyncio

import pytest

from miner.config.config import MinerConfig
from miner.core.engine.headroom import Headroom, RunningEngine
from miner.core.engine.limits import PoolLimits
from miner.core.llms import get_backend
from miner.core.llms.llamacpp import memory
from miner.core.llms.llamacpp.memory import budget_of
from miner.core.llms.pool import memory_meter
from miner.core.llms.pool.memory_meter import HostSettings, MemoryMeter
from miner.core.models.memory.available import Memory
from miner.errors import BackendOverloadedError

GIB = 1 << 30


class Machine:
    def __init__(self, monkeypatch, *, gpu_memory=(), **settings):
        self.now, self.free, self.cards, self.measured = 0.0, 100 * GIB, (), 0
        config = MinerConfig(**settings)
        monkeypatch.setattr(memory_meter.time, "monotonic", lambda: self.now)
        self.meter = MemoryMeter(
            HostSettings(self.measure, lambda free: budget_of(free, config, gpu_memory), lambda _: PoolLimits())
        )

    def measure(self, running):
        self.measured += 1
        return Memory(self.free, 100 * GIB, self.cards, self.cards)

    def headroom(self):
        self.now += 2
        return self.meter.headroom([RunningEngine(1 << 30, ())])


def test_without_a_setting_four_fifths_of_what_is_there_for_engines(monkeypatch):
    machine = Machine(monkeypatch)
    assert machine.headroom() == Headroom(80 * GIB, most_ram=80 * GIB)
    machine.free = 50 * GIB
    room = machine.headroom()
    assert (room.ram, room.most_ram) == (40 * GIB, 80 * GIB)
    machine.free = 100 * GIB
    assert machine.headroom() == Headroom(80 * GIB, most_ram=80 * GIB)


def test_a_setting_is_a_limit_and_no_promise(monkeypatch):
    machine = Machine(monkeypatch, llamacpp_memory_budget=30 * GIB, gpu_memory=[8 * GIB])
    machine.cards = (10 * GIB, 10 * GIB)
    assert machine.headroom() == Headroom(30 * GIB, (8 * GIB, 10 * GIB), 30 * GIB, (8 * GIB, 10 * GIB))
    machine.free, machine.cards = 20 * GIB, (9 * GIB, 7 * GIB)
    room = machine.headroom()
    assert (room.ram, room.gpus) == (20 * GIB, (8 * GIB, 7 * GIB))
    assert machine.meter.budget([]).available == 30 * GIB


def test_one_measurement_a_second(monkeypatch):
    machine = Machine(monkeypatch)
    machine.headroom()
    machine.now += 0.5
    machine.meter.headroom([])
    machine.meter.budget([])
    machine.meter.last_budget()
    assert machine.measured == 1
    machine.headroom()
    assert machine.measured == 2


@pytest.mark.engine
async def test_what_others_keep_out_at_first_is_no_model_that_never_fits(monkeypatch):
    """A model is requested while little is free, and again when there is more."""
    free = [400 << 20]
    monkeypatch.setattr(memory, "available_memory", lambda *, gpus=True: Memory(free[0], 4 * GIB))
    settings = MinerConfig(llamacpp_ctx_size=8192, llamacpp_parallel=8, llamacpp_threads=1)
    async with get_backend("llamacpp", settings) as service:
        with pytest.raises(BackendOverloadedError, match="are left for all engines together") as caught:
            await service.generate("Hi", max_tokens=1)
        assert caught.value.retryable
        free[0] = 4 * GIB
        await asyncio.sleep(1.1)
        await service.generate("Hi", max_tokens=1)
