"""anthropic."""

from anthropic import Anthropic, BadRequestError, beta_tool
from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, raised, run
from pydantic import BaseModel

real = Anthropic(base_url=REAL, api_key=KEY, max_retries=0)
scripted = Anthropic(base_url=SCRIPTED, api_key=KEY, max_retries=0)


class City(BaseModel):
    city: str
    population: int


def user(text):
    return [{"role": "user", "content": text}]


def reply():
    return real.messages.create(model="demo", messages=user(QUESTION), max_tokens=9).content[0].text


def stream():
    with real.messages.stream(model="demo", messages=user(QUESTION), max_tokens=9) as events:
        return sum(1 for _ in events.text_stream)


def tools():
    runner = scripted.beta.messages.tool_runner(
        model="m", messages=user(WEATHER), max_tokens=99, tools=[beta_tool(get_weather)]
    )
    return runner.until_done().content[0].text


def structured():
    parsed = scripted.messages.parse(model="m", messages=user("A city"), max_tokens=99, output_format=City)
    return parsed.parsed_output.model_dump()


def overflow():
    return raised(BadRequestError, lambda: real.messages.create(model="demo", messages=user(TOO_LONG), max_tokens=9))


run(reply=reply, stream=stream, tools=tools, structured=structured, overflow=overflow)
