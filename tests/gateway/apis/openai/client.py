"""The official `openai` package as a client, and what the tests send."""

from __future__ import annotations

from openai import AsyncOpenAI

KEY = "sk-any-key-will-do-here"
USER = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client(served, **options):
    return AsyncOpenAI(base_url=served.v1, api_key=KEY, max_retries=0, **options)
