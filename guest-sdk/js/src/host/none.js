/**
 * Outside of a component, such as in an author's unit tests, there is no model to open, and what a
 * prediction tells goes to the console. `use` puts another host in place.
 */

/** @type {any} */
let host = {
  open(/** @type {string} */ name) {
    throw new Error(`model "${name}" lives in a host: run the predictor by \`dormouse predict\``);
  },
  emit: (/** @type {string} */ text) => console.log(text),
  log: (/** @type {string} */ level, /** @type {string} */ message) => console.error(`${level}: ${message}`),
  metric() {},
  progress() {},
};

/** Puts a host in place and returns the one before. */
export function use(/** @type {any} */ other) {
  const before = host;
  host = other;
  return before;
}

export const emit = (/** @type {string} */ text) => host.emit(text);
export const log = (/** @type {string} */ level, /** @type {string} */ message) => host.log(level, message);
export const metric = (/** @type {string} */ name, /** @type {number} */ value) => host.metric(name, value);
export const progress = (/** @type {number} */ fraction, /** @type {string} */ note) => host.progress(fraction, note);
export const Model = {
  open: (/** @type {string} */ name) => host.open(name),
  u64: (/** @type {number} */ value) => value,
};
