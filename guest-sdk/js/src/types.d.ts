/** Types that the modules share. */

export type Schema = {
  type?: string | readonly string[];
  default?: unknown;
  /** May be left out, and is then `null` or missing. */
  optional?: boolean;
  [keyword: string]: unknown;
};

export type Definition = {
  name?: string;
  description?: string;
  models?: readonly string[];
  input?: Schema | Record<string, Schema>;
  output?: Schema;
  timeoutMs?: number;
  memoryBytes?: number;
  setup?: () => unknown;
  predict: (input: any, state: any) => unknown;
};

export type Message = { role: string; content: string };

export type Prompt = string | Iterable<Message> | Iterable<number>;

export type Options = {
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repeatPenalty?: number;
  seed?: number;
  stop?: string | string[];
  format?: string | object;
  logprobs?: number;
  adapter?: string;
};
