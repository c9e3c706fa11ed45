"""`miner serve`: run the gateway, an HTTP server in front of a backend."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miner.cli.backend_choice import chosen_backend
from miner.cli.parser import number, overrides
from miner.errors import ConfigError

_EPILOG = """\
examples:
  miner serve
  miner serve --backend vllm --port 9000
  MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())') \\
      miner serve --host 0.0.0.0

OpenAI clients (base URL http://127.0.0.1:8088/v1), Ollama and Anthropic clients
(http://127.0.0.1:8088) work unchanged. GET /docs lists the routes.

An address that others can reach needs API keys (MINER_API_KEYS, `miner keys`).
On SIGTERM or Ctrl-C running requests finish within the grace period
(MINER_SERVE_GRACE, 30 s); a second signal cancels them.

exit status:
  0    stopped by a signal
  1    the server failed
  2    invalid usage or setting
  130  stopped by a second Ctrl-C (143: by a second SIGTERM)
"""
_FLAGS = {
    "serve_host": "host", "serve_port": "port", "serve_log": "log", "log_level": "log_level", "default_model": "model",
    "serve_allow_unauthenticated": "allow_unauthenticated",
}  # fmt: skip


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Serve a backend over HTTP to OpenAI, Ollama and Anthropic clients.",
        epilog=_EPILOG,
        usage="miner serve [options]",
    )
    parser.set_defaults(run=run, flags=_FLAGS)
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="address to listen on (MINER_SERVE_HOST, 127.0.0.1)")
    add("--port", metavar="N", type=number, help="port to listen on; 0: any free one (MINER_SERVE_PORT, 8088)")
    add("--backend", metavar="NAME", help="one of those that `miner backends` lists (LLM_BACKEND)")
    add("--model", metavar="NAME", help="the model of requests that name none (DEFAULT_MODEL)")
    add(
        "--allow-unauthenticated",
        action="store_true",
        default=None,
        help="serve a non-loopback address without API keys",
    )
    add("--log", metavar="FORMAT", help="text or json; off: no access log (MINER_SERVE_LOG, text)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical (MINER_LOG_LEVEL, info)")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped by a signal; return the exit status."""
    from miner.config.config import MinerConfig
    from miner.gateway.settings import GatewaySettings

    try:
        from miner.gateway.server.run import run as serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("miner"):
            raise
        raise ConfigError(
            f"`miner serve` needs the package {error.name.partition('.')[0]}, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[serve]"',
        ) from error

    settings = overrides(args)
    if getattr(args, "debug", False):
        settings.setdefault("log_level", "debug")
    config = MinerConfig(**{name: settings.pop(name) for name in ("default_model",) if name in settings})
    return serve(GatewaySettings(**settings), lambda: chosen_backend(args.backend, config, serving=True))
