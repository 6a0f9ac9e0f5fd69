/** What the last build came to, kept beside its component: nothing is made twice of the same. */

import { createHash } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";

/** Tools and interface that a component depends on as well; the build is written anew with them. */
const OWN = ["../package.json", "../wit/guest.wit", "../wit/deps/dormouse-predictor/predictor.wit"];

/**
 * Stands for all that a component is made of.
 *
 * @param {string} engine
 * @param {string} source
 */
export function digest(engine, source) {
  const own = OWN.map((file) => readFileSync(new URL(file, import.meta.url), "utf8"));
  return createHash("sha256").update(JSON.stringify([engine, source, ...own])).digest("hex");
}

/**
 * The size of the component at `output`, if it was made of these inputs.
 *
 * @param {string} output
 * @param {string} inputs
 * @returns {number | undefined}
 */
export function recall(output, inputs) {
  try {
    const kept = JSON.parse(readFileSync(notes(output), "utf8"));
    const isSame = kept.inputs === inputs && kept.bytes === statSync(output).size;
    return isSame ? kept.bytes : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Keeps what `recall` answers.
 *
 * @param {string} output
 * @param {string} inputs
 * @param {number} bytes
 */
export function keep(output, inputs, bytes) {
  writeFileSync(notes(output), JSON.stringify({ inputs, bytes }));
}

const notes = (/** @type {string} */ output) => `${output}.json`;
