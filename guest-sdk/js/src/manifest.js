/** @import { Definition, Schema } from "./types.js" */

import { isStreaming } from "./predictor.js";

const INTERFACE = "dormouse:predictor@0.1.0";

/**
 * Everything the host knows of a predictor without running it.
 *
 * @param {Definition} definition
 * @param {{ name: string, models: string[], streaming?: boolean }} found what the build knows of the file
 */
export function manifest(definition, found) {
  const streaming = found.streaming ?? isStreaming(definition);
  const limits = { timeout_ms: definition.timeoutMs, memory_bytes: definition.memoryBytes };
  return {
    interface: INTERFACE,
    name: definition.name ?? found.name,
    description: definition.description ?? "",
    input: inputSchema(definition.input ?? {}),
    output: outputSchema(definition.output ?? {}, streaming),
    streaming,
    models: [...new Set([...(definition.models ?? []), ...found.models])],
    limits: JSON.parse(JSON.stringify(limits)),
  };
}

/**
 * The schema of the input: from its properties, or as the author wrote it whole.
 *
 * @param {Schema | Record<string, Schema>} input
 */
function inputSchema(input) {
  if (isWhole(input)) return { additionalProperties: false, ...input };
  const entries = Object.entries(input).map(([name, schema], order) => [name, property(name, schema, order)]);
  return {
    type: "object",
    title: "Input",
    properties: Object.fromEntries(entries),
    required: Object.entries(input).flatMap(([name, schema]) => (isRequired(schema) ? [name] : [])),
    additionalProperties: false,
  };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {number} order
 */
function property(name, schema, order) {
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) {
    throw new TypeError(`input "${name}" must be a JSON Schema, such as { type: "string" }`);
  }
  const { optional, type, ...rest } = schema;
  const nullable = optional && typeof type === "string" ? [type, "null"] : type;
  return { ...(nullable && { type: nullable }), title: title(name), ...rest, "x-order": order };
}

/** @param {Schema} schema */
function isRequired({ default: value, optional, type }) {
  return value === undefined && !optional && !(Array.isArray(type) && type.includes("null"));
}

/**
 * @param {Schema} output schema of the answer, or of one element of a stream
 * @param {boolean} streaming
 */
function outputSchema(output, streaming) {
  if (!streaming) return { title: "Output", ...output };
  const text = output.type === "string" ? { "x-cog-array-display": "concatenate" } : {};
  return { type: "array", title: "Output", items: output, "x-cog-array-type": "iterator", ...text };
}

/** Whether it is a schema of an object, rather than properties that happen to be called so. */
function isWhole(/** @type {any} */ input) {
  return input.type === "object" && typeof input.properties === "object";
}

/** A property's name as people read it: `maxTokens` and `max_tokens` are "Max Tokens". */
function title(/** @type {string} */ name) {
  const words = name.replace(/([a-z0-9])([A-Z])/g, "$1 $2").split(/[\s_]+/);
  return words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join(" ");
}
