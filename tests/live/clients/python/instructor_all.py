"""instructor, in three modes."""

import instructor
from common import KEY, SCRIPTED, run
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str
    population: int


def made(mode):
    def structured():
        client = instructor.from_openai(OpenAI(base_url=f"{SCRIPTED}/v1", api_key=KEY), mode=mode)
        asked = [{"role": "user", "content": "A city"}]
        return client.chat.completions.create(model="m", messages=asked, response_model=City).model_dump()

    return structured


run(
    structured=made(instructor.Mode.TOOLS),
    json_structured=made(instructor.Mode.JSON),
    schema_structured=made(instructor.Mode.JSON_SCHEMA),
)
