/** What an author imports. See `index.js`. */

/** A JSON Schema. `optional` marks an input that may be left out without a default. */
export interface Schema {
  readonly type?: TypeName | readonly TypeName[];
  readonly title?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly optional?: boolean;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly items?: Schema;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly properties?: { readonly [name: string]: Schema };
  readonly required?: readonly string[];
  readonly [keyword: string]: unknown;
}

type TypeName = "string" | "number" | "integer" | "boolean" | "array" | "object" | "null";

type Named<T> = T extends "string"
  ? string
  : T extends "number" | "integer"
    ? number
    : T extends "boolean"
      ? boolean
      : T extends "null"
        ? null
        : T extends "array"
          ? unknown[]
          : T extends "object"
            ? Record<string, unknown>
            : unknown;

/** The values a schema describes. */
export type Value<S> = S extends { enum: readonly (infer E)[] }
  ? E
  : S extends { type: "array"; items: infer I }
    ? Value<I>[]
    : S extends { type: "object"; properties: infer P }
      ? { [K in keyof P]: Value<P[K]> }
      : S extends { type: readonly (infer T)[] }
        ? Named<T>
        : S extends { type: infer T }
          ? Named<T>
          : unknown;

type Optional<S> = S extends { optional: true } ? (S extends { default: unknown } ? false : true) : false;

/** The input that `predict` gets, from the schemas of its properties. */
export type Input<P> = { [K in keyof P as Optional<P[K]> extends true ? never : K]: Value<P[K]> } & {
  [K in keyof P as Optional<P[K]> extends true ? K : never]?: Value<P[K]> | null;
};

type Awaitable<T> = T | Promise<T>;
type Stream<T> = AsyncGenerator<T, unknown, undefined> | Generator<T, unknown, undefined>;

export interface Definition<P, O, S> {
  /** Name of the predictor; the file's folder by default. */
  name?: string;
  /** What it is for, in a sentence. */
  description?: string;
  /** Models it may open, beside those of `new Model("...")`. */
  models?: readonly string[];
  /** Schemas of the input's properties, or one schema of an object. */
  input?: P;
  /** Schema of the answer, or of one element when `predict` is a generator. */
  output?: O;
  /** Wall-clock time it wishes for a prediction, in milliseconds. */
  timeoutMs?: number;
  /** Memory it wishes for, in bytes. */
  memoryBytes?: number;
  /** Prepares what predictions start from; what it returns is the second argument of `predict`. */
  setup?: () => Awaitable<S>;
  /** Answers one prediction. A generator's elements reach the caller as they are yielded. */
  predict: (input: Input<P>, state: S) => Awaitable<Value<O>> | Stream<Value<O>>;
}

/** A function that answers predictions: what the file exports by default. */
export function predictor<
  const P extends { readonly [name: string]: Schema } = {},
  const O extends Schema = {},
  S = undefined,
>(definition: Definition<P, O, S>): Readonly<Definition<P, O, S>>;

export interface Message {
  role: string;
  content: string;
}

export interface Options {
  /** The most tokens to generate, at least 1. Default 256. */
  maxTokens?: number;
  /** 0, the default, always takes the likeliest token; at most 100. */
  temperature?: number;
  /** Draw from the likeliest tokens whose probabilities sum to this much, in (0, 1]. */
  topP?: number;
  /** Draw from this many of the likeliest tokens; 0 for all. */
  topK?: number;
  /** Drop tokens less likely than this fraction of the likeliest, in [0, 1]. */
  minP?: number;
  /** Make recent tokens less likely by this factor, in (0, 10]; 1 is off. */
  repeatPenalty?: number;
  /** The same seed, prompt and sampling give the same text. */
  seed?: number;
  /** The text ends before any of these; at most 16. */
  stop?: string | string[];
  /** A JSON Schema that the text must match. */
  format?: Schema | string;
  /** Report the log-probability of each token and of this many alternatives, at most 20. */
  logprobs?: number;
  /** Name of a LoRA adapter to apply. */
  adapter?: string;
}

export interface ModelInfo {
  name: string;
  architecture: string;
  quantization: string;
  digest: string;
  contextLength: number;
  dimension: number;
  vocabulary: number;
}

export interface TokenLogprob {
  token: number;
  logprob: number;
  top: [token: number, logprob: number][];
}

export interface Chunk {
  text: string;
  tokens: number[];
  logprobs: TokenLogprob[];
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  wakeUs: number;
  queueUs: number;
  prefillUs: number;
  decodeUs: number;
  deviceUs: number;
}

export type ModelErrorCode = "unknown-model" | "invalid" | "too-long" | "overloaded" | "cancelled" | "failed";

/** Why a call on a model did not work. */
export class ModelError extends Error {
  constructor(code: ModelErrorCode, message: string);
  readonly code: ModelErrorCode;
}

/** A model of the host, shared with every other function that opens it. */
export class Model {
  constructor(name: string);
  readonly name: string;
  readonly info: ModelInfo;
  /** Starts a completion and returns at once: several run together and share batches. */
  generate(prompt: string | Iterable<Message> | Iterable<number>, options?: Options): Completion;
  /** One embedding of unit length for each input. */
  embed(inputs: string[]): number[][];
  /** The tokens of a text. Control tokens spelled in it stay text. */
  tokenize(text: string): number[];
  /** The tokens of a text in which control tokens are spelled, such as one that `render` wrote. */
  tokenizeRendered(text: string): number[];
  /** A chat as the model's own template writes it, up to the assistant's turn. */
  render(messages: Iterable<Message>): string;
  /** The text of tokens; bytes that are not UTF-8 become U+FFFD. */
  detokenize(tokens: Iterable<number>): string;
}

/** A completion under way: an iterable of its text as it is generated. */
export class Completion implements Iterable<string>, AsyncIterable<string>, Disposable {
  private constructor();
  /** The pieces not read yet, with their tokens, and log-probabilities if asked for. */
  chunks(): Generator<Chunk, void, undefined>;
  [Symbol.iterator](): Generator<string, void, undefined>;
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined>;
  /** Waits for the end and returns the whole text, what was read before included. */
  text(): string;
  /** Why it ended; `null` while it runs. */
  readonly finish: "stop" | "length" | "cancelled" | null;
  /** What it has cost so far. */
  readonly usage: Usage;
  /** Ends it, if it still runs. */
  cancel(): void;
  [Symbol.dispose](): void;
}

/** Adds a line to the prediction's logs. `console` does the same. */
export const log: Readonly<Record<"debug" | "info" | "warn" | "error", (...items: unknown[]) => void>>;

/** Records a number in the prediction's metrics; the last value of a name stays. */
export function metric(name: string, value: number): void;

/** Reports how far the prediction is, from 0 to 1, with a short note. */
export function progress(fraction: number, note?: string): void;
