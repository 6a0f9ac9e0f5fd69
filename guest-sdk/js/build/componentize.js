import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Failure } from "./report.js";
import { starlingBuilder } from "./starling.js";

const WIT = fileURLToPath(new URL("../wit", import.meta.url));
const WORLD = "predictor";

/**
 * Turns a bundle into a component and returns its size in bytes.
 *
 * @param {"quickjs" | "starling"} engine
 * @param {string} source
 * @param {{ output: string, tell: (message: string) => void }} options
 */
export async function componentize(engine, source, { output, tell }) {
  const component = engine === "quickjs" ? await quickjs(source) : await starling(source, tell);
  await writeFile(output, component);
  return component.byteLength;
}

async function quickjs(/** @type {string} */ jsSource) {
  const { componentize: build } = await import("componentize-qjs");
  try {
    const { component } = await build({ witPath: WIT, world: WORLD, jsSource, sync: true, minify: true });
    return component;
  } catch (error) {
    throw failureOf(error);
  }
}

/**
 * @param {string} source
 * @param {(message: string) => void} tell
 */
async function starling(source, tell) {
  const build = await starlingBuilder(tell);
  const [enabled, disabled] = [["stdio", "random", "clocks"], ["fetch-event", "http"]];
  try {
    const options = { witPath: WIT, worldName: WORLD, enableFeatures: enabled, disableFeatures: disabled };
    const { component } = await build(source, options);
    return component;
  } catch (error) {
    throw failureOf(error);
  }
}

/** What the author's file threw while its snapshot was taken. */
function failureOf(/** @type {any} */ error) {
  const text = String(error?.message ?? error);
  const thrown = /(?:Error|exception): .*/.exec(text)?.[0] ?? text.split("\n")[0];
  return new Failure(`the predictor could not be loaded: ${thrown}`, { advice: text.slice(0, 4000) });
}
