/** @import { Definition } from "./types.js" */

/** Marks what `predictor` returned, across two copies of this package as well. */
const MARK = Symbol.for("dormouse.predictor");

/** What a definition may have in it. */
const KEYS = new Set(["name", "description", "models", "input", "output", "timeoutMs", "memoryBytes", "setup", "predict"]);

/**
 * Takes what an author wrote and refuses what could not work, while the component is built.
 *
 * @param {Definition} definition
 */
export function predictor(definition) {
  for (const key of Object.keys(definition)) {
    if (!KEYS.has(key)) throw new TypeError(`predictor() has no "${key}", it has ${[...KEYS].join(", ")}`);
  }
  if (typeof definition.predict !== "function") throw new TypeError("predictor() needs a function predict");
  if (definition.setup !== undefined && typeof definition.setup !== "function") {
    throw new TypeError("setup must be a function");
  }
  return Object.freeze({ ...definition, [MARK]: true });
}

/**
 * The definition that a module exports.
 *
 * @param {unknown} exported what `export default` of the module is
 */
export function definitionOf(exported) {
  if (exported === null || typeof exported !== "object" || !(MARK in exported)) {
    throw new TypeError("the file must say `export default predictor({ ... })`");
  }
  return /** @type {Definition} */ (exported);
}

/**
 * Whether elements go out one by one: `predict` is a generator.
 *
 * @param {Definition} definition
 */
export function isStreaming({ predict }) {
  const tag = Object.prototype.toString.call(predict);
  return tag === "[object GeneratorFunction]" || tag === "[object AsyncGeneratorFunction]";
}
