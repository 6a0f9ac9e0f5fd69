/** Does what `cases.json` asks of a predictor in every language. */

import { Model, ModelError, log, metric, predictor, progress } from "dormouse";

const ACTS = ["echo", "count", "tell", "fail", "fail_late", "forever", "complete", "several", "open"] as const;

export default predictor({
  models: ["smollm2"],
  input: {
    act: { type: "string", description: "What to do", enum: ACTS },
    text: { type: "string", default: "hase", maxLength: 200_000 },
    count: { type: "integer", default: 3, minimum: 0, maximum: 1000 },
    ratio: { type: "number", default: 0.5, minimum: 0.125, maximum: 0.875 },
    flag: { type: "boolean", default: false },
    tags: { type: "array", items: { type: "string" }, default: [] },
    maybe: { type: "string", optional: true },
  },
  async *predict({ act, text, count, ratio, flag, tags, maybe }) {
    switch (act) {
      case "echo":
        yield { text, count, ratio, flag, tags, maybe: maybe ?? null };
        break;
      case "count":
        for (let i = 0; i < count; i += 1) yield i;
        break;
      case "tell":
        console.log("printed");
        log.warn("warned 日本 🐭");
        progress(0.5, "half");
        metric("answer", 42.5);
        yield "told";
        break;
      case "fail":
        throw new Error("the sky is falling 🌧");
      case "fail_late":
        for (let i = 0; i < count; i += 1) yield i;
        throw new Error("the sky is falling 🌧");
      case "forever":
        for (let i = 0; ; i += 1) yield i;
      case "complete":
        yield* new Model("smollm2").generate(text, { maxTokens: count });
        break;
      case "several": {
        const model = new Model("smollm2");
        const chat = (tag: string) => [
          { role: "system", content: text },
          { role: "user", content: tag },
        ];
        const running = tags.map((tag) => model.generate(chat(tag), { maxTokens: count }));
        for (const completion of running) yield completion.text();
        break;
      }
      case "open":
        try {
          yield String(new Model(text));
        } catch (error) {
          yield error instanceof ModelError && error.code === "unknown-model" ? "unknown" : String(error);
        }
    }
  },
});
