"""`miner serve`: the gateway, an HTTP server in front of a backend."""

from __future__ import annotations

import argparse
from typing import Any

from miner.cli.backend_choice import served_backend
from miner.cli.parser import number
from miner.errors import ConfigError

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  miner serve
  miner serve --backend vllm --port 9000
  MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())') \\
      miner serve --host 0.0.0.0

Clients of OpenAI (base URL http://127.0.0.1:8088/v1), Ollama and Anthropic
(http://127.0.0.1:8088) can use it as they are. GET /docs lists what there is.

Anybody who can reach an address needs a key there: without MINER_API_KEYS it
serves this machine alone. SIGTERM or Ctrl-C: running requests finish within the
grace time (MINER_SERVE_GRACE, 30 s); a second one ends them at once.

exit status:
  0    stopped as it was told
  1    the engine, or the way to it, failed
  2    wrong usage or a wrong setting
"""
_FLAGS = {
    "serve_host": "host", "serve_port": "port", "serve_log": "log", "log_level": "log_level", "default_model": "model",
}  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="serve a backend to clients of OpenAI, Ollama and Anthropic",
        description="Serve a backend over HTTP to clients of OpenAI, Ollama and Anthropic.",
        epilog=_EXAMPLES,
        usage="miner serve [options]",
    )
    parser.set_defaults(run=run, flags=_FLAGS)
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="address to listen on (MINER_SERVE_HOST, 127.0.0.1)")
    add("--port", metavar="N", type=number, help="port to listen on; 0: any (MINER_SERVE_PORT, 8088)")
    add("--backend", metavar="NAME", help="llamacpp, ollama, vllm or another of `miner backends` (LLM_BACKEND)")
    add("--model", metavar="NAME", help="the model of requests that name none (DEFAULT_MODEL)")
    add("--allow-unauthenticated", action="store_true", help="serve others than this machine without keys")
    add("--log", metavar="FORM", help="log as text or json; off: no lines of requests (MINER_SERVE_LOG, text)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical (MINER_LOG_LEVEL, info)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from miner.config.config import MinerConfig
    from miner.gateway.settings import GatewaySettings

    try:
        from miner.gateway.server.run import run as serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("miner"):
            raise
        raise ConfigError(
            f"`miner serve` needs the package {error.name.partition('.')[0]}, which is not installed. "
            'Install it with `pip install "llm-service-backends[serve]"`.'
        ) from error

    given = {name: getattr(args, argument) for name, argument in _FLAGS.items() if name != "default_model"}
    if getattr(args, "debug", False) and args.log_level is None:
        given["log_level"] = "debug"
    if args.allow_unauthenticated:
        given["serve_allow_unauthenticated"] = True
    settings = GatewaySettings(**{name: value for name, value in given.items() if value is not None})
    config = MinerConfig(**({"default_model": args.model} if args.model is not None else {}))
    return serve(settings, lambda: served_backend(args.backend, config))
