"""ollama."""

import json

from common import CITY_SCHEMA, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, raised, run
from ollama import Client, ResponseError

real, scripted = Client(host=REAL), Client(host=SCRIPTED)


def user(text):
    return [{"role": "user", "content": text}]


def reply():
    return real.chat("demo", user(QUESTION), options={"num_predict": 9}).message.content


def stream():
    return sum(bool(part.message.content) for part in real.chat("demo", user(QUESTION), stream=True,
                                                               options={"num_predict": 9}))  # fmt: skip


def tools():
    messages = user(WEATHER)
    while True:
        response = scripted.chat("m", messages, tools=[get_weather])
        if not response.message.tool_calls:
            return response.message.content
        messages.append(response.message)
        for call in response.message.tool_calls:
            result = get_weather(**call.function.arguments)
            messages.append({"role": "tool", "content": result, "tool_name": call.function.name})


def structured():
    return json.loads(scripted.chat("m", user("A city"), format=CITY_SCHEMA).message.content)


def overflow():
    return raised(ResponseError, lambda: real.chat("demo", user(TOO_LONG)))


run(reply=reply, stream=stream, tools=tools, structured=structured, overflow=overflow)
