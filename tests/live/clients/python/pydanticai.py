"""pydantic-ai, over OpenAI's two APIs and Anthropic's."""

from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, run
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str
    population: int


def chat(base, name):
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{base}/v1", api_key=KEY))


def responses(base, name):
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=f"{base}/v1", api_key=KEY))


def anthropic(base, name):
    return AnthropicModel(name, provider=AnthropicProvider(base_url=base, api_key=KEY))


def cases(name, make):
    few = {"max_tokens": 9}

    async def reply():
        return (await Agent(make(REAL, "demo"), model_settings=few).run(QUESTION)).output

    async def stream():
        async with Agent(make(REAL, "demo"), model_settings=few).run_stream(QUESTION) as result:
            return len([piece async for piece in result.stream_text(delta=True, debounce_by=None)])

    async def tools():
        return (await Agent(make(SCRIPTED, "m"), tools=[get_weather]).run(WEATHER)).output

    async def structured():
        if name == "anthropic":
            return (await Agent(make(SCRIPTED, "m"), output_type=City).run("A city")).output.model_dump()
        by_tool = (await Agent(make(SCRIPTED, "m"), output_type=City).run("A city")).output
        native = (await Agent(make(SCRIPTED, "m"), output_type=NativeOutput(City)).run("A city")).output
        assert by_tool == native
        return native.model_dump()

    async def overflow():
        try:
            await Agent(make(REAL, "demo"), model_settings=few).run(TOO_LONG)
        except ModelHTTPError as error:
            return f"{error.status_code}: {error.body}"

    every = {"reply": reply, "stream": stream, "tools": tools, "structured": structured, "overflow": overflow}
    return {f"{name}_{case}": call for case, call in every.items()}


run(**cases("chat", chat), **cases("responses", responses), **cases("anthropic", anthropic))
