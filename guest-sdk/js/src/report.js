import { log as hostLog, metric as hostMetric, progress as hostProgress } from "#host";

/** Adds a line to the prediction's logs. `console` does the same. */
export const log = Object.freeze({
  debug: (/** @type {unknown[]} */ ...items) => hostLog("debug", lineOf(items)),
  info: (/** @type {unknown[]} */ ...items) => hostLog("info", lineOf(items)),
  warn: (/** @type {unknown[]} */ ...items) => hostLog("warn", lineOf(items)),
  error: (/** @type {unknown[]} */ ...items) => hostLog("error", lineOf(items)),
});

/**
 * Records a number in the prediction's metrics; the last value of a name stays.
 *
 * @param {string} name
 * @param {number} value
 */
export function metric(name, value) {
  if (typeof value !== "number") throw new TypeError(`metric "${name}" is ${typeof value}, it must be a number`);
  hostMetric(name, value);
}

/**
 * Reports how far the prediction is, from 0 to 1, with a short note.
 *
 * @param {number} fraction
 * @param {string} [note]
 */
export function progress(fraction, note = "") {
  hostProgress(fraction, note);
}

/** Items as `console.log` shows them, on one line. */
export function lineOf(/** @type {unknown[]} */ items) {
  return items.map(shown).join(" ");
}

function shown(/** @type {unknown} */ item) {
  if (typeof item === "string") return item;
  if (item instanceof Error) return item.stack?.includes(item.message) ? item.stack : `${item}\n${item.stack ?? ""}`.trimEnd();
  try {
    return typeof item === "object" ? JSON.stringify(item) : String(item);
  } catch {
    return String(item);
  }
}
