/** @import { Definition } from "./types.js" */

import { emit } from "#host";
import { manifest } from "./manifest.js";
import { definitionOf } from "./predictor.js";
import { log } from "./report.js";

/**
 * The three exports of a predictor component, as an engine calls them. Errors come out as text.
 *
 * @param {unknown} exported what the author's module exports by default
 * @param {{ name: string, models: string[], streaming?: boolean }} found what the build knows of the file
 */
export function worker(exported, found) {
  const definition = definitionOf(exported);
  const described = manifest(definition, found);
  const text = JSON.stringify(described);
  /** @type {unknown} */
  let state;
  return {
    describe: () => text,
    setup: () =>
      reported(async () => {
        state = await definition.setup?.();
      }),
    predict: (/** @type {string} */ input) =>
      reported(async () => {
        const answer = definition.predict(withDefaults(JSON.parse(input), described.input), state);
        if (!described.streaming) return json(await answer);
        await emitAll(/** @type {any} */ (answer));
        return "null";
      }),
  };
}

/** Sends the elements of a generator as they come. */
async function emitAll(/** @type {AsyncIterable<unknown>} */ elements) {
  for await (const element of elements) {
    try {
      emit(json(element));
    } catch (error) {
      throw new Error(/** @type {any} */ (error)?.payload ?? String(error));
    }
  }
}

/** The host fills defaults in; a predictor that is called without one has them as well. */
function withDefaults(/** @type {any} */ input, /** @type {any} */ schema) {
  const filled = { ...input };
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    if (filled[name] === undefined && property.default !== undefined) filled[name] = structured(property.default);
  }
  return filled;
}

const structured = (/** @type {unknown} */ value) => JSON.parse(JSON.stringify(value));

/**
 * A value as JSON that every reader takes: lone surrogates, which `JSON.stringify` escapes, are replaced.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function json(value) {
  const text = JSON.stringify(value, refuseNonNumbers) ?? "null";
  return text.replace(/\\\\|\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|\\ud[c-f][0-9a-f]{2}/gi, (match) =>
    match === "\\\\" ? match : "\ufffd",
  );
}

/** `JSON.stringify` turns NaN into null without a word. */
function refuseNonNumbers(/** @type {string} */ key, /** @type {unknown} */ value) {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`output has ${value}${key && ` in "${key}"`}, which JSON can't hold`);
  }
  return value;
}

/**
 * Runs a part of the author's code; its error is logged with its stack and thrown as text.
 *
 * @template T
 * @param {() => Promise<T>} body
 */
async function reported(body) {
  try {
    return await body();
  } catch (error) {
    if (/** @type {any} */ (error)?.code === "cancelled") throw "cancelled";
    log.error(error);
    throw error instanceof Error ? error.message || error.name : String(error);
  }
}
