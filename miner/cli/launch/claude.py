"""Claude Code. The variables are those that its binary reads (2.1.197)."""

from __future__ import annotations

from miner.cli.launch.node import Node
from miner.cli.launch.setup import Setup

_MODELS = (
    "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_DEFAULT_FABLE_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL",
)  # fmt: skip
_OTHER_PROVIDERS = (
    "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_ANTHROPIC_AWS", "CLAUDE_CODE_USE_GATEWAY",
    "ANTHROPIC_UNIX_SOCKET", "ANTHROPIC_CUSTOM_HEADERS",
)  # fmt: skip
"""They would win over the address below, or would be sent to it."""
_LEAST_WINDOW = 100_000
"""It takes a shorter CLAUDE_CODE_AUTO_COMPACT_WINDOW for this."""
_MOST_RESERVED = 20_000
"""Tokens that it keeps free for a response at most."""


def claude(node: Node) -> Setup:
    """All model variables, a prompt that stays the same from turn to turn, and no reports to its maker."""
    environment: dict[str, str | None] = {
        "ANTHROPIC_BASE_URL": node.url,
        "ANTHROPIC_AUTH_TOKEN": node.key,
        **dict.fromkeys(_MODELS, node.model),
        # A line in the system prompt that changes with every request: nothing would be read from the cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        # A system message with the tokens left after every tool result.
        "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_FEEDBACK_COMMAND": "1",
        "DISABLE_BUG_COMMAND": "1",
        "DISABLE_COST_WARNINGS": "1",
        # A long prompt takes minutes on a processor; the gateway sends pings meanwhile.
        "API_TIMEOUT_MS": "3600000",
        **dict.fromkeys(_OTHER_PROVIDERS),
    }
    if node.context is not None:
        environment |= _context(node.context)
    return Setup(("claude",), environment)


def _context(context: int) -> dict[str, str | None]:
    """The conversation is summarized before it and a response fill the context."""
    output = min(32_000, max(1024, context // 8))
    limits: dict[str, str | None] = {
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(output),
    }
    if context < _LEAST_WINDOW:
        # A part of the shortest window that it knows.
        full = max(context - output - context // 16, 1)
        percent = 100 * full / (_LEAST_WINDOW - min(output, _MOST_RESERVED))
        limits["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"] = f"{percent:.2f}"
    return limits
