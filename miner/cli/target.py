"""What a command talks to: a backend in this process, or a server at --url."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from miner.cli.parser import UsageError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms.LLMService import LLMService

_EXAMPLE = "such as http://127.0.0.1:8088"


def target_config(args: argparse.Namespace) -> MinerConfig:
    """The settings of a command with `parser.add_target_options`; notices name variables that set nothing.

    Raises:
        ConfigError: a setting is invalid.
        UsageError: options exclude each other, or --url is no URL.
    """
    from miner.cli.output.errors import note
    from miner.config.config import MinerConfig
    from miner.config.node import NodeConfig
    from miner.config.sources import unknown_variables
    from miner.config.vllm_command import VLLMCommandConfig
    from miner.gateway.settings import GatewaySettings

    if args.config and args.backend:
        raise UsageError("--config and --backend exclude each other.", operator_hint="The file says which backends.")
    for name in ("config", "backend"):
        if args.url is not None and getattr(args, name):
            raise UsageError(f"--url and --{name} exclude each other.", operator_hint="The server at --url decides.")
    if args.key is not None and args.url is None:
        raise UsageError("--key is for --url.", operator_hint="Keys of backends are settings, such as VLLM_API_KEY.")
    config = MinerConfig(config=args.config) if args.config else MinerConfig()
    for line in unknown_variables((MinerConfig, GatewaySettings, VLLMCommandConfig, NodeConfig)):
        note(f"miner: {line}")
    if args.url is None:
        return config
    changed = {"openai_api_base": api_base(args.url), "openai_api_key": read_key(args.key), "llm_fallbacks": ""}
    return MinerConfig(**{**config.model_dump(exclude_unset=True), **changed})


def open_target(args: argparse.Namespace, config: MinerConfig) -> LLMService:
    """The service of a command with `parser.add_target_options`, and of the settings that `target_config` returned;
    the caller closes it (`async with`).

    Raises:
        ConfigError: the backend is unavailable.
    """
    from miner.cli.backend_choice import chosen_backend
    from miner.core.llms.registry import POOL

    if args.url is None:
        return chosen_backend(args.backend or (POOL if args.config else None), config)
    from miner.cli.node import say_node
    from miner.cli.url_service import URLService

    say_node()

    return URLService(config)


def api_base(url: str) -> str:
    """The base URL of OpenAI's API for --url, which may lack its /v1.

    Raises:
        UsageError: it is no URL.
    """
    base = url.rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: must start with http:// or https://, {_EXAMPLE}.")
    _, _, path = base.partition("://")[2].partition("/")
    return base if path else f"{base}/v1"


def read_key(key: str | None) -> str | None:
    """The API key of --key (or of MINER_KEY, which stands for it); "-": the first line of standard input.

    Raises:
        UsageError: standard input has none, or the key has a control character inside.
    """
    from miner.cli.node import source_of
    from miner.config.secrets import sent_key

    if key is None:
        return None
    if key != "-":
        try:
            return sent_key(key)
        except ValueError as error:
            raise UsageError(f"{source_of(key)} {error}.") from None
    # Its bytes: what the text layer would read ahead is the prompt.
    line = sys.stdin.buffer.readline().decode(errors="replace").strip() if sys.stdin is not None else ""
    if not line:
        raise UsageError("--key -: standard input has no key.")
    return line
