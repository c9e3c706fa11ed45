"""A conversation: its messages, and all that goes with each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from miner.core.wire import LLMResponse

_WIRE = ("role", "content", "tool_calls", "tool_call_id", "name")
"""Fields of a message that are sent; the others are for `/save` and the screen."""


@dataclass(slots=True)
class Conversation:
    """What a request is made of, and what `/save` keeps."""

    model: str | None = None
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    """As in OpenAI's API, with `reasoning`, and `stopped` where a response is not complete."""
    options: dict[str, Any] = field(default_factory=dict)
    """Parameters of each request that are not those of the settings."""
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    """As in OpenAI's API; `command` of one is what may run it here."""
    tools_on: bool = True

    @property
    def unanswered(self) -> bool:
        """Whether the last message still waits for a response."""
        return bool(self.messages) and self.messages[-1]["role"] != "assistant"

    @property
    def _has_results(self) -> bool:
        """Whether the last message is the result of a tool call."""
        return bool(self.messages) and self.messages[-1]["role"] == "tool"

    def ask(self, message: dict[str, Any]) -> None:
        """Add a message of the user. One that has had no response gives way to it."""
        if self.unanswered:
            self._drop_from_last_user()
        self.messages.append(message)

    def answer(self, response: LLMResponse, *, stopped: bool = False) -> None:
        """Add the response."""
        message: dict[str, Any] = {"role": "assistant", "content": response.content}
        if response.reasoning:
            message["reasoning"] = response.reasoning
        if response.tool_calls and not stopped:
            message["tool_calls"] = response.tool_calls
        if stopped:
            message["stopped"] = True
        self.messages.append(message)

    def tool_result(self, call: dict[str, Any], result: str) -> None:
        """Add the result of a tool call."""
        name = call["function"]["name"]
        self.messages.append({"role": "tool", "tool_call_id": call["id"], "name": name, "content": result})

    def back_to_last_user(self) -> bool:
        """Remove all after the last message of the user; return whether there is one."""
        last = self._last_user()
        if last is None:
            return False
        del self.messages[last + 1 :]
        return True

    def request(self) -> dict[str, Any]:
        """The arguments of `LLMService.stream`."""
        messages = [{name: each[name] for name in _WIRE if each.get(name) is not None} for each in self.messages]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        arguments: dict[str, Any] = {"messages": messages, "model": self.model, **self.options}
        if self.response_format is not None:
            arguments["response_format"] = self.response_format
        if self.tools and self.tools_on:
            arguments["tools"] = [{"type": "function", "function": tool["function"]} for tool in self.tools]
        if "tools" not in arguments or self._has_results:  # without tools it is refused; for results it would never end
            arguments.pop("tool_choice", None)
        return arguments

    def _last_user(self) -> int | None:
        return next((at for at in reversed(range(len(self.messages))) if self.messages[at]["role"] == "user"), None)

    def _drop_from_last_user(self) -> None:
        last = self._last_user()
        del self.messages[0 if last is None else last :]
