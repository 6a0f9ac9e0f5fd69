/** @import { Message, Options, Prompt } from "./types.js" */

import { Model as Handle } from "#host";

/** Tokens generated at most, unless `maxTokens` says otherwise. */
const MAX_TOKENS = 256;

/** Why a call on a model did not work. */
export class ModelError extends Error {
  /**
   * @param {string} code `unknown-model`, `invalid`, `too-long`, `overloaded`, `cancelled` or `failed`
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "ModelError";
    this.code = code;
  }
}

/** A model of the host, shared with every other function that opens it. */
export class Model {
  #handle;

  /** @param {string} name declared in `models`, or written here as a literal */
  constructor(name) {
    this.name = name;
    this.#handle = call(() => Handle.open(name));
  }

  /** Context length, dimension, vocabulary, quantization, digest. */
  get info() {
    return this.#handle.info();
  }

  /**
   * Starts a completion and returns at once: several run together and share batches.
   *
   * @param {Prompt} prompt text to continue, messages, or token ids
   * @param {Options} [options]
   */
  generate(prompt, options = {}) {
    return new Completion(call(() => this.#handle.generate(request(prompt, options))));
  }

  /**
   * One embedding of unit length for each input.
   *
   * @param {string[]} inputs
   */
  embed(inputs) {
    return call(() => this.#handle.embed(inputs)).map((/** @type {Iterable<number>} */ vector) => [...vector]);
  }

  /**
   * The tokens of a text. Control tokens spelled in it stay text.
   *
   * @param {string} text
   * @returns {number[]}
   */
  tokenize(text) {
    return [...call(() => this.#handle.tokenize(text))];
  }

  /**
   * The tokens of a text in which control tokens are spelled, such as one that `render` wrote. A caller's
   * words don't belong in it unchecked: they could spell the end of their turn.
   *
   * @param {string} text
   * @returns {number[]}
   */
  tokenizeRendered(text) {
    return [...call(() => this.#handle.tokenizeRendered(text))];
  }

  /**
   * A chat as the model's own template writes it, up to the assistant's turn.
   *
   * @param {Iterable<Message>} messages
   * @returns {string}
   */
  render(messages) {
    return call(() => this.#handle.render([...messages].map(message)));
  }

  /**
   * The text of tokens; bytes that are not UTF-8 become U+FFFD.
   *
   * @param {Iterable<number>} tokens
   * @returns {string}
   */
  detokenize(tokens) {
    return call(() => this.#handle.detokenize(tokenList(tokens)));
  }
}

/** A completion under way: an iterable of its text as it is generated. */
export class Completion {
  #handle;
  #text = "";
  #isOver = false;

  constructor(/** @type {any} */ handle) {
    this.#handle = handle;
  }

  /** The pieces not read yet, with their tokens, and log-probabilities if asked for. */
  *chunks() {
    while (!this.#isOver) {
      const chunk = call(() => this.#handle.next());
      if (chunk === undefined || chunk === null) {
        this.#isOver = true;
        return;
      }
      this.#text += chunk.text;
      yield { text: chunk.text, tokens: [...chunk.tokens], logprobs: chunk.logprobs.map(logprob) };
    }
  }

  *[Symbol.iterator]() {
    for (const { text } of this.chunks()) if (text) yield text;
  }

  async *[Symbol.asyncIterator]() {
    for (const text of this) yield text;
  }

  /** Waits for the end and returns the whole text, what was read before included. */
  text() {
    for (const _ of this.chunks());
    return this.#text;
  }

  /** Why it ended: `stop`, `length` or `cancelled`; `null` while it runs. */
  get finish() {
    return this.#handle.finish() ?? null;
  }

  /** What it has cost so far. */
  get usage() {
    const usage = Object.entries(this.#handle.usage());
    return Object.fromEntries(usage.map(([name, value]) => [name, Number(value)]));
  }

  /** Ends it, if it still runs. */
  cancel() {
    this.#isOver = true;
    this.#handle[Symbol.dispose]?.();
  }

  [Symbol.dispose]() {
    this.cancel();
  }
}

/**
 * @param {Prompt} prompt
 * @param {Options} options
 */
function request(prompt, options) {
  const { temperature, topP, topK, minP, repeatPenalty, seed, ...rest } = options;
  const { maxTokens = MAX_TOKENS, stop = [], format, logprobs, adapter, ...unknown } = rest;
  for (const name of Object.keys(unknown)) throw new ModelError("invalid", `generate has no option "${name}"`);
  return {
    prompt: promptOf(prompt),
    maxTokens: whole("maxTokens", maxTokens),
    sampling: {
      temperature, topP, minP, repeatPenalty,
      topK: topK === undefined ? undefined : whole("topK", topK),
      seed: seed === undefined ? undefined : Handle.u64(whole("seed", seed, Number.MAX_SAFE_INTEGER)),
    },
    stop: typeof stop === "string" ? [stop] : stop,
    format: format === undefined || typeof format === "string" ? format : JSON.stringify(format),
    logprobs: logprobs === undefined ? undefined : whole("logprobs", logprobs, 255),
    adapter,
  };
}

/** @param {Prompt} prompt */
function promptOf(prompt) {
  if (typeof prompt === "string") return { tag: "text", val: prompt };
  const items = [...prompt];
  if (items.length > 0 && items.every((item) => typeof item === "number")) {
    return { tag: "tokens", val: tokenList(items) };
  }
  return { tag: "messages", val: items.map(message) };
}

/** A message, checked: an engine would turn a missing text into "undefined". */
function message(/** @type {any} */ given) {
  const { role, content } = given ?? {};
  if (typeof role !== "string" || typeof content !== "string") {
    throw new ModelError("invalid", `a message needs a role and a content, and ${JSON.stringify(given)} has not`);
  }
  return { role, content };
}

/** Engines wrap numbers around that do not fit; here they are refused. */
function whole(/** @type {string} */ name, /** @type {number} */ value, max = 0xffffffff) {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new ModelError("invalid", `${name} is ${value}, it must be a whole number from 0 to ${max}`);
  }
  return value;
}

function tokenList(/** @type {Iterable<number>} */ tokens) {
  return Uint32Array.from(tokens, (token) => whole("token", token));
}

function logprob(/** @type {any} */ { token, logprob, top }) {
  return { token, logprob, top: [...top] };
}

/**
 * A call of the host, its errors as `ModelError`.
 *
 * @template T
 * @param {() => T} body
 */
function call(body) {
  try {
    return body();
  } catch (error) {
    const payload = /** @type {any} */ (error)?.payload;
    if (payload?.tag === undefined) throw error;
    throw new ModelError(payload.tag, payload.val ?? payload.tag);
  }
}
