"""`miner serve`: run the gateway, an HTTP server in front of a backend."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from miner.cli.backend_choice import chosen_backend
from miner.cli.output.tables import print_json
from miner.cli.parser import UsageError, add_config_option, number, overrides
from miner.cli.verbosity import level_of
from miner.core._typing import override
from miner.core.controlling_terminal import has_terminal
from miner.errors import ConfigError, MinerError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig
    from miner.core.llms.LLMService import LLMService
    from miner.gateway.settings import GatewaySettings

logger = logging.getLogger("miner.gateway")

_EPILOG = """\
examples:
  miner serve
  miner serve --config miner.toml
  miner serve --check
  miner serve --backend vllm --port 9000
  MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())') \\
      miner serve --host 0.0.0.0

OpenAI clients (base URL http://127.0.0.1:8088/v1), Ollama and Anthropic clients
(http://127.0.0.1:8088) work unchanged. GET /docs lists the routes.

With a miner.toml (--config, MINER_CONFIG, ./miner.toml, or in the user's config
directory) all its models are served; `miner config init` writes one.

An address that others can reach needs API keys (MINER_API_KEYS, `miner keys`).
On SIGTERM or Ctrl-C running requests finish within the grace period
(MINER_SERVE_GRACE, 30 s); a second signal cancels them. SIGHUP reads the
miner.toml again; that of a closed terminal stops it, as SIGTERM does.

exit status:
  0    stopped by a signal
  1    the server failed
  2    invalid usage or setting
  130  stopped by a second Ctrl-C (143: by a second SIGTERM)
"""
_FLAGS = {
    "serve_host": "host", "serve_port": "port", "serve_log": "log", "log_level": "log_level", "default_model": "model",
    "serve_allow_unauthenticated": "allow_unauthenticated", "config": "config",
}  # fmt: skip


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Serve a backend over HTTP to OpenAI, Ollama and Anthropic clients.",
        epilog=_EPILOG,
        usage="miner serve [options]",
        add_help=False,
    )
    parser.add_argument(
        "-h", "--help", action=_Help, nargs=0, help="show this and all settings of the gateway, and exit"
    )
    parser.set_defaults(run=run, flags=_FLAGS, own_log=True)
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="address to listen on (MINER_SERVE_HOST, 127.0.0.1)")
    add("--port", metavar="N", type=number, help="port to listen on; 0: any free one (MINER_SERVE_PORT, 8088)")
    add_config_option(parser)
    add("--backend", metavar="NAME", help="one of those that `miner backends` lists (LLM_BACKEND)")
    add("-m", "--model", metavar="NAME", help="the model of requests that name none (DEFAULT_MODEL)")
    add(
        "--allow-unauthenticated",
        action="store_true",
        default=None,
        help="serve a non-loopback address without API keys",
    )
    add("--check", action="store_true", help="check settings, keys, port, models and memory, and exit")
    add("--json", action="store_true", help="with --check: print JSON instead of text")
    add("--log", metavar="FORMAT", help="text or json; off: no access log (MINER_SERVE_LOG, text)")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped by a signal; return the exit status."""
    if not args.check and hasattr(signal, "SIGHUP") and not has_terminal():
        # It asks to read the configuration again, which is about to be read: it must not end a server that starts.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from miner.gateway.server.run import run as serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("miner"):
            raise
        raise ConfigError(
            f"`miner serve` needs the package {error.name.partition('.')[0]}, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[serve]"',
        ) from error

    args.log_level = level_of(args)
    if args.check:
        return _check(args)
    if args.json:
        raise UsageError("--json is for --check.", operator_hint="--log json writes the log as JSON.")
    settings, config = _settings(args)
    try:
        return serve(settings, lambda: _service(args, config))
    except MinerError as error:
        if settings.serve_log != "json":
            raise
        return _report_as_record(error)


def _report_as_record(error: MinerError) -> int:
    """Report an error as the log has all else that is written: as an object. Returns the exit status."""
    from miner.cli.output.errors import complain, exit_status
    from miner.gateway.server.log_format import JsonFormatter

    status = exit_status(error)
    record = logger.makeRecord(logger.name, logging.CRITICAL, __file__, 0, "%s", (error.message,), None)
    record.details = {"event": "failed", "code": error.code, "hint": error.hints or None, "exit_status": status}
    complain(JsonFormatter().format(record))
    return status


def _settings(args: argparse.Namespace) -> tuple[GatewaySettings, MinerConfig]:
    from miner.config.config import MinerConfig
    from miner.gateway.settings import GatewaySettings

    given = overrides(args)
    config = MinerConfig(**{name: given.pop(name) for name in ("config", "default_model") if name in given})
    return GatewaySettings(**given), config


def _check(args: argparse.Namespace) -> int:
    from miner.cli.serving.check import check, print_check

    found = check(args, lambda: _settings(args), lambda config: _service(args, config))
    if args.json:
        print_json(found.as_json())
    else:
        print_check(found)
    return 0 if found.ok else 2


class _Help(argparse.Action):
    """`--help`, with what is imported only for it."""

    @override
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any, **__: Any) -> None:
        from miner.cli.serving.help import settings_text

        parser.print_help()
        print(f"\n{settings_text(namespace)}")
        parser.exit()


def _service(args: argparse.Namespace, config: MinerConfig) -> LLMService:
    """What is served: --backend, else the file of --config, else what the settings say.

    Raises:
        ConfigError: it is unavailable, or a setting is wrong.
    """
    from miner.config.file.find import find_config
    from miner.core.llms.registry import POOL

    if args.config and args.backend not in (None, POOL):
        raise UsageError("--config and --backend exclude each other.", operator_hint="The file says which backends.")
    service = chosen_backend(args.backend or (POOL if args.config else None), config, serving=True)
    if service.config_state is None:  # else what follows would import all of the pool in vain
        path = find_config(config.config)
        if path is not None:
            from miner.config.file.problems import shown_path

            reason = f"--backend {args.backend}" if args.backend else f"LLM_BACKEND={config.llm_backend}"
            logger.warning("%s is not served: %s is set.", shown_path(path), reason)
        return service
    _check_model(args, service)
    return service


def _check_model(args: argparse.Namespace, service: LLMService) -> None:
    """Whether --model is the default model of the file.

    Raises:
        ConfigError: it is not.
    """
    from miner.config.file.problems import shown_path
    from miner.core.llms.llm_pool import PoolService

    if not isinstance(service, PoolService):
        return
    named = service.served(args.model) if args.model else None
    default = service.served(None)
    if args.model and (named is None or named is not default):
        file = shown_path(service.config_path)
        if named is None:
            raise ConfigError(f"--model {args.model}: {file} has no such model.")
        raise ConfigError(
            f"--model {args.model}: the default model of {file} is {default.name if default else None}.",
            operator_hint="Set model in [defaults] of the file.",
        )
