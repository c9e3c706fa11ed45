"""Programs that take their model from a few variables, or from a file of ours, as their documentation has it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from miner.cli.launch.files import directory, merged_json
from miner.cli.launch.node import AGENT_CONTEXT, Node
from miner.cli.launch.setup import Setup, SetupFile

_ZED_PROVIDER = "local-miner"


def continue_(node: Node) -> Setup:
    """Continue's command line `cn`, with a config.yaml of ours: JSON is YAML."""
    path = directory() / "continue.yaml"
    config = {
        "name": "miner",
        "version": "1.0.0",
        "schema": "v1",
        "models": [
            {
                "name": node.model,
                "provider": "openai",
                "model": node.model,
                "apiBase": node.v1,
                "apiKey": node.key,
                "roles": ["chat", "edit", "apply"],
                "capabilities": ["tool_use", *(["image_input"] if node.images else [])],
                "defaultCompletionOptions": {
                    "contextLength": node.context or AGENT_CONTEXT,
                    "maxTokens": node.output,
                },
            }
        ],
    }
    note = f"In an editor, choose {path} as a local config, or copy its model to ~/.continue/config.yaml."
    file = SetupFile(path, json.dumps(config, indent=2) + "\n")
    return Setup(("cn", "--config", str(path)), {"CONTINUE_TELEMETRY_ENABLED": "0"}, (file,), (note,))


def cline(node: Node) -> Setup:
    """Cline, by its provider for Ollama, which has the native API of this gateway too."""
    path = Path("~/.cline/data/settings/providers.json").expanduser()
    settings: dict[str, Any] = {"provider": "ollama", "model": node.model, "baseUrl": node.v1, "apiKey": node.key}
    changes: dict[str, object] = {
        "version": 1,
        "lastUsedProvider": "ollama",
        "providers": {"ollama": {"settings": settings, "tokenSource": "manual"}},
    }
    note = f"In an editor: API provider OpenAI Compatible, base URL {node.v1}, model {node.model}" + (
        f", context window {node.context}." if node.context else "."
    )
    return Setup(("cline",), {}, (SetupFile(path, merged_json(path, changes), owned=False),), (note,))


def zed(node: Node) -> Setup:
    """Zed, by a provider in its settings; it reads the key from the variable that is named after the provider."""
    if sys.platform == "darwin":
        base = Path("~/.config")
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or "~/AppData/Roaming")
    else:
        stated = os.environ.get("XDG_CONFIG_HOME", "")
        base = Path(stated if os.path.isabs(stated) else "~/.config")
    path = base.expanduser() / ("Zed" if sys.platform == "win32" else "zed") / "settings.json"
    model = {
        "name": node.model,
        "display_name": node.model,
        "max_tokens": node.context or AGENT_CONTEXT,
        "max_output_tokens": node.output,
        "capabilities": {
            "tools": True, "images": node.images, "parallel_tool_calls": False, "prompt_cache_key": False,
        },
    }  # fmt: skip
    changes: dict[str, object] = {
        "language_models": {"openai_compatible": {_ZED_PROVIDER: {"api_url": node.v1, "available_models": [model]}}},
        "agent": {"default_model": {"provider": _ZED_PROVIDER, "model": node.model}},
    }
    note = "Zed reads the key from LOCAL_MINER_API_KEY when it starts; close it first if it runs."
    file = SetupFile(path, merged_json(path, changes), owned=False)
    return Setup(("zed", "--wait"), {"LOCAL_MINER_API_KEY": node.key}, (file,), (note,))


def open_webui(node: Node) -> Setup:
    """Open WebUI, by variables that it does not store."""
    environment: dict[str, str | None] = {
        "OPENAI_API_BASE_URL": node.v1,
        "OPENAI_API_KEY": node.key,
        "OPENAI_API_BASE_URLS": None,
        "OPENAI_API_KEYS": None,
        "DEFAULT_MODELS": node.model,
        "ENABLE_OLLAMA_API": "false",
        "ENABLE_PERSISTENT_CONFIG": "false",  # else it stores them, and reads what it stored at the next start
        "ANONYMIZED_TELEMETRY": "false",
        "DO_NOT_TRACK": "true",
        "SCARF_NO_ANALYTICS": "true",
    }
    return Setup(("open-webui", "serve"), environment, (), ("It serves http://127.0.0.1:8080; --port N changes that.",))


def aider(node: Node) -> Setup:
    """Aider, by variables and a file with the model's context."""
    path = directory() / "aider-models.json"
    entry = {
        "max_input_tokens": node.context or AGENT_CONTEXT, "max_output_tokens": node.output,
        "input_cost_per_token": 0, "output_cost_per_token": 0, "litellm_provider": "openai", "mode": "chat",
    }  # fmt: skip
    environment: dict[str, str | None] = {
        "OPENAI_API_BASE": node.v1,
        "OPENAI_API_KEY": node.key,
        "AIDER_MODEL": f"openai/{node.model}",
        "AIDER_WEAK_MODEL": f"openai/{node.model}",
        "AIDER_MODEL_METADATA_FILE": str(path),
        "AIDER_ANALYTICS_DISABLE": "true",
        "AIDER_CHECK_UPDATE": "false",
    }
    file = SetupFile(path, json.dumps({f"openai/{node.model}": entry}, indent=2) + "\n")
    return Setup(("aider",), environment, (file,))


def goose(node: Node) -> Setup:
    """Goose, by variables, which win over its stored configuration."""
    environment: dict[str, str | None] = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": node.model,
        "OPENAI_HOST": node.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": node.key,
    }
    if node.context is not None:
        environment["GOOSE_CONTEXT_LIMIT"] = str(node.context)
    return Setup(("goose", "session"), environment)


def qwen(node: Node) -> Setup:
    """Qwen Code, by variables."""
    environment: dict[str, str | None] = {
        "OPENAI_BASE_URL": node.v1, "OPENAI_API_KEY": node.key, "OPENAI_MODEL": node.model,
    }  # fmt: skip
    return Setup(("qwen",), environment)


def copilot(node: Node) -> Setup:
    """GitHub Copilot's command line with a provider of one's own."""
    environment: dict[str, str | None] = {
        "COPILOT_PROVIDER_BASE_URL": node.v1,
        "COPILOT_PROVIDER_API_KEY": node.key,
        "COPILOT_PROVIDER_WIRE_API": "responses",
        "COPILOT_MODEL": node.model,
    }
    return Setup(("copilot",), environment)
