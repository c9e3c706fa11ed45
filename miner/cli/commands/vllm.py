"""`miner vllm`: the command that starts a vLLM server, printed or run."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.parser import UsageError
from miner.config.secrets import secret_text
from miner.errors import ConfigError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.config.vllm_command import VLLMCommandConfig

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  miner vllm --model Qwen/Qwen2.5-0.5B-Instruct
  miner vllm --model Qwen/Qwen2.5-0.5B-Instruct --port 8001 --run
  miner vllm --model my/model --run -- --enable-auto-tool-choice \\
      --tool-call-parser hermes

Without --run the command is only printed, ready for a shell. What stands after
-- goes to vLLM as it is. Set VLLM_API_BASE to where the server then listens.
If VLLM_API_KEY is set, vLLM reads it from the environment and asks for it.
"""

_SETTINGS = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "vllm",
        help="print or run the command that starts a vLLM server",
        description="Print, or run, the command that starts a vLLM server.",
        epilog=_EXAMPLES,
        usage="miner vllm [options] [-- VLLM_OPTION ...]",
    )
    parser.set_defaults(run=run, flags={name: name for name in _SETTINGS})
    add = parser.add_argument
    add("--model", metavar="NAME", help="a model of the Hugging Face hub, or its directory (DEFAULT_MODEL)")
    add("--host", metavar="ADDRESS", help="where to listen (vLLM's own default: all addresses)")
    add("--port", metavar="N", help="where to listen (the port of VLLM_API_BASE, 8000)")
    add("--tensor-parallel-size", metavar="N", help="GPUs that share the model (MINER_TENSOR_PARALLEL_SIZE, 1)")
    add(
        "--gpu-memory-utilization",
        metavar="PART",
        help="above 0, at most 1: part of the GPU's memory that vLLM may take (MINER_GPU_MEMORY_UTILIZATION, 0.9)",
    )
    add("--max-model-len", metavar="N", help="context length in tokens (MINER_MAX_MODEL_LEN, else the model's own)")
    add("--run", action="store_true", dest="execute", help="run the command in place of this one")
    add("extra", nargs="*", metavar="VLLM_OPTION", help="after --: any other option of vLLM's server")


def run(args: argparse.Namespace) -> int:
    """Print the command; with --run, become it."""
    from miner.config.config import MinerConfig
    from miner.config.vllm_command import VLLMCommandConfig

    if args.extra and not args.extra[0].startswith("-"):
        raise UsageError(
            f"{args.extra[0]!r} is no option.", hint="Name the model with --model; options of vLLM's own go after --."
        )
    config = MinerConfig()
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    arguments = _arguments(args, config, VLLMCommandConfig(**given))
    print(shlex.join(["python", *arguments]), flush=True)
    return _become(arguments, config) if args.execute else 0


def _arguments(args: argparse.Namespace, config: MinerConfig, settings: VLLMCommandConfig) -> list[str]:
    from miner.config.vllm_command import default_port

    model = args.model or config.default_model
    if not model:
        raise ConfigError("No model is named.", hint="Name one with --model, or set DEFAULT_MODEL.")
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


def _become(arguments: list[str], config: MinerConfig) -> int:
    """Put vLLM in the place of this process, so that signals and the exit status are its own."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise ConfigError("vLLM is not installed.", hint='Install it with: pip install "llm-service-backends[vllm]"')
    if (key := secret_text(config.vllm_api_key)) is not None:
        # It may stand in .env alone, which vLLM does not read; on the command line everybody could see it.
        os.environ["VLLM_API_KEY"] = key
        note("miner: The server asks for VLLM_API_KEY.")
    try:
        os.execv(sys.executable, [sys.executable, *arguments])
    except OSError as error:
        raise MinerError(f"{sys.executable} cannot be run: {error.strerror}.") from error
