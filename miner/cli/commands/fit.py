"""`miner fit`: whether a model fits into the memory that is free, and what takes how much of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  miner fit demo
  miner fit Llama-3.2-3B-Q4_K_M --ctx 16384 --parallel 4
  miner fit hf:unsloth/Qwen3-4B-GGUF --kv-type q8_0

The numbers come from the model's header; nothing is loaded. They are those
that llama.cpp checks against what is free before each load.

exit status: 0 it fits, 1 it does not, 2 wrong usage or no such model
"""


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    from miner.cli.parser import number

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fit",
        help="tell whether a model fits into memory",
        description="Tell whether a model fits into memory, and what takes how much of it.",
        epilog=_EXAMPLES,
        usage="miner fit [NAME] [options]",
    )
    flags = {
        "llamacpp_ctx_size": "ctx", "llamacpp_parallel": "parallel", "llamacpp_cache_type_k": "kv_type",
        "llamacpp_cache_type_v": "kv_type",
    }  # fmt: skip
    parser.set_defaults(run=run, flags=flags)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the model; default: the one that requests without a name get"
    )
    parser.add_argument("--ctx", type=number, metavar="N", help="tokens of each slot; default: LLAMACPP_CTX_SIZE")
    parser.add_argument("--parallel", type=number, metavar="P", help="slots; default: LLAMACPP_PARALLEL")
    parser.add_argument("--kv-type", metavar="T", help="type of the KV cache, such as f16 or q8_0")
    parser.add_argument("--json", action="store_true", help="print a JSON object in place of the table")


def run(args: argparse.Namespace) -> int:
    """Print the table and say whether it fits."""
    from miner.cli.model_store import verdict_on
    from miner.cli.output.errors import note
    from miner.cli.output.tables import aligned, printable
    from miner.config.config import MinerConfig
    from miner.core.llms.llamacpp.models import find_model
    from miner.core.models.memory.available import available_memory

    wanted = {
        "llamacpp_ctx_size": args.ctx,
        "llamacpp_parallel": args.parallel,
        "llamacpp_cache_type_k": args.kv_type,
        "llamacpp_cache_type_v": args.kv_type,
    }
    settings = MinerConfig(**{name: value for name, value in wanted.items() if value is not None})
    model = find_model(args.name, settings)
    verdict = verdict_on(model, settings, available_memory())
    if verdict.load.ctx_size < (settings.llamacpp_ctx_size or 0):
        note(f"miner: The model was trained for {verdict.load.ctx_size} tokens: more are not used.")
    if verdict.placement.gpu and not _may_offload(settings):
        note("miner: The engine that is installed computes without a GPU: LLAMACPP_SERVER names a build that uses one.")
    if args.json:
        _print_json(model.alias, verdict)
    else:
        kinds = dict.fromkeys((verdict.load.cache_type_k, verdict.load.cache_type_v))
        print(f"{printable(model.alias)}: {verdict.load}, KV cache in {' and '.join(kinds)}")
        print(aligned(verdict.rows(), right=frozenset({1})))
        print(f"fits: {({True: 'yes', False: 'no', None: 'unknown'})[verdict.fits]}")
        if verdict.largest_context:
            print(f"largest context with as many slots: {verdict.largest_context} tokens each")
    if verdict.fits is False:
        note(f"miner: {verdict.reason}\n  {verdict.hint}")
        return 1
    return 0


def _may_offload(settings: MinerConfig) -> bool:
    from miner.core.engine.launchers import find_launcher
    from miner.errors import EngineStartError

    try:
        return find_launcher(settings.llamacpp_server).may_offload(settings.llamacpp_n_gpu_layers)
    except EngineStartError:
        return True  # none is installed: this is about the model alone


def _print_json(name: str, verdict: Any) -> None:
    import json
    from dataclasses import asdict

    described = {
        "name": name,
        "fits": verdict.fits,
        "largest_context": verdict.largest_context,
        "load": asdict(verdict.load),
        "bytes": asdict(verdict.estimate) | {"total": verdict.estimate.total, "ram": verdict.estimate.ram},
        "placement": asdict(verdict.placement),
        "memory": asdict(verdict.memory),
    }
    print(json.dumps(described, indent=2))
