"""The programs that `miner launch` knows."""

from __future__ import annotations

from miner.cli.launch.claude import claude
from miner.cli.launch.codex import codex
from miner.cli.launch.opencode import opencode
from miner.cli.launch.others import aider, cline, continue_, copilot, goose, open_webui, qwen, zed
from miner.cli.launch.setup import Client

CLIENTS = {
    client.name: client
    for client in (
        Client("claude", "Claude Code", ("claude",), "npm install -g @anthropic-ai/claude-code", claude),
        Client("codex", "Codex", ("codex",), "npm install -g @openai/codex", codex),
        Client("opencode", "opencode", ("opencode",), "npm install -g opencode-ai", opencode),
        Client("continue", "Continue", ("cn",), "npm install -g @continuedev/cli", continue_),
        Client("cline", "Cline", ("cline",), "npm install -g cline", cline),
        Client("copilot", "GitHub Copilot CLI", ("copilot",), "npm install -g @github/copilot", copilot),
        Client("qwen", "Qwen Code", ("qwen",), "npm install -g @qwen-code/qwen-code", qwen),
        Client("aider", "Aider", ("aider",), "pip install aider-install && aider-install", aider),
        Client("goose", "goose", ("goose",), "https://block.github.io/goose", goose),
        Client("zed", "Zed", ("zed", "zeditor"), "https://zed.dev/download", zed),
        Client("open-webui", "Open WebUI", ("open-webui",), "pip install open-webui", open_webui, agent=False),
    )
}
