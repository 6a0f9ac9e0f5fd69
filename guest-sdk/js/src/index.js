/**
 * Write a predictor in JavaScript or TypeScript; Dormouse runs it as a component beside the model it
 * calls.
 *
 *     import { Model, predictor } from "dormouse";
 *
 *     export default predictor({
 *       models: ["smollm2"],
 *       input: { prompt: { type: "string", description: "What to continue" } },
 *       output: { type: "string" },
 *       setup: () => new Model("smollm2"),
 *       async *predict({ prompt }, model) {
 *         yield* model.generate(prompt, { maxTokens: 100 });
 *       },
 *     });
 *
 * The modules in the order a prediction passes them: `predictor` holds what an author wrote, `manifest`
 * makes its schema, `worker` answers with it, `llm` and `report` reach the host through `host/`. What
 * the JavaScript engine of a component lacks is in `engine/`.
 */

export { Completion, Model, ModelError } from "./llm.js";
export { predictor } from "./predictor.js";
export { log, metric, progress } from "./report.js";
