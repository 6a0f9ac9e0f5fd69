import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Model, log, metric, predictor, progress } from "../src/index.js";
import { use } from "../src/host/none.js";
import { json, worker } from "../src/worker.js";
import { randomFrom } from "../src/engine/random.js";

/** A host that keeps what it is told; its model continues text with numbered words. */
class FakeHost {
  emitted = [];
  logs = [];
  metrics = {};
  notes = [];
  requests = [];

  open(name) {
    if (name === "unknown") throw { payload: { tag: "unknown-model", val: `no model "${name}"` } };
    const requests = this.requests;
    return {
      info: () => ({ name, contextLength: 2048 }),
      tokenize: (text) => Uint32Array.from(text, (letter) => letter.codePointAt(0)),
      detokenize: (tokens) => String.fromCodePoint(...tokens),
      embed: (inputs) => inputs.map(() => Float32Array.of(1, 0)),
      generate(request) {
        requests.push(request);
        let n = 0;
        return {
          next: () => (n < Math.min(request.maxTokens, 5) ? { text: ` w${n++}`, tokens: [n], logprobs: [] } : undefined),
          finish: () => "length",
          usage: () => ({ promptTokens: 7, wakeUs: 3n }),
        };
      },
    };
  }

  emit(text) {
    this.emitted.push(JSON.parse(text));
  }

  log(level, message) {
    this.logs.push([level, message]);
  }

  metric(name, value) {
    this.metrics[name] = value;
  }

  progress(fraction, note) {
    this.notes.push([fraction, note]);
  }
}

let host;
let before;
beforeEach(() => {
  host = new FakeHost();
  before = use(host);
});
afterEach(() => use(before));

const made = (definition) => worker(predictor(definition), { name: "test", models: [] });
const described = (definition) => JSON.parse(made(definition).describe());

async function answer(definition, input = {}) {
  const { setup, predict } = made(definition);
  await setup();
  return JSON.parse(await predict(JSON.stringify(input)));
}

async function failure(definition, input = {}) {
  try {
    await answer(definition, input);
  } catch (error) {
    return error;
  }
  assert.fail("it did not fail");
}

test("the manifest has everything the host reads", () => {
  const manifest = described({
    description: "Says hello.",
    models: ["a"],
    input: {
      name: { type: "string", description: "whom", minLength: 1 },
      maxTokens: { type: "integer", default: 5 },
      maybe: { type: "string", optional: true },
    },
    output: { type: "string" },
    timeoutMs: 5,
    predict: () => "",
  });
  assert.deepEqual(manifest, {
    interface: "dormouse:predictor@0.1.0",
    name: "test",
    description: "Says hello.",
    input: {
      type: "object",
      title: "Input",
      properties: {
        name: { type: "string", title: "Name", description: "whom", minLength: 1, "x-order": 0 },
        maxTokens: { type: "integer", title: "Max Tokens", default: 5, "x-order": 1 },
        maybe: { type: ["string", "null"], title: "Maybe", "x-order": 2 },
      },
      required: ["name"],
      additionalProperties: false,
    },
    output: { title: "Output", type: "string" },
    streaming: false,
    models: ["a"],
    limits: { timeout_ms: 5 },
  });
});

test("a generator streams, and text is marked to be joined", () => {
  for (const predict of [function* () {}, async function* () {}]) {
    const { output, streaming } = described({ output: { type: "string" }, predict });
    assert.equal(streaming, true);
    assert.deepEqual(output, {
      type: "array", title: "Output", items: { type: "string" },
      "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate",
    });
  }
  assert.equal(described({ output: { type: "number" }, *predict() {} }).output["x-cog-array-display"], undefined);
});

test("what could not work is refused when the file is loaded", () => {
  assert.throws(() => predictor({}), /needs a function predict/);
  assert.throws(() => predictor({ predict() {}, inputs: {} }), /has no "inputs"/);
  assert.throws(() => worker({}, { name: "x", models: [] }), /export default predictor/);
  assert.throws(() => described({ input: { name: "string" }, predict() {} }), /input "name" must be a JSON Schema/);
});

