"""What lies on which GPU, by invented headers and inventories, and whether it is refused or booked for that."""

from dataclasses import replace
from pathlib import Path

import pytest

from miner.core.engine.launchers import BinaryLauncher, find_launcher
from miner.core.engine.spec import EngineSpec
from miner.core.llms.llamacpp.engine_load import load_of
from miner.core.llms.llamacpp.memory import required_memory
from miner.core.models.directory import stamp_of
from miner.core.models.gguf.header import read_model
from miner.core.models.memory.available import Memory
from miner.core.models.memory.estimate import PROCESS, Load, draft_of, estimate
from miner.core.models.memory.verdict import judge, placed
from miner.errors import EngineStartError

GIB = 1 << 30
BINARY = BinaryLauncher(find_launcher().package / "llama-server")


@pytest.fixture
def model(tmp_path, write_gguf):
    """A file that claims to be a model of 40 GiB, 1 GiB a layer; with experts, 3/4 of each layer are theirs."""

    def make(layers=40, *, experts=False, tied=False):
        side = 1 << 14  # 1 GiB of 32-bit numbers
        tensors = {"token_embd.weight": (side, 1024)}
        if not tied:
            tensors["output.weight"] = (side, 1024)
        for layer in range(layers):
            tensors[f"blk.{layer}.attn_q.weight"] = (side, side // 4 if experts else side)
            if experts:
                tensors[f"blk.{layer}.ffn_up_exps.weight"] = (side, side // 4, 3)
        settings = {
            "llama.block_count": layers, "llama.embedding_length": 1024, "llama.context_length": 4096,
            "llama.attention.head_count": 8, "llama.attention.head_count_kv": 8,
        }  # fmt: skip
        path = write_gguf(tmp_path / f"big{layers}{experts}{tied}.gguf", settings, tensors)
        with path.open("r+b") as file:
            file.truncate((layers + 1) * GIB)
        return read_model([path])

    return make


def where(header, free, layers=None, ram=8 * GIB, **options):
    return placed(header, Load(4096, n_gpu_layers=layers, **options), Memory(ram, ram, tuple(free)))


def test_what_fits_on_a_card_lies_there(model):
    found = where(model(), [80 * GIB])
    assert found.layers == 41
    assert 40 * GIB < found.gpu < 44 * GIB
    assert found.ram < GIB


def test_a_model_larger_than_memory_is_not_refused_where_a_card_holds_it(model):
    header = model()
    small = Memory(8 * GIB, 16 * GIB)
    assert judge(header, Load(4096, n_gpu_layers=None), small).fits is False
    card = Memory(8 * GIB, 16 * GIB, (80 * GIB,), (80 * GIB,), ("CUDA",))
    verdict = judge(header, Load(4096, n_gpu_layers=None), card)
    assert verdict.fits is True
    assert verdict.largest_context == 4096
    assert dict(verdict.rows())["free on GPU 0 (CUDA)"] == "80.0 GiB"
    assert "GiB of GPU memory" in verdict.reason
    assert judge(header, Load(4096, n_gpu_layers=0), card).fits is False


def test_a_part_lies_there_where_not_all_fits(model):
    header = model()
    found = where(header, [12 * GIB])
    assert 8 <= found.layers <= 11
    assert found.gpu <= 11 * GIB
    assert found.ram > 28 * GIB
    for ram, fits in ((8, False), (40, True)):
        assert judge(header, Load(4096, n_gpu_layers=None), Memory(ram * GIB, 64 * GIB, (12 * GIB,))).fits is fits
    assert where(header, [GIB // 2]).layers == 0


def test_each_card_is_judged_by_its_own_memory(model):
    header = model()
    found = where(header, [30 * GIB, 30 * GIB])
    assert found.layers == 41
    assert all(15 * GIB < size < 29 * GIB for size in found.gpus)
    uneven = where(header, [60 * GIB, 12 * GIB])
    assert uneven.layers == 41
    assert uneven.gpus[1] <= 11 * GIB
    # Told to put all there, it does not fit where the sum would.
    full = Memory(8 * GIB, 16 * GIB, (38 * GIB, 3 * GIB))
    verdict = judge(header, Load(4096, n_gpu_layers=-1), full)
    assert verdict.fits is False
    assert "38.0 GiB and 3.00 GiB on the GPUs" in verdict.reason
    assert judge(header, Load(4096, n_gpu_layers=-1), Memory(8 * GIB, 16 * GIB, (40 * GIB, 40 * GIB))).fits is True
    assert where(header, [80 * GIB], layers=10).layers == 10


def test_layers_are_counted_from_the_output(write_gguf, tmp_path):
    tensors = {"token_embd.weight": (64, 100), "output.weight": (64, 100)}
    tensors |= {f"blk.{layer}.ffn_up.weight": (64, 64) for layer in range(4)}
    settings = {
        "llama.block_count": 4, "llama.embedding_length": 64, "llama.context_length": 4096,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
    }  # fmt: skip
    header = read_model([write_gguf(tmp_path / "m.gguf", settings, tensors)])
    parts = estimate(header, Load(1024))
    output, layer, embedding = 64 * 100 * 4, 64 * 64 * 4, 64 * 100 * 4
    none, two, all_, more = (
        placed(header, Load(1024, n_gpu_layers=layers), Memory(GIB, GIB, (GIB,))) for layers in (0, 2, -1, 99)
    )
    assert none.gpu == 0
    # The output counts as the last layer, so two layers are the output and one of four.
    assert two.gpu == output + layer + parts.kv_cache // 4 + parts.compute
    assert all_.gpu == output + 4 * layer + parts.kv_cache + parts.compute
    assert all_.ram == embedding + parts.overhead
    assert more == all_


def test_experts_stay_behind_first(model):
    header = model(experts=True)
    assert where(header, [80 * GIB]).experts is None
    found = where(header, [24 * GIB])
    assert found.layers == 41  # all of them: without their experts they are 10 GiB
    assert 5 <= found.experts < 41
    assert found.gpu <= 23 * GIB
    few = where(header, [4 * GIB])
    assert 0 < few.layers < 41


def test_an_output_that_is_the_embedding_lies_there_a_second_time(model):
    assert where(model(tied=True), [80 * GIB]).gpu == where(model(), [80 * GIB]).gpu


def test_memory_that_is_shared_counts_once(model):
    header, load = model(), Load(4096, n_gpu_layers=None)
    enough = Memory(48 * GIB, 64 * GIB, (48 * GIB,), (48 * GIB,), ("Metal",), unified=True)
    assert judge(header, load, enough).fits is True
    little = Memory(24 * GIB, 32 * GIB, (24 * GIB,), (24 * GIB,), ("Metal",), unified=True)
    assert judge(header, load, little).fits is False


def spec_of(header, **options):
    return EngineSpec(header.path, "big", 4096, 1, **options)


def test_what_is_booked(model):
    header = model()
    card = Memory(8 * GIB, 8 * GIB, (80 * GIB,))
    need = required_memory(spec_of(header), header, card, BINARY)
    assert need.ram < GIB
    assert [size // GIB for size in need.gpus] in ([40], [41], [42])
    with pytest.raises(EngineStartError, match="does not fit"):
        required_memory(spec_of(header, n_gpu_layers=0), header, card, BINARY)
    # The wheel of the index computes on the processor, whatever cards there are: its models take the machine's memory.
    small = model(layers=4)
    assert required_memory(spec_of(small), small, card, BINARY).ram < GIB
    on_processor = required_memory(spec_of(small), small, card, find_launcher())
    assert on_processor.ram > 4 * GIB
    assert not any(on_processor.gpus)
    assert load_of(spec_of(small)).n_gpu_layers is None


def test_experts_that_are_to_stay_in_main_memory_are_on_no_card(model, tmp_path):
    header = model(experts=True)
    every, free = where(header, [80 * GIB]), [80 * GIB]
    options = {"alias": "m", "parallel": 1, "ctx_size": 4096}
    flags = (("override-tensor", ("blk.[0-9].ffn_.*exps=CPU", "attn=CUDA0")),)
    for moved, layers in (
        ({"cpu_moe": True}, 40), ({"n_cpu_moe": 10}, 10), ({"n_cpu_moe": 0}, 0), ({"flags": flags}, 10),
    ):  # fmt: skip
        load = load_of(EngineSpec(header.path, **options, **moved))
        found = placed(header, load, Memory(80 * GIB, 80 * GIB, tuple(free)))
        assert every.gpu - found.gpu == pytest.approx(layers * 3 / 4 * GIB, rel=0.02)
        assert found.ram - every.ram == pytest.approx(layers * 3 / 4 * GIB, rel=0.02)
    # Told where some are, llama.cpp does not choose by itself: all layers go there, whether they fit or not.
    little = Memory(80 * GIB, 80 * GIB, (4 * GIB,))
    short = placed(header, load_of(EngineSpec(header.path, **options, cpu_moe=True)), little)
    assert short.layers == 41
    assert short.gpu > 4 * GIB


def test_a_cache_that_is_not_offloaded_is_in_main_memory(model):
    header = model()
    parts = estimate(header, Load(4096))
    with_it, without = where(header, [80 * GIB]), where(header, [80 * GIB], kv_offload=False)
    assert with_it.gpu - without.gpu == without.ram - with_it.ram == pytest.approx(parts.kv_cache, abs=64)


def test_shares_of_cards_are_those_that_were_told(model):
    header = model()
    even, most = where(header, [80 * GIB] * 2, split=(1, 1)), where(header, [80 * GIB] * 2, split=(3, 1))
    assert even.gpus[0] == pytest.approx(even.gpus[1], rel=0.15)
    assert most.gpus[0] == pytest.approx(3 * most.gpus[1], rel=0.15)
    assert where(header, [80 * GIB] * 2, single_gpu=1).gpus[0] == 0


def test_a_draft_model_is_beside_it(model):
    header, small = model(), model(2)
    draft = draft_of(small, Load(4096, n_gpu_layers=None))
    alone, both = where(header, [80 * GIB]), where(header, [80 * GIB], draft=draft)
    size = draft.size(4096, 1, 512)
    assert size > 2 * GIB
    assert (both.gpu - alone.gpu, both.ram - alone.ram) == (size, 0)
    kept = where(header, [80 * GIB], draft=replace(draft, n_gpu_layers=0))
    assert (kept.gpu - alone.gpu, kept.ram - alone.ram) == (0, size)
    assert where(header, [80 * GIB], layers=0, draft=draft).gpu == size
    # What it needs counts where layers are chosen by what fits.
    assert where(header, [12 * GIB], draft=draft).layers < where(header, [12 * GIB]).layers


def test_what_flags_say_is_in_the_estimate(demo_model):
    header = read_model([demo_model])
    options = {"alias": "m", "parallel": 2, "ctx_size": 4096}

    def parts(**more):
        return estimate(header, load_of(EngineSpec(demo_model, **options, **more)))

    assert load_of(EngineSpec(demo_model, **options)).repack is True
    assert load_of(EngineSpec(demo_model, **options, flags=(("repack", False),))).repack is False
    adapter = ("/a.gguf", 1 << 20, 0, 0)
    assert parts(lora=((Path("/a.gguf"), 0.5),), files=(adapter,)).total - parts().total == 1 << 20
    draft = parts(spec_draft_model=demo_model, draft_files=(stamp_of(demo_model),)).draft
    assert draft == pytest.approx(parts().total - parts().repacked - PROCESS, rel=0.05)
