"""Whether a model fits, with the numbers and the way out."""

import pytest

from miner.core.models.gguf.header import read_header
from miner.core.models.memory.available import Memory
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.verdict import judge, readable

MIB = 1 << 20


def test_verdict(demo_model):
    model = read_header(demo_model)
    fine = judge(model, Load(4096, parallel=4), Memory(4 << 30, 8 << 30))
    assert fine.fits is True
    assert fine.largest_context == 8192
    small = judge(model, Load(8192, parallel=8), Memory(600 * MIB, 8 << 30))
    assert small.fits is False
    assert 512 <= small.largest_context < 8192
    assert judge(model, Load(small.largest_context, parallel=8), small.memory).fits is True
    assert judge(model, Load(small.largest_context + 256, parallel=8), small.memory).fits is False
    assert "for 8 slots of 8192 tokens; 600 MiB is free." in small.reason
    assert f"LLAMACPP_CTX_SIZE to {small.largest_context}" in small.hint or str(small.largest_context) in small.hint
    none = judge(model, Load(512, parallel=4), Memory(20 * MIB, 8 << 30))
    assert (none.fits, none.largest_context) == (False, 0)
    assert "LLAMACPP_PARALLEL" in none.hint
    assert "smaller model" in judge(model, Load(512), Memory(20 * MIB, 8 << 30)).hint
    unknown = judge(model, Load(512), Memory(None, None))
    assert (unknown.fits, unknown.largest_context) == (None, None)
    assert "unknown" in unknown.reason


def test_verdict_with_a_gpu(demo_model):
    model = read_header(demo_model)
    load = Load(4096, parallel=4, n_gpu_layers=-1)
    assert judge(model, load, Memory(4 << 30, 8 << 30, (2 << 30,), (8 << 30,))).fits is True
    full = judge(model, load, Memory(4 << 30, 8 << 30, (200 * MIB,), (8 << 30,)))
    assert full.fits is False
    assert "of GPU memory" in full.reason
    assert "200 MiB on the GPUs" in full.reason
    assert ("free on GPU 0", "200 MiB") in full.rows()


def test_verdict_with_a_gpu_that_cannot_be_seen(demo_model):
    model = read_header(demo_model)
    for layers in (99, -1):
        load = Load(4096, parallel=4, n_gpu_layers=layers)
        assert judge(model, load, Memory(4 << 30, 8 << 30)).fits is True
        assert judge(model, load, Memory(200 * MIB, 8 << 30)).fits is None
    assert judge(model, Load(4096, parallel=4, n_gpu_layers=None), Memory(200 * MIB, 8 << 30)).fits is False
    with_one = Memory(200 * MIB, 8 << 30, gpu_available=(8 << 30,), gpu_total=(8 << 30,))
    assert judge(model, Load(4096, parallel=4, n_gpu_layers=None), with_one).fits is True


def test_table(demo_model):
    rows = dict(judge(read_header(demo_model), Load(4096, parallel=4), Memory(4 << 30, 8 << 30)).rows())
    assert rows["weights"] == "92.1 MiB"
    assert rows["KV cache"] == "360 MiB"
    assert rows["free memory"] == "4.00 GiB"
    assert "on the GPUs" not in rows


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1 << 20, "1.00 MiB"), (15 << 30, "15.0 GiB")]
)
def test_readable(size, text):
    assert readable(size) == text
