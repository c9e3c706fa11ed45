// @anthropic-ai/sdk.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { FUNCTION, KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, count, getWeather, raised, run } from "./common.mjs";

const real = new Anthropic({ baseURL: REAL, apiKey: KEY, maxRetries: 0 });
const scripted = new Anthropic({ baseURL: SCRIPTED, apiKey: KEY, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const few = { model: "demo", messages: user(QUESTION), max_tokens: 9 };

await run({
  reply: async () => (await real.messages.create(few)).content[0].text,
  stream: () => count(real.messages.stream(few), (event) => event.type === "content_block_delta"),
  tools: async () => {
    const tool = betaTool({
      name: FUNCTION.name, description: FUNCTION.description, inputSchema: FUNCTION.parameters, run: getWeather,
    });
    const final = await scripted.beta.messages.toolRunner({
      model: "m", max_tokens: 99, messages: user(WEATHER), tools: [tool], stream: false,
    });
    return final.content[0].text;
  },
  overflow: () => raised(() => real.messages.create({ ...few, messages: user(TOO_LONG) })),
});
