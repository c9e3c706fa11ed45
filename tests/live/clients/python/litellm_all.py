"""litellm, over all three APIs."""

import json

import litellm
from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, TOOL, WEATHER, get_weather, raised, run

litellm.suppress_debug_info = True
BASES = {"openai": "{}/v1", "anthropic": "{}", "ollama_chat": "{}"}


def cases(provider):
    def complete(base, model, messages, **more):
        base = BASES[provider].format(base)
        return litellm.completion(f"{provider}/{model}", messages, base_url=base, api_key=KEY, num_retries=0, **more)

    def user(text):
        return [{"role": "user", "content": text}]

    def reply():
        return complete(REAL, "demo", user(QUESTION), max_tokens=9).choices[0].message.content

    def stream():
        chunks = complete(REAL, "demo", user(QUESTION), max_tokens=9, stream=True)
        return sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)

    def tools():
        messages = user(WEATHER)
        while True:
            message = complete(SCRIPTED, "m", messages, tools=[TOOL], max_tokens=99).choices[0].message
            if not message.tool_calls:
                return message.content
            messages.append(message.model_dump())
            for call in message.tool_calls:
                result = get_weather(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": result})

    def overflow():
        return raised(Exception, lambda: complete(REAL, "demo", user(TOO_LONG), max_tokens=9))

    every = {"reply": reply, "stream": stream, "tools": tools, "overflow": overflow}
    return {f"{provider}_{case}": call for case, call in every.items()}


run(**cases("openai"), **cases("anthropic"), **cases("ollama_chat"))
