"""A generate-only backend that echoes its prompt. LLMService adds everything else: chat, streams, health."""

from __future__ import annotations

from typing import Any

from miner.core.llms import LLMService
from miner.errors import ModelNotFoundError

MODELS = ("echo", "shout")


class EchoService(LLMService):
    """Repeats the prompt, word by word, up to max_tokens words."""

    name = "echo"

    def __init__(self, config: Any = None) -> None:
        self.config = config

    async def generate(self, prompt: str, model: str | None, max_tokens: int, temperature: float, top_p: float) -> str:  # type: ignore[override]
        """The first `max_tokens` words of the prompt."""
        text = " ".join(prompt.split()[:max_tokens])
        return text.upper() if model == "shout" else text

    async def _get_model(self, model_name: str) -> str:
        if model_name not in MODELS:
            raise ModelNotFoundError(f"echo has no model {model_name!r}.", model=model_name, available=MODELS)
        return model_name
