/** Timers on a clock that is waited for when nothing else is to do. */

/** @type {{ id: number, due: number, every: number | null, callback: () => void }[]} */
let timers = [];
let lastId = 0;

export function setTimer(/** @type {any} */ callback, /** @type {any} */ ms, /** @type {any[]} */ items, isRepeated = false) {
  const delay = Math.max(Number(ms) || 0, 0);
  lastId += 1;
  timers.push({ id: lastId, due: Date.now() + delay, every: isRepeated ? delay : null, callback: () => callback(...items) });
  return lastId;
}

export function clearTimer(/** @type {number} */ id) {
  timers = timers.filter((timer) => timer.id !== id);
}

/** Waits for the next timer and runs it; says whether there was one. */
export function runNextTimer(/** @type {(ms: number) => void} */ sleep) {
  if (timers.length === 0) return false;
  const next = timers.reduce((first, timer) => (timer.due < first.due ? timer : first));
  const wait = next.due - Date.now();
  if (wait > 0) sleep(wait);
  if (next.every === null) clearTimer(next.id);
  else next.due = Date.now() + Math.max(next.every, 1);
  next.callback();
  return true;
}
