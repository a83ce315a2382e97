// Mistral's npm client.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Mistral } from "@mistralai/mistralai";
import { HTTPValidationError, SDKError } from "@mistralai/mistralai/models/errors";

import { checkWeather, gauge, hello, key, model, tooLong, tools, until, url } from "./site.mjs";

const client = new Mistral({ apiKey: key, serverURL: url, timeoutMs: 120_000 });
const chat = (options) => client.chat.complete({ model, messages: hello, maxTokens: 8, ...options });
const textOf = (events) => events.flatMap((event) => event.data.choices.map((choice) => choice.delta.content ?? "")).join("");

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

test("chat", async () => {
  const reply = await chat();
  assert.equal(reply.model, model);
  assert.equal(typeof reply.choices[0].message.content, "string");
  assert.equal(reply.usage.totalTokens, reply.usage.promptTokens + reply.usage.completionTokens);
});

test("a stream is the same text with the same usage", async () => {
  const options = { model, messages: hello, maxTokens: 24, randomSeed: 3, temperature: 0.7 };
  const whole = await client.chat.complete(options);
  const events = await collect(await client.chat.stream(options));
  assert.equal(textOf(events), whole.choices[0].message.content);
  assert.equal(events.at(-1).data.usage.completionTokens, whole.usage.completionTokens);
});

test("leaving a stream cancels", async () => {
  await until("falaj_engine_running", 0);
  const before = await gauge("falaj_engine_cancelled_total");
  const schemaDefinition = {
    type: "object",
    properties: { text: { type: "string", minLength: 600, maxLength: 700 } },
    required: ["text"],
  };
  const responseFormat = { type: "json_schema", jsonSchema: { name: "long", schemaDefinition } };
  const stream = await client.chat.stream({ model, messages: hello, maxTokens: 900, responseFormat });
  for await (const _ of stream) break;
  await until("falaj_engine_running", 0);
  assert.equal(await gauge("falaj_engine_cancelled_total"), before + 1);
});

test("a forced tool, whole and streamed", async () => {
  for (const toolChoice of ["any", { type: "function", function: { name: "get_weather" } }]) {
    const options = { tools, toolChoice, parallelToolCalls: false, maxTokens: 120 };
    const [call] = (await chat(options)).choices[0].message.toolCalls;
    assert.match(call.id, /^[a-zA-Z0-9]{9}$/);
    checkWeather(call.function.arguments);
    const events = await collect(await client.chat.stream({ model, messages: hello, ...options }));
    const calls = events.flatMap((event) => event.data.choices.flatMap((choice) => choice.delta.toolCalls ?? []));
    assert.equal(calls.length, 1);
    checkWeather(calls[0].function.arguments);
  }
});

test("tool results go back", async () => {
  const toolCalls = [{ id: "a1B2c3D4e", function: { name: "get_weather", arguments: '{"city":"Tunis","days":1}' } }];
  const messages = [
    ...hello,
    { role: "assistant", content: "", toolCalls },
    { role: "tool", toolCallId: "a1B2c3D4e", name: "get_weather", content: "sunny" },
  ];
  assert.ok((await chat({ messages, tools })).usage.promptTokens > 0);
});

test("a JSON schema", async () => {
  const schemaDefinition = {
    type: "object",
    properties: { kind: { type: "string", enum: ["walk", "ride"] } },
    required: ["kind"],
    additionalProperties: false,
  };
  const responseFormat = { type: "json_schema", jsonSchema: { name: "trip", schemaDefinition, strict: true } };
  const reply = await chat({ responseFormat, maxTokens: 60 });
  assert.ok(["walk", "ride"].includes(JSON.parse(reply.choices[0].message.content).kind));
});

test("fill in the middle", async () => {
  const options = { model, prompt: "The water of", suffix: "the village.", maxTokens: 12, randomSeed: 4, temperature: 0.5 };
  const whole = await client.fim.complete(options);
  const events = await collect(await client.fim.stream(options));
  assert.equal(textOf(events), whole.choices[0].message.content);
});

test("embeddings and models", async () => {
  const reply = await client.embeddings.create({ model, inputs: ["water", "الماء"] });
  assert.deepEqual(reply.data.map((item) => item.index), [0, 1]);
  assert.ok((await client.models.list()).data.some((card) => card.id === model));
  assert.equal((await client.models.retrieve({ modelId: model })).id, model);
});

test("errors come as the client's classes", async () => {
  const status = (code) => (error) => {
    assert.ok(error instanceof SDKError, String(error));
    assert.equal(error.statusCode, code);
    return true;
  };
  const stranger = new Mistral({ apiKey: "wrong", serverURL: url });
  await assert.rejects(stranger.models.list(), status(401));
  await assert.rejects(client.models.retrieve({ modelId: "no-such-model" }), status(404));
  await assert.rejects(chat({ model: "no-such-model" }), status(400));
  await assert.rejects(chat({ messages: [{ role: "user", content: tooLong }] }), status(400));
  await assert.rejects(chat({ temperature: 99 }), (error) => {
    assert.ok(error instanceof HTTPValidationError, String(error));
    assert.deepEqual(error.detail[0].loc, ["body", "temperature"]);
    return true;
  });
});
