import { log } from "#host";
import { lineOf } from "../report.js";

const LEVELS = { debug: "debug", trace: "debug", log: "info", info: "info", warn: "warn", error: "error" };

const methods = Object.entries(LEVELS).map(([name, level]) => [
  name,
  (/** @type {unknown[]} */ ...items) => lineOf(items).split("\n").forEach((line) => log(level, line)),
]);

/** A `console` whose lines are the prediction's logs. */
export const console = Object.fromEntries(methods);
