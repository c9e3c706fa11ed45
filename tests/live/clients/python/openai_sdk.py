"""openai."""

import json

from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, TOOL, WEATHER, get_weather, run
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

real = OpenAI(base_url=f"{REAL}/v1", api_key=KEY, max_retries=0)
scripted = OpenAI(base_url=f"{SCRIPTED}/v1", api_key=KEY, max_retries=0)


class City(BaseModel):
    city: str
    population: int


def user(text):
    return [{"role": "user", "content": text}]


def reply():
    return real.chat.completions.create(model="demo", messages=user(QUESTION), max_tokens=9).choices[0].message.content


def stream():
    chunks = real.chat.completions.create(model="demo", messages=user(QUESTION), max_tokens=9, stream=True)
    return sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)


def tools():
    messages = user(WEATHER)
    while True:
        with scripted.chat.completions.stream(model="m", messages=messages, tools=[TOOL]) as events:
            message = events.get_final_completion().choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message.model_dump())
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def responses_tools():
    tool = {"type": "function", **TOOL["function"], "strict": False}
    response = scripted.responses.create(model="m", input=WEATHER, tools=[tool])
    while calls := [item for item in response.output if item.type == "function_call"]:
        outputs = [
            {"type": "function_call_output", "call_id": c.call_id, "output": get_weather(**json.loads(c.arguments))}
            for c in calls
        ]
        response = scripted.responses.create(model="m", input=outputs, tools=[tool], previous_response_id=response.id)
    return response.output_text


def responses_stream():
    with real.responses.stream(model="demo", input=QUESTION, max_output_tokens=9) as events:
        return sum(event.type == "response.output_text.delta" for event in events)


def structured():
    parsed = scripted.chat.completions.parse(model="m", messages=user("A city"), response_format=City)
    again = scripted.responses.parse(model="m", input="A city", text_format=City)
    assert parsed.choices[0].message.parsed == again.output_parsed
    return again.output_parsed.model_dump()


def overflow():
    try:
        real.chat.completions.create(model="demo", messages=user(TOO_LONG))
    except BadRequestError as error:
        return f"{error.code}: {error}"
    return "nothing was raised"


run(
    reply=reply,
    stream=stream,
    tools=tools,
    structured=structured,
    overflow=overflow,
    responses_tools=responses_tools,
    responses_stream=responses_stream,
)
