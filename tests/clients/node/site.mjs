// What both suites share: where the site is, its gauges, and requests whose outcome does not hang on a model's skill.
// The Python suites have the same in conftest.py.
import assert from "node:assert/strict";

export const url = process.env.FALAJ_URL;
export const key = process.env.FALAJ_KEY;
export const model = process.env.FALAJ_MODEL ?? "falaj-seed";
if (!url || !key) throw new Error("set FALAJ_URL and FALAJ_KEY, or run this through `cargo xtask test clients:node`");

export const hello = [{ role: "user", content: "Hello! Bonjour ! مرحبا" }];
export const tooLong = "water ".repeat(60_000);

export const weather = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Tunis", "Muscat", "Fès"] },
    days: { type: "integer", enum: [1, 3, 7] },
  },
  required: ["city", "days"],
  additionalProperties: false,
};

export const tools = [
  { type: "function", function: { name: "get_weather", description: "The weather in a city", parameters: weather } },
];

export function checkWeather(text) {
  const { city, days, ...rest } = typeof text === "string" ? JSON.parse(text) : text;
  assert.ok(weather.properties.city.enum.includes(city));
  assert.ok(weather.properties.days.enum.includes(days));
  assert.deepEqual(rest, {});
}

export async function gauge(name) {
  const text = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${key}` } })).text();
  const lines = text.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  assert.ok(lines.length > 0, `/metrics has no ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Waits for a gauge to reach a value; the wait ends as soon as it does. */
export async function until(name, wanted, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await gauge(name);
    if (value === wanted) return;
    assert.ok(Date.now() < deadline, `${name} is still ${value}, not ${wanted}, after ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
