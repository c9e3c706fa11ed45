// The Vercel AI SDK with its OpenAI provider (by default the Responses API), Anthropic's and Ollama's.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { CITY, FUNCTION, KEY, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, count, getWeather, raised, run } from "./common.mjs";

const makers = {
  responses: (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey: KEY }),
  chat: (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey: KEY }).chat,
  anthropic: (base) => createAnthropic({ baseURL: `${base}/v1`, apiKey: KEY }),
  ollama: (base) => createOllama({ baseURL: `${base}/api` }),
};
const get_weather = tool({
  description: FUNCTION.description, inputSchema: jsonSchema(FUNCTION.parameters), execute: getWeather,
});
const cases = {};
for (const [name, make] of Object.entries(makers)) {
  // Ollama's provider sends maxOutputTokens where Ollama does not read it.
  const limit = name === "ollama" ? { providerOptions: { ollama: { options: { num_predict: 9 } } } } : { maxOutputTokens: 9 };
  const few = () => ({ model: make(REAL)("demo"), prompt: QUESTION, ...limit, maxRetries: 0 });
  const own = { model: make(SCRIPTED)("m"), maxRetries: 0 };
  cases[`${name}_reply`] = async () => (await generateText(few())).text;
  cases[`${name}_stream`] = async () => count(streamText(few()).textStream);
  cases[`${name}_tools`] = async () =>
    (await generateText({ ...own, prompt: WEATHER, tools: { get_weather }, stopWhen: stepCountIs(4) })).text;
  cases[`${name}_stream_tools`] = async () =>
    streamText({ ...own, prompt: WEATHER, tools: { get_weather }, stopWhen: stepCountIs(4) }).text;
  cases[`${name}_structured`] = async () =>
    (await generateObject({ ...own, prompt: "A city", schema: jsonSchema(CITY) })).object;
  cases[`${name}_overflow`] = () => raised(() => generateText({ ...few(), prompt: TOO_LONG }));
}
await run(cases);
