"""Lines in system prompts that clients write for their own vendor's server, not for the model.

A line that changes with every request, at the beginning of a prompt, makes an engine read all of the prompt again:
what is behind it is no longer the prefix that it has computed. So such lines are removed before the service is called,
and named in `x-miner-ignored-params`. Only what is certainly not for the model stands in the table: dates, directories
and the tokens that are left stay, and nothing is moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from miner.gateway.dialect import Call

_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class ClientLine:
    """One kind of line."""

    name: str
    """Its name in the setting, and in `x-miner-ignored-params`."""
    sent_by: str
    """The client that writes it."""
    meaning: str
    """What it is, and where that is known from."""
    marker: str
    """Text that stands in each such line: a system prompt without it is not searched."""
    pattern: re.Pattern[str]
    """The line with the line break behind it."""


CLIENT_LINES: Final = (
    ClientLine(
        name="x-anthropic-billing-header",
        sent_by="Claude Code since 2.1.36",
        meaning=(
            "The first system block, `x-anthropic-billing-header: cc_version=...; cc_entrypoint=...; cch=...;`, for "
            "Anthropic's billing, with another checksum each time (anthropics/claude-code issues 24168 and 68900; vLLM "
            "leaves it out as well: vllm-project/vllm pull request 36829). "
            "CLAUDE_CODE_ATTRIBUTION_HEADER=0 turns it off at the client."
        ),
        marker="x-anthropic-billing-header:",
        # Fields only: where the blocks were joined without a line break, the prompt begins right behind the last one.
        pattern=re.compile(
            r"^[ \t]*x-anthropic-billing-header:(?:[ \t]*[A-Za-z_][\w.-]*=[^;\n]*(?:;|(?=\r?\n)|\Z))+[ \t]*(?:\r?\n)*",
            re.MULTILINE,
        ),
    ),
)
"""All kinds, each of which can be switched (`MINER_SERVE_NEUTRALIZE`)."""

NAMES: Final = tuple(line.name for line in CLIENT_LINES)
_EVERY = ("all", "true", "yes", "on", "1")
_NO = ("none", "false", "no", "off", "0", "")


def client_lines_of(setting: str) -> tuple[ClientLine, ...]:
    """The kinds that a setting switches on: `all`, `none`, or names, comma-separated.

    Raises:
        ValueError: names an unknown one.
    """
    text = setting.strip().lower()
    if text in _EVERY:
        return CLIENT_LINES
    if text in _NO:
        return ()
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            raise ValueError(f"must be all, none, or names of {', '.join(NAMES)}, comma-separated")
    return tuple(line for line in CLIENT_LINES if line.name in names)


def neutralize(call: Call, lines: tuple[ClientLine, ...]) -> list[str]:
    """Remove these lines from the system messages of a call; return the names of those that were there. A message of
    nothing else goes with its line; all others keep their places.
    """
    found = []
    for line in lines:
        # The choices of a call share their messages, or have copies of the same ones.
        removed = [
            _remove(arguments["messages"], line, call)
            for arguments in call.arguments
            if isinstance(arguments.get("messages"), list)
        ]
        if any(removed):
            found.append(line.name)
    return found


def _remove(messages: list[Any], line: ClientLine, call: Call) -> bool:
    """Remove a kind of line; whether there was one."""
    removed = False
    for place in reversed(range(len(messages))):
        message = messages[place]
        if not isinstance(message, dict) or message.get("role") not in _SYSTEM_ROLES:
            continue
        content = _without(message.get("content"), line)
        if content is None:
            continue
        removed = True
        if content or len(messages) == 1:
            messages[place] = {**message, "content": content}
        else:
            del messages[place]
            call.names.drop("messages", place, len(messages))
    return removed


def _without(content: Any, line: ClientLine) -> Any:
    """The content without the line; None if it has none."""
    if isinstance(content, str):
        if line.marker not in content:
            return None
        rest, count = line.pattern.subn("", content)
        return rest if count else None
    if not isinstance(content, list):
        return None
    kept, removed = [], False
    for part in content:
        text = _without(part.get("text"), line) if isinstance(part, dict) else None
        removed = removed or text is not None
        if text is None:
            kept.append(part)
        elif text:
            kept.append({**part, "text": text})
    return kept if removed else None
