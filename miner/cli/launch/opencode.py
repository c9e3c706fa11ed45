"""opencode: a provider with limits, in a file that OPENCODE_CONFIG names (1.18)."""

from __future__ import annotations

import json
from typing import Any

from miner.cli.launch.files import directory
from miner.cli.launch.node import AGENT_CONTEXT, Node
from miner.cli.launch.setup import Setup, SetupFile


def opencode(node: Node) -> Setup:
    """The provider; the key is read from the environment."""
    path = directory() / "opencode.json"
    name = f"miner/{node.model}"
    config: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "model": name,
        "small_model": name,
        "share": "disabled",
        "autoupdate": False,
        "provider": {
            "miner": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "miner",
                "options": {"baseURL": node.v1, "apiKey": "{env:OPENAI_API_KEY}", "timeout": False},
                "models": {
                    node.model: {
                        "name": node.model,
                        "tool_call": True,
                        "attachment": node.images,
                        "limit": {"context": node.context or AGENT_CONTEXT, "output": node.output},
                    }
                },
            }
        },
    }
    environment: dict[str, str | None] = {"OPENAI_API_KEY": node.key, "OPENCODE_CONFIG": str(path)}
    return Setup(("opencode",), environment, (SetupFile(path, json.dumps(config, indent=2) + "\n"),))
