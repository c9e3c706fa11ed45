// openai.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { FUNCTION, KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, count, getWeather, raised, run } from "./common.mjs";

const real = new OpenAI({ baseURL: `${REAL}/v1`, apiKey: KEY, maxRetries: 0 });
const scripted = new OpenAI({ baseURL: `${SCRIPTED}/v1`, apiKey: KEY, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const few = { model: "demo", messages: user(QUESTION), max_tokens: 9 };

await run({
  reply: async () => (await real.chat.completions.create(few)).choices[0].message.content,
  stream: async () =>
    count(await real.chat.completions.create({ ...few, stream: true }), (chunk) => chunk.choices[0]?.delta.content),
  tools: async () => {
    const tool = { ...FUNCTION, function: getWeather, parse: JSON.parse };
    const runner = scripted.chat.completions.runTools({
      model: "m", messages: user(WEATHER), stream: true, tools: [{ type: "function", function: tool }],
    });
    return runner.finalContent();
  },
  structured: async () => {
    const format = zodResponseFormat(z.object({ city: z.string(), population: z.number() }), "city");
    const parsed = await scripted.chat.completions.parse({ model: "m", messages: user("A city"), response_format: format });
    return parsed.choices[0].message.parsed;
  },
  responses_stream: async () =>
    count(real.responses.stream({ model: "demo", input: QUESTION, max_output_tokens: 9 }),
      (event) => event.type === "response.output_text.delta"),
  overflow: () => raised(() => real.chat.completions.create({ model: "demo", messages: user(TOO_LONG) })),
});
