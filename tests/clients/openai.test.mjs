// OpenAI's JavaScript client.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { OpenAI } = require("openai");

const client = new OpenAI({ apiKey: process.env.TOKEN, baseURL: `${process.env.BASE_URL}/v1`, maxRetries: 0 });
const ask = {
  model: "smollm2",
  messages: [{ role: "user", content: "What is the capital of France?" }],
  temperature: 0,
  max_tokens: 12,
};

test("a chat streamed and whole is the same", async () => {
  const whole = await client.chat.completions.create(ask);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
});

test("embeddings come packed", async () => {
  const { data } = await client.embeddings.create({ model: "smollm2", input: "dormouse" });
  assert.ok(data[0].embedding.length > 8 && data[0].embedding.every(Number.isFinite));
});

test("models are listed and a missing one is named", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes("smollm2"));
  await assert.rejects(client.models.retrieve("absent"), (error) => error.status === 404);
});
