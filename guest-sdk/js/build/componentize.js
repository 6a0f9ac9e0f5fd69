import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Failure } from "./report.js";

const WIT = fileURLToPath(new URL("../wit", import.meta.url));
const WORLD = "predictor";

/**
 * Turns a bundle into a component and returns its size in bytes.
 *
 * @param {"quickjs" | "starling"} engine
 * @param {string} source
 * @param {{ output: string, fetches: boolean }} options
 */
export async function componentize(engine, source, { output, fetches }) {
  const component = engine === "quickjs" ? await quickjs(source) : await starling(source, fetches);
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

async function starling(/** @type {string} */ source, /** @type {boolean} */ fetches) {
  const build = await starlingBuilder();
  const enabled = ["stdio", "random", "clocks", ...(fetches ? ["http"] : [])];
  const disabled = ["fetch-event", ...(fetches ? [] : ["http"])];
  try {
    const options = { witPath: WIT, worldName: WORLD, enableFeatures: enabled, disableFeatures: disabled };
    const { component } = await build(source, options);
    return component;
  } catch (error) {
    throw failureOf(error);
  }
}

/** componentize-js is large and seldom needed, so it is installed apart from the SDK. */
async function starlingBuilder() {
  try {
    return (await import("@bytecodealliance/componentize-js")).componentize;
  } catch (error) {
    throw new Failure("the file uses web interfaces, and the engine that has them is not installed", {
      advice: "npm install @bytecodealliance/componentize-js@0.23.0 @bytecodealliance/preview2-shim@0.17.8",
    });
  }
}

/** What the author's file threw while its snapshot was taken. */
function failureOf(/** @type {any} */ error) {
  const text = String(error?.message ?? error);
  const thrown = /(?:Error|exception): .*/.exec(text)?.[0] ?? text.split("\n")[0];
  return new Failure(`the predictor could not be loaded: ${thrown}`, { advice: text.slice(0, 4000) });
}