test("setup's value and the defaults reach predict", async () => {
  const definition = {
    input: { n: { type: "integer", default: 2 } },
    setup: async () => ({ factor: 10 }),
    predict: ({ n }, { factor }) => n * factor,
  };
  assert.equal(await answer(definition), 20);
  assert.equal(await answer(definition, { n: 3 }), 30);
});

test("elements are emitted as they come", async () => {
  const predict = async function* () {
    yield "a";
    await null;
    yield { b: 1 };
  };
  assert.equal(await answer({ predict }), null);
  assert.deepEqual(host.emitted, ["a", { b: 1 }]);
});

test("a completion is an iterable of its text", async () => {
  const predict = async function* (_, model) {
    yield* model.generate("x", { maxTokens: 2 });
    const running = [model.generate([{ role: "user", content: "a" }]), model.generate([1, 2])];
    yield running.map((completion) => completion.text()).join("|");
    yield JSON.stringify([running[0].finish, running[0].usage, model.embed(["a"]), model.tokenize("ab")]);
  };
  await answer({ setup: () => new Model("m"), predict });
  assert.deepEqual(host.emitted.slice(0, 2), [" w0", " w1"]);
  assert.equal(host.emitted[2], " w0 w1 w2 w3 w4| w0 w1 w2 w3 w4");
  assert.equal(host.emitted[3], '["length",{"promptTokens":7,"wakeUs":3},[[1,0]],[97,98]]');
  assert.deepEqual(host.requests.map(({ prompt }) => prompt.tag), ["text", "messages", "tokens"]);
});

test("a request that breaks a rule is refused before the host sees it", async () => {
  const fails = (options) => failure({ setup: () => new Model("m"), predict: (_, model) => model.generate("x", options).text() });
  assert.match(await fails({ maxTokens: -1 }), /maxTokens is -1/);
  assert.match(await fails({ seed: 1.5 }), /seed is 1.5/);
  assert.match(await fails({ max_tokens: 1 }), /no option "max_tokens"/);
  assert.equal(host.requests.length, 0);
});

test("the host's errors have its code", async () => {
  const predict = () => {
    try {
      new Model("unknown");
    } catch (error) {
      return [error.code, error.message];
    }
  };
  assert.deepEqual(await answer({ predict }), ["unknown-model", 'no model "unknown"']);
});

test("an error is the prediction's, and its stack is logged", async () => {
  const predict = () => {
    throw new RangeError("the sky is falling");
  };
  assert.equal(await failure({ predict }), "the sky is falling");
  assert.equal(host.logs[0][0], "error");
  assert.match(host.logs[0][1], /RangeError: the sky is falling[^]*worker.test.js/);
});

test("logs, metrics and progress reach the host", async () => {
  const predict = () => {
    log.warn("a", { b: 1 });
    metric("tokens", 3);
    progress(0.5, "half");
  };
  assert.equal(await answer({ predict }), null);
  assert.deepEqual([host.logs, host.metrics, host.notes], [[["warn", 'a {"b":1}']], { tokens: 3 }, [[0.5, "half"]]]);
});

test("json holds what every reader takes", () => {
  assert.equal(json("a\ud800b\\ud800 😀"), '"a\ufffdb\\\\ud800 😀"');
  assert.equal(json(undefined), "null");
  assert.throws(() => json({ x: NaN }), /NaN in "x"/);
});

test("random numbers are spread over [0, 1) and follow their seed", () => {
  const draw = (seed) => Array.from({ length: 1000 }, randomFrom(() => seed));
  const numbers = draw(42n);
  assert.ok(numbers.every((x) => x >= 0 && x < 1));
  const mean = numbers.reduce((sum, x) => sum + x) / numbers.length;
  assert.ok(Math.abs(mean - 0.5) < 0.05, `${mean}`);
  assert.deepEqual(draw(42), numbers);
  assert.notDeepEqual(draw(43n), numbers);
});
