/** The host's interface, as componentize-qjs and componentize-js both give it to a component. */

import { Model as HostModel } from "dormouse:predictor/llm@0.1.0";
import { emit, log, metric, progress } from "dormouse:predictor/output@0.1.0";

export { emit, log, metric, progress };

export const Model = {
  open: (/** @type {string} */ name) => HostModel.open(name),
  /** A 64-bit number as the engine wants it; `engine/` says which. */
  u64: (/** @type {number} */ value) => (globalThis.dormouseU64 === "bigint" ? BigInt(value) : value),
};
