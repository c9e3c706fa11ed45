"""`miner vllm`: print or run the command that starts a vLLM server."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.output.errors import note
from miner.cli.output.tables import print_json
from miner.cli.parser import UsageError, add_json_option, overrides
from miner.config.secrets import secret_text
from miner.errors import ConfigError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.vllm_command import VLLMCommandConfig

_EPILOG = """\
examples:
  miner vllm --model Qwen/Qwen2.5-0.5B-Instruct
  miner vllm --model Qwen/Qwen2.5-0.5B-Instruct --port 8001 --run
  miner vllm --model my/model --run -- --enable-auto-tool-choice \\
      --tool-call-parser hermes

Without --run the command is only printed, quoted for a shell. Options after --
are passed to vLLM. Set VLLM_API_BASE to the URL of the server. If VLLM_API_KEY
is set, vLLM reads it from the environment and requires it from clients.
"""

_SETTINGS = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Print or run the command that starts a vLLM server.",
        epilog=_EPILOG,
        usage="miner vllm [options] [-- VLLM_OPTION ...]",
    )
    parser.set_defaults(run=run, flags={name: name for name in _SETTINGS})
    add = parser.add_argument
    add("-m", "--model", metavar="NAME", help="a model of the Hugging Face hub, or a directory (DEFAULT_MODEL)")
    add("--host", metavar="ADDRESS", help="address to listen on (vLLM's own default: all)")
    add("--port", metavar="N", help="port to listen on (that of VLLM_API_BASE, 8000)")
    add("--tensor-parallel-size", metavar="N", help="GPUs to split the model across (MINER_TENSOR_PARALLEL_SIZE, 1)")
    add(
        "--gpu-memory-utilization",
        metavar="FRACTION",
        help="fraction of GPU memory to use, above 0, at most 1 (MINER_GPU_MEMORY_UTILIZATION, 0.9)",
    )
    add("--max-model-len", metavar="N", help="context length in tokens (MINER_MAX_MODEL_LEN, else the model's own)")
    add("--run", action="store_true", dest="execute", help="replace this process by the command")
    add_json_option(parser)
    add("extra", nargs="*", metavar="VLLM_OPTION", help="after --: further options of vLLM's server")


def run(args: argparse.Namespace) -> int:
    """Print the command; with --run, replace this process by it."""
    from miner.config.config import MinerConfig
    from miner.config.vllm_command import VLLMCommandConfig

    if args.extra and not args.extra[0].startswith("-"):
        raise UsageError(
            f"Unexpected argument {args.extra[0]!r}.",
            operator_hint="Set the model with --model; vLLM's options go after --.",
        )
    config = MinerConfig()
    arguments = _arguments(args, config, VLLMCommandConfig(**overrides(args)))
    if args.json:
        print_json({"command": ["python", *arguments], "run": args.execute})
        sys.stdout.flush()
    else:
        print(shlex.join(["python", *arguments]), flush=True)
    return _exec(arguments, config) if args.execute else 0


def _arguments(args: argparse.Namespace, config: MinerConfig, settings: VLLMCommandConfig) -> list[str]:
    from miner.config.vllm_command import default_port

    model = args.model or config.default_model
    if not model:
        raise ConfigError("No model given.", operator_hint="Name one with --model, or set DEFAULT_MODEL.")
    port = _port(args.port) if args.port is not None else default_port(config)
    arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", model]
    arguments += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    arguments += ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"]
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    if args.host:
        arguments += ["--host", args.host]
    return [*arguments, "--port", str(port), *args.extra]


def _port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise ConfigError(f"--port must be an integer from 1 to 65535, not {text!r}.")


def _exec(arguments: list[str], config: MinerConfig) -> int:
    """Replace this process by vLLM, so that signals and the exit status are its own."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise ConfigError(
            "vLLM is not installed.", operator_hint='Install it with: pip install "llm-service-backends[vllm]"'
        )
    if (key := secret_text(config.vllm_api_key)) is not None:
        # vLLM does not read .env, and the arguments of a process are visible to other users.
        os.environ["VLLM_API_KEY"] = key
        note("miner: The server requires VLLM_API_KEY.")
    try:
        os.execv(sys.executable, [sys.executable, *arguments])
    except OSError as error:
        raise MinerError(f"Cannot run {sys.executable}: {error.strerror}.") from error
