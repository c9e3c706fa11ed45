"""Every setting of the gateway in `miner serve --help`: its option, variable, value in force and where that is from."""

from __future__ import annotations

import argparse
import shutil
import textwrap

from miner.cli.configuration.settings import DescribedSetting, described_settings, mistyped_variables, unreadable_dotenv
from miner.cli.output.tables import cell_len, printable
from miner.gateway.settings import GatewaySettings

GROUPS: dict[str, tuple[str, ...]] = {
    "address": ("serve_host", "serve_port", "serve_keepalive"),
    "keys and access": (
        "api_keys", "api_keys_file", "serve_allow_unauthenticated", "serve_allowed_hosts", "serve_trusted_proxies",
        "serve_cors_origins", "serve_metrics",
    ),
    "models": ("serve_preload", "serve_any_model_name", "serve_unsupported", "serve_neutralize"),
    "limits per key or client": ("rate_limit_requests", "rate_limit_tokens", "rate_limit_concurrency"),
    "queue": ("serve_max_running", "serve_max_queued", "serve_queue_timeout", "serve_admission_timeout"),
    "requests": (
        "serve_max_body", "serve_body_budget", "serve_body_timeout", "serve_write_timeout", "serve_heartbeat",
        "serve_stall", "serve_grace",
    ),
    "stored responses and batches": (
        "serve_store", "serve_store_file", "serve_responses_max_count", "serve_responses_max_bytes",
        "serve_responses_max_age", "serve_batch_max_bytes", "serve_batch_max_age", "serve_batch_concurrency",
    ),
    "log": ("serve_log", "log_level", "serve_log_prompts"),
}  # fmt: skip
"""Title -> fields. Those that stand in none come last, under "others"."""
_WIDEST = 78


def settings_text(args: argparse.Namespace) -> str:
    """All settings of the gateway, in groups. Never fails: what is wrong with one stands in its place.

    Args:
        args: the options before `--help`.
    """
    described = {each.name: each for each in described_settings([GatewaySettings], args)}
    flags: dict[str, str] = getattr(args, "flags", {})
    lines = [
        "settings of the gateway:",
        *_wrapped("Settings of the backends and models: `miner config show --all`, .env.example.", 2),
    ]
    for title, fields in grouped(described).items():
        lines += ["", f"  {title}:"]
        for field in fields:
            lines += _entry(described[field], flags.get(field))
    wrong = [unreadable_dotenv(), *mistyped_variables()]
    lines += [line for text in filter(None, wrong) for line in ["", *_wrapped(f"PROBLEM: {text}", 2)]]
    return "\n".join(lines)


def grouped(described: dict[str, DescribedSetting]) -> dict[str, list[str]]:
    """The fields of each group, and the others; none is left out."""
    groups = {title: [field for field in fields if field in described] for title, fields in GROUPS.items()}
    known = {field for fields in GROUPS.values() for field in fields}
    others = [field for field in described if field not in known]
    return groups | ({"others": others} if others else {})


def _entry(setting: DescribedSetting, argument: str | None) -> list[str]:
    option = f"--{argument.replace('_', '-')}, " if argument else ""
    value = printable(setting.text, limit=300)
    facts = f"{value} ({setting.source})"
    head = f"    {option}{setting.variable}"
    lines = [f"{head} = {facts}"]
    if cell_len(lines[0]) > _width():
        lines = [head, *_wrapped(f"= {facts}", 6)]
    if setting.problem is not None:
        lines += _wrapped(f"PROBLEM: {setting.problem}", 8)
    return [*lines, *_wrapped(setting.description, 8)]


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, _width(), initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def _width() -> int:
    return max(30, min(_WIDEST, shutil.get_terminal_size().columns - 2))
