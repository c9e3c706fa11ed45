"""Codex: a profile of its own (`miner.config.toml` beside the user's `config.toml`) and a model catalog (0.171)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from miner.cli.launch.files import MARK, directory
from miner.cli.launch.node import AGENT_CONTEXT, Node
from miner.cli.launch.setup import Setup, SetupFile

PROFILE = "miner"
_INSTRUCTIONS = """\
You are Codex, a coding agent in the user's terminal. You work in their repository with the tools that you are given.

- Find out before you act: list and read the files that matter with the shell tool. Prefer `rg` to `grep`.
- Make the smallest change that solves the task, in the style of the code around it. Do not touch what is not asked for.
- Run the tests or the program to check your change. Say so if you could not.
- Never discard work of the user's: no `git reset --hard`, no `git checkout` of files that you did not change.
- Keep going until the task is done. Call one tool at a time and read its result before you call the next.
- Answer briefly: what you did, where, and what is left.
"""
"""The prompt of the catalog's own models is of 5,000 tokens and about tools that only they have."""


def codex(node: Node) -> Setup:
    """The profile with its provider, and the catalog with the context in force."""
    home = Path(os.environ.get("CODEX_HOME") or "~/.codex").expanduser()
    catalog = directory() / "codex-models.json"
    context = node.context or AGENT_CONTEXT
    lines = [
        MARK,
        f"model = {json.dumps(node.model)}",
        f"model_provider = {json.dumps(PROFILE)}",
        f"model_catalog_json = {json.dumps(str(catalog))}",
        f"model_context_window = {context}",
        f"model_auto_compact_token_limit = {context * 4 // 5}",
        'web_search = "disabled"',
        "check_for_update_on_startup = false",
        "",
        f"[model_providers.{PROFILE}]",
        'name = "miner"',
        f"base_url = {json.dumps(node.v1)}",
        'env_key = "OPENAI_API_KEY"',
        'wire_api = "responses"',
        "requires_openai_auth = false",
        "stream_idle_timeout_ms = 3600000",
        "",
        "[analytics]",
        "enabled = false",
        "",
        "[feedback]",
        "enabled = false",
        "",
    ]
    files = (
        SetupFile(home / f"{PROFILE}.config.toml", "\n".join(lines)),
        SetupFile(catalog, json.dumps({"models": [_entry(node, context)]}, indent=2) + "\n"),
    )
    return Setup(("codex", "--profile", PROFILE), {"OPENAI_API_KEY": node.key}, files)


def _entry(node: Node, context: int) -> dict[str, Any]:
    """The model as Codex's catalog describes one; all fields that it requires."""
    return {
        "slug": node.model,
        "display_name": node.model,
        "description": "A model of this node.",
        "context_window": context,
        "max_context_window": context,
        "effective_context_window_percent": 95,
        "base_instructions": _INSTRUCTIONS,
        "shell_type": "default",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 0,
        "truncation_policy": {"mode": "bytes", "limit": min(10_000, context)},
        "input_modalities": ["text", "image"] if node.images else ["text"],
        "support_verbosity": False,
        "supports_parallel_tool_calls": False,
        "supports_reasoning_summaries": False,
        "supported_reasoning_levels": [],
        "experimental_supported_tools": [],
    }
