"""langchain-openai, langchain-anthropic and langchain-ollama: the three by the same code."""

from common import KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, get_weather, raised, run
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    city: str
    population: int


def openai(base, model, **more):
    return ChatOpenAI(base_url=f"{base}/v1", model=model, api_key=KEY, max_retries=0, **more)


def responses(base, model, **more):
    return openai(base, model, use_responses_api=True, **more)


def anthropic(base, model, **more):
    more.setdefault("max_tokens", 99)
    return ChatAnthropic(base_url=base, model=model, api_key=KEY, max_retries=0, **more)


def ollama(base, model, max_tokens=None):
    return ChatOllama(base_url=base, model=model, num_predict=max_tokens)


def cases(name, make):
    def reply():
        return text_of(make(REAL, "demo", max_tokens=9).invoke(QUESTION))

    def stream():
        return sum(bool(text_of(chunk)) for chunk in make(REAL, "demo", max_tokens=9).stream(QUESTION))

    def tools():
        model = make(SCRIPTED, "m").bind_tools([get_weather])
        messages = [HumanMessage(WEATHER)]
        while True:
            message = None
            for chunk in model.stream(messages):
                message = chunk if message is None else message + chunk
            if not message.tool_calls:
                return text_of(message)
            messages.append(message)
            messages += [ToolMessage(get_weather(**c["args"]), tool_call_id=c["id"]) for c in message.tool_calls]

    def structured():
        return make(SCRIPTED, "m").with_structured_output(City).invoke("A city").model_dump()

    def overflow():
        return raised(Exception, lambda: make(REAL, "demo").invoke(TOO_LONG))

    every = {"reply": reply, "stream": stream, "tools": tools, "structured": structured, "overflow": overflow}
    return {f"{name}_{case}": call for case, call in every.items()}


def text_of(message):
    text = message.text
    return text() if callable(text) and not isinstance(text, str) else str(text)


run(
    **cases("openai", openai),
    **cases("responses", responses),
    **cases("anthropic", anthropic),
    **cases("ollama", ollama),
)
