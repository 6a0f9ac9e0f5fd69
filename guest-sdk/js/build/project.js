import { existsSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { Failure } from "./report.js";

/** Files a predictor is looked for in when package.json names none. */
const FILES = ["predict", "index", "src/predict", "src/index"].flatMap((stem) =>
  [".ts", ".js", ".mts", ".mjs"].map((ending) => stem + ending),
);

/**
 * A folder as a project: its file and its name. `"dormouse": { "predict": "app.ts", "engine": "quickjs" }`
 * in package.json goes before `main`, and that before what is in the folder.
 *
 * @param {string} folder
 */
/** @typedef {ReturnType<typeof readProject>} Project */

export function readProject(folder) {
  const root = resolve(folder);
  if (!existsSync(root)) throw new Failure(`${folder} is no folder`);
  const described = packageOf(root);
  const settings = described.dormouse ?? {};
  const engine = settings.engine ?? null;
  if (engine !== null && engine !== "quickjs" && engine !== "starling") {
    throw new Failure(`engine is "${engine}", it must be "quickjs" or "starling"`, { file: "package.json" });
  }
  const named = settings.predict ?? described.main ?? described.module;
  const file = named ?? FILES.find((name) => existsSync(join(root, name)));
  if (file === undefined) {
    throw new Failure(`there is no predict.js or predict.ts in ${folder}`, {
      advice: 'name the file in package.json: "dormouse": { "predict": "app.js" }',
    });
  }
  if (!existsSync(join(root, file))) throw new Failure(`${file} is not in ${folder}`, { file: "package.json" });
  return { root, file, engine, name: label(described.name ?? basename(root)) };
}

/** @returns {Record<string, any>} */
function packageOf(/** @type {string} */ root) {
  const path = join(root, "package.json");
  if (!existsSync(path)) return {};
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new Failure(`is not JSON: ${/** @type {Error} */ (error).message}`, { file: "package.json" });
  }
}

/** A name as a function may have it: a DNS label. */
function label(/** @type {string} */ name) {
  const plain = name.replace(/^@[^/]*\//, "").toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return plain.slice(0, 63).replace(/^-+|-+$/g, "") || "predictor";
}
