// OpenAI's npm client against `/v1` and `/openai/v1`.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { checkWeather, gauge, hello, key, model, tooLong, tools, until, url } from "./site.mjs";

for (const base of ["/v1", "/openai/v1"]) {
  describe(`openai on ${base}`, () => {
    const client = new OpenAI({ baseURL: url + base, apiKey: key, maxRetries: 0, timeout: 120_000 });
    const chat = (options) =>
      client.chat.completions.create({ model, messages: hello, max_tokens: 8, ...options });

    test("chat", async () => {
      const reply = await chat();
      assert.equal(reply.choices[0].message.role, "assistant");
      assert.equal(typeof reply.choices[0].message.content, "string");
      assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
    });

    test("a stream is the same text with the same usage", async () => {
      const options = { max_tokens: 24, seed: 3, temperature: 0.7 };
      const whole = await chat(options);
      let text = "";
      let usage;
      for await (const chunk of await chat({ ...options, stream: true, stream_options: { include_usage: true } })) {
        text += chunk.choices.map((choice) => choice.delta.content ?? "").join("");
        usage = chunk.usage ?? usage;
      }
      assert.equal(text, whole.choices[0].message.content);
      assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    });

    test("aborting a stream cancels", async () => {
      await until("falaj_engine_running", 0);
      const before = await gauge("falaj_engine_cancelled_total");
      const stream = await chat({ stream: true, max_tokens: 400, min_tokens: 400 });
      for await (const _ of stream) {
        stream.controller.abort();
        break;
      }
      await until("falaj_engine_running", 0);
      assert.equal(await gauge("falaj_engine_cancelled_total"), before + 1);
    });

    test("a forced tool, whole and streamed", async () => {
      const choice = { type: "function", function: { name: "get_weather" } };
      const options = { tools, tool_choice: choice, parallel_tool_calls: false, max_tokens: 120 };
      const reply = await chat(options);
      const [call] = reply.choices[0].message.tool_calls;
      assert.match(call.id, /^[a-zA-Z0-9]{9}$/);
      checkWeather(call.function.arguments);
      const stream = client.chat.completions.stream({ model, messages: hello, ...options });
      const final = await stream.finalChatCompletion();
      checkWeather(final.choices[0].message.tool_calls[0].function.arguments);
    });

    test("tool results go back", async () => {
      const call = { id: "a1B2c3D4e", type: "function", function: { name: "get_weather", arguments: '{"city":"Tunis","days":1}' } };
      const messages = [
        ...hello,
        { role: "assistant", content: null, tool_calls: [call] },
        { role: "tool", tool_call_id: call.id, content: "sunny" },
      ];
      const reply = await chat({ messages, tools });
      assert.ok(reply.usage.prompt_tokens > 0);
    });

    test("a JSON schema from zod", async () => {
      const Trip = z.object({ kind: z.enum(["walk", "ride"]), open: z.boolean() });
      const reply = await client.chat.completions.parse({
        model,
        messages: hello,
        max_tokens: 120,
        response_format: zodResponseFormat(Trip, "trip"),
      });
      assert.ok(["walk", "ride"].includes(reply.choices[0].message.parsed.kind));
    });

    test("completions, embeddings, models", async () => {
      const completion = await client.completions.create({ model, prompt: "The water", max_tokens: 4 });
      assert.equal(typeof completion.choices[0].text, "string");
      const base64 = await client.embeddings.create({ model, input: "water" });
      const floats = await client.embeddings.create({ model, input: "water", encoding_format: "float" });
      assert.equal(base64.data[0].embedding.length, floats.data[0].embedding.length);
      base64.data[0].embedding.forEach((value, at) => assert.ok(Math.abs(value - floats.data[0].embedding[at]) < 1e-6));
      const ids = [];
      for await (const entry of client.models.list()) ids.push(entry.id);
      assert.ok(ids.includes(model));
      assert.equal((await client.models.retrieve(model)).id, model);
    });

    test("errors come as the client's classes", async () => {
      const stranger = new OpenAI({ baseURL: url + base, apiKey: "wrong", maxRetries: 0 });
      await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
      await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
      const strict = base === "/openai/v1";
      await assert.rejects(chat({ model: "no-such-model" }), strict ? OpenAI.NotFoundError : OpenAI.BadRequestError);
      await assert.rejects(chat({ temperature: "hot" }), strict ? OpenAI.BadRequestError : OpenAI.UnprocessableEntityError);
      await assert.rejects(chat({ messages: [{ role: "user", content: tooLong }] }), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.equal(error.code, "context_length_exceeded");
        return true;
      });
    });
  });
}
