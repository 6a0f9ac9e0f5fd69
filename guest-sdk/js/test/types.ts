/** What an author's editor knows: this file is only compiled. */

import { Model, predictor, type Usage } from "dormouse";

export default predictor({
  input: {
    prompt: { type: "string", minLength: 1 },
    count: { type: "integer", default: 3 },
    mood: { type: "string", enum: ["calm", "wild"] },
    words: { type: "array", items: { type: "string" } },
    maybe: { type: "number", optional: true },
  },
  output: { type: "string" },
  setup: () => ({ model: new Model("smollm2") }),
  async *predict({ prompt, count, mood, words, maybe }, { model }) {
    const text: string = prompt.toUpperCase() + words.join(" ");
    const number: number = count + (maybe ?? 0);
    const known: "calm" | "wild" = mood;
    // @ts-expect-error an input has the type of its schema
    const wrong: string = count;
    // @ts-expect-error an input that may be left out may be null
    const missing: number = maybe;
    const completion = model.generate(text, { maxTokens: number });
    for await (const piece of completion) yield piece;
    const usage: Usage = completion.usage;
    yield `${known} ${wrong} ${missing} ${usage.promptTokens}`;
  },
});

// @ts-expect-error an answer has the type of its schema
predictor({ output: { type: "number" }, predict: () => "text" });

predictor({
  output: { type: "object", properties: { label: { type: "string" }, score: { type: "number" } } },
  predict: async () => ({ label: "a", score: 1 }),
});
