// Replicate's JavaScript client.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const Replicate = require("replicate");

const client = new Replicate({ auth: process.env.TOKEN, baseUrl: `${process.env.BASE_URL}/v1` });

test("run gives the output", async () => {
  assert.equal(await client.run("dormouse/hello", { input: { name: "Ada" } }), "Hello, Ada!");
});

test("a stream is read without a token", async () => {
  const events = [];
  for await (const event of client.stream("dormouse/reporter", { input: { count: 2 } })) {
    if (event.event === "output") events.push(event.data);
  }
  assert.deepEqual(events, ["1", "2"]);
});

test("pages lead from one to the next", async () => {
  const first = await client.predictions.list();
  assert.ok(first.results.length > 0);
  const models = await client.models.list();
  assert.ok(models.results.some((model) => model.name === "hello"));
});

test("a search finds a model", async () => {
  const found = await client.models.search("hello");
  assert.ok(found.results.some((model) => model.name === "hello"));
});

test("a webhook's signature holds", async () => {
  const { key } = await client.webhooks.default.secret.get();
  assert.match(key, /^whsec_/);
});
