/** What QuickJS lacks in a component, put in place before the author's file is run. */

import { subscribeDuration } from "wasi:clocks/monotonic-clock@0.2.0";
import { getRandomU64 } from "wasi:random/random@0.2.0";
import { console } from "./console.js";
import { DrivenPromise, queueJob, run, whenIdle } from "./promise.js";
import { randomFrom } from "./random.js";
import { clearTimer, runNextTimer, setTimer } from "./timers.js";

const NANOSECONDS = 1_000_000;

Object.assign(globalThis, {
  Promise: DrivenPromise,
  clearInterval: clearTimer,
  clearTimeout: clearTimer,
  console,
  queueMicrotask: queueJob,
  setInterval: (/** @type {any} */ callback, /** @type {any} */ ms, /** @type {any[]} */ ...items) => setTimer(callback, ms, items, true),
  setTimeout: (/** @type {any} */ callback, /** @type {any} */ ms, /** @type {any[]} */ ...items) => setTimer(callback, ms, items),
});
Math.random = randomFrom(getRandomU64);
whenIdle(() => runNextTimer((ms) => subscribeDuration(Math.ceil(ms * NANOSECONDS)).block()));

/** What an export returns to the host: the value of a promise, waited for. */
export const finish = run;
