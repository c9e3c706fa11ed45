// What the client programs share: see python/common.py.
export const [REAL, SCRIPTED] = process.argv.slice(2);
export const KEY = "a-key-of-sixteen-characters";
export const QUESTION = "Why is the sky blue?";
export const WEATHER = "What is the weather in Paris?";
export const TOO_LONG = "The sky is blue. ".repeat(3000);
export const CITY = {
  type: "object",
  properties: { city: { type: "string" }, population: { type: "integer" } },
  required: ["city", "population"],
  additionalProperties: false,
};
export const FUNCTION = {
  name: "get_weather",
  description: "Get the weather of a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

export function getWeather({ city }) {
  if (city !== "Paris") throw new Error(`the city is ${city}`);
  return "21 degrees";
}

/** Run the cases; print what each returned, or its exception, as one JSON object. */
export async function run(cases) {
  const told = {};
  for (const [name, call] of Object.entries(cases)) {
    try {
      told[name] = (await call()) ?? null;
    } catch (error) {
      console.error(error);
      told[name] = { error: `${error.name}: ${error.message}` };
    }
  }
  console.log(JSON.stringify(told));
  process.exit(0);
}

/** The words of the exception. */
export async function raised(call) {
  try {
    await call();
  } catch (error) {
    return `${error.name} ${error.code ?? error.status ?? error.statusCode ?? ""}: ${error.message} ${error.responseBody ?? ""}`;
  }
  return "nothing was raised";
}

export async function count(iterable, counts = (piece) => piece) {
  let pieces = 0;
  for await (const piece of iterable) pieces += counts(piece) ? 1 : 0;
  return pieces;
}
