// ollama.
import { Ollama } from "ollama";
import { CITY, FUNCTION, QUESTION, REAL, SCRIPTED, TOO_LONG, WEATHER, count, getWeather, raised, run } from "./common.mjs";

const real = new Ollama({ host: REAL });
const scripted = new Ollama({ host: SCRIPTED });
const user = (content) => [{ role: "user", content }];
const few = { model: "demo", messages: user(QUESTION), options: { num_predict: 9 } };

await run({
  reply: async () => (await real.chat(few)).message.content,
  stream: async () => count(await real.chat({ ...few, stream: true }), (part) => part.message.content),
  tools: async () => {
    const messages = user(WEATHER);
    for (;;) {
      const { message } = await scripted.chat({ model: "m", messages, tools: [{ type: "function", function: FUNCTION }] });
      if (!message.tool_calls?.length) return message.content;
      messages.push(message);
      for (const call of message.tool_calls) {
        messages.push({ role: "tool", tool_name: call.function.name, content: getWeather(call.function.arguments) });
      }
    }
  },
  structured: async () =>
    JSON.parse((await scripted.chat({ model: "m", messages: user("A city"), format: CITY })).message.content),
  overflow: () => raised(() => real.chat({ model: "demo", messages: user(TOO_LONG) })),
});
