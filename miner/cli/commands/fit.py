"""`miner fit`: whether a model fits into free memory, and the size of each part; or which models of a file fit."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.config_file import served_file
from miner.cli.output.errors import note
from miner.cli.output.tables import aligned, print_json, printable
from miner.cli.parser import UsageError, add_config_option, add_json_option, number, overrides
from miner.config.file.problems import shown_path
from miner.errors import EngineStartError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.models.memory.capacity import Capacity
    from miner.core.models.memory.verdict import Verdict

_EPILOG = """\
examples:
  miner fit demo
  miner fit Llama-3.2-3B-Q4_K_M --ctx 16384 --parallel 4
  miner fit hf:unsloth/Qwen3-4B-GGUF --kv-type q8_0
  miner fit --config miner.toml

The numbers come from the model's header; nothing is loaded. Slots and context
that no option sets are chosen from the free memory: up to 8 slots, fewer where
a slot would have less than 32768 tokens that the model can do. Before each load
the same estimate is compared with the free memory.

With a miner.toml (--config, MINER_CONFIG, ./miner.toml, or in the user's config
directory) and no NAME, the whole file: what each model takes, which of them fit
together, and which the others evict, as `miner serve` does it. NAME may also be
a model of the file.

exit status: 0 it fits, or each model of the file does; 1 it does not, or one
never fits; 2 invalid usage or no such model
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Check whether a model fits into memory, or which of miner.toml fit together.",
        epilog=_EPILOG,
        usage="miner fit [NAME] [options]",
    )
    flags = {
        "llamacpp_ctx_size": "ctx", "llamacpp_parallel": "parallel", "llamacpp_cache_type_k": "kv_type",
        "llamacpp_cache_type_v": "kv_type", "config": "config",
    }  # fmt: skip
    parser.set_defaults(run=run, flags=flags)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model; default: that of requests that name none")
    parser.add_argument(
        "--ctx", type=number, metavar="N", help="tokens per slot; default: LLAMACPP_CTX_SIZE, else what fits"
    )
    parser.add_argument(
        "--parallel", type=number, metavar="P", help="slots; default: LLAMACPP_PARALLEL, else what fits"
    )
    parser.add_argument("--kv-type", metavar="T", help="type of the KV cache, such as f16 or q8_0")
    add_config_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the estimate; return 0 if the model, or each of the file's, fits, else 1."""
    from miner.config.config import MinerConfig

    given = overrides(args)
    settings = MinerConfig(**given)
    loaded = served_file(settings, named=bool(args.config))
    if loaded is None:
        return _fit_model(args, settings, args.name)
    from miner.cli.table_fit import model_settings, print_table

    if args.name is None:
        if options := [f"--{args.flags[name].replace('_', '-')}" for name in given if name != "config"]:
            raise UsageError(
                f"{options[0]} is for one model, and {loaded.path} has its own values.", hint="Name a model of it."
            )
        return print_table(loaded, settings, json=args.json)
    own = model_settings(args.name, loaded, settings, given)
    if own is not None:
        return _fit_model(args, own, None)
    try:
        return _fit_model(args, settings, args.name)
    except ModelNotFoundError as error:
        has = f"{shown_path(loaded.path)} has {', '.join(loaded.content.models) or 'none'}."
        error.operator_hint = f"{has}\n  {error.operator_hint}" if error.operator_hint else has
        raise


def _fit_model(args: argparse.Namespace, settings: MinerConfig, name: str | None) -> int:
    from miner.cli.local_store import capacity_on, verdict_on
    from miner.core.llms.llamacpp.models import find_model
    from miner.core.models.memory.available import available_memory
    from miner.core.models.memory.capacity import ENOUGH

    model = find_model(name, settings)
    memory = available_memory()
    verdict, capacity = verdict_on(model, settings, memory), capacity_on(model, settings, memory)
    chosen = None in (settings.llamacpp_ctx_size, settings.llamacpp_parallel)
    if verdict.load.ctx_size < (settings.llamacpp_ctx_size or 0):
        note(f"miner: The model was trained for {verdict.load.ctx_size} tokens; a larger context is not used.")
    if verdict.placement.gpu and not _may_offload(settings):
        note("miner: The installed engine runs on the CPU only. Set LLAMACPP_SERVER to a build with GPU support.")
    if args.json:
        _print_verdict(model.alias, verdict, capacity)
    else:
        kinds = dict.fromkeys((verdict.load.cache_type_k, verdict.load.cache_type_v))
        why = f" ({capacity.why})" if chosen else ""
        print(f"{printable(model.alias)}: {verdict.load}{why}, KV cache in {' and '.join(kinds)}")
        print(aligned(verdict.rows(), right=frozenset({1})))
        print(f"fits: {({True: 'yes', False: 'no', None: 'unknown'})[verdict.fits]}")
        if verdict.largest_context:
            print(f"largest context with as many slots: {verdict.largest_context} tokens each")
    if capacity.short:
        note(
            f"miner: The model was trained for {model.header.context_length} tokens; agents need about {ENOUGH}.\n"
            "  Use a smaller model, or halve the cache with --kv-type q8_0."
        )
    if verdict.fits is False:
        note(f"miner: {verdict.reason}\n  {verdict.hint}")
        return 1
    return 0


def _may_offload(settings: MinerConfig) -> bool:
    from miner.core.engine.launchers import find_launcher

    try:
        return find_launcher(settings.llamacpp_server).may_offload(settings.llamacpp_n_gpu_layers)
    except EngineStartError:
        return True  # no engine is installed: show what the model alone needs


def _print_verdict(name: str, verdict: Verdict, capacity: Capacity) -> None:
    from dataclasses import asdict

    print_json(
        {
            "name": name,
            "fits": verdict.fits,
            "largest_context": verdict.largest_context,
            "load": asdict(verdict.load),
            "capacity": asdict(capacity),
            "bytes": asdict(verdict.estimate) | {"total": verdict.estimate.total, "ram": verdict.estimate.ram},
            "placement": asdict(verdict.placement),
            "memory": asdict(verdict.memory),
        }
    )
