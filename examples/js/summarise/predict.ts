import { Model, metric, predictor, progress } from "dormouse";

/** Characters that one request summarises; longer texts are cut at sentences. */
const PART_LENGTH = 2000;

export default predictor({
  description: "Summarises a text, part by part.",
  input: {
    text: { type: "string", description: "What to summarise", minLength: 1, maxLength: 100_000 },
    words: { type: "integer", description: "About how many words a summary has", default: 30, minimum: 5, maximum: 200 },
  },
  output: { type: "string" },
  setup: () => new Model("smollm2"),
  async *predict({ text, words }, model) {
    const parts = partsOf(text);
    // All of them run before the first is read; they share batches.
    const running = parts.map((part) =>
      model.generate(
        [
          { role: "system", content: `Summarise the text in at most ${words} words.` },
          { role: "user", content: part },
        ],
        { maxTokens: words * 3 },
      ),
    );
    for (const [index, summary] of running.entries()) {
      if (index > 0) yield "\n\n";
      yield* summary;
      progress((index + 1) / running.length, `${index + 1} of ${running.length} parts`);
    }
    metric("parts", parts.length);
  },
});

/** The text in parts that end where sentences do, as far as they can. */
function partsOf(text: string): string[] {
  const sentences = text.split(/(?<=[.!?])\s+/);
  const parts: string[] = [];
  let part = "";
  for (const sentence of sentences) {
    if (part && part.length + sentence.length > PART_LENGTH) {
      parts.push(part);
      part = "";
    }
    part += (part && " ") + sentence;
  }
  return [...parts, part];
}
