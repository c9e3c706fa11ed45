"""openai-agents, with its default model (responses) and the chat model."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, run
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

set_tracing_disabled(True)


class City(BaseModel):
    city: str
    population: int


def cases(name, kind):
    def agent(base, model, **more):
        client = AsyncOpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0)
        return Agent(name="a", model=kind(model, client), **more)

    few = {"model_settings": ModelSettings(max_tokens=9)}

    async def reply():
        # Not on the real engine: a response that max_output_tokens ends is an error of this client.
        return (await Runner.run(agent(SCRIPTED, "m"), QUESTION)).final_output

    async def stream():
        events = Runner.run_streamed(agent(SCRIPTED, "m"), QUESTION).stream_events()
        return len([e async for e in events if e.type == "raw_response_event" and e.data.type.endswith("text.delta")])

    async def tools():
        return (await Runner.run(agent(SCRIPTED, "m", tools=[function_tool(get_weather)]), WEATHER)).final_output

    async def structured():
        return (await Runner.run(agent(SCRIPTED, "m", output_type=City), "A city")).final_output.model_dump()

    async def overflow():
        try:
            await Runner.run(agent(REAL, "demo", **few), TOO_LONG)
        except BadRequestError as error:
            return f"{error.code}: {error}"

    every = {"reply": reply, "stream": stream, "tools": tools, "structured": structured, "overflow": overflow}
    return {f"{name}_{case}": call for case, call in every.items()}


run(**cases("responses", OpenAIResponsesModel), **cases("chat", OpenAIChatCompletionsModel))
