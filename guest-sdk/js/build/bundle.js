import { readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { ABSENT, ENGINES, WEB } from "./engines.js";
import { Failure } from "./report.js";

/** @import { Project } from "./project.js" */

const SDK = {
  dormouse: "index.js",
  "dormouse/engine/quickjs": "engine/quickjs.js",
  "dormouse/engine/starling": "engine/starling.js",
  "dormouse/worker": "worker.js",
};

/** Stands in for a free name, so that it can be found in what esbuild writes. */
const MARK = "__dormouse_uses_";

/**
 * Bundles an author's file with the SDK into one module that exports the component's functions.
 *
 * @param {Project} project
 * @param {"quickjs" | "starling"} engine
 * @param {{ models: string[], streaming?: boolean }} found
 */
export async function bundle(project, engine, found) {
  const contents = entry(engine, project.file, JSON.stringify({ name: project.name, ...found }));
  const stdin = { contents, resolveDir: project.root, sourcefile: "dormouse.js" };
  const { text } = await run(project, { ...ENGINES[engine], stdin });
  return text;
}

/**
 * What an author's file uses: names that an engine may lack, models opened by a literal name, and
 * whether `predict` is a generator, which lowering would hide.
 *
 * @param {Project} project
 */
export async function examine(project) {
  const names = [...WEB, ...Object.keys(ABSENT)];
  const define = Object.fromEntries(names.flatMap((name) => [[name, MARK + name], [`globalThis.${name}`, MARK + name]]));
  const entryPoints = [join(project.root, project.file)];
  const { text, files } = await run(project, { entryPoints, define, external: ["dormouse", "dormouse:*", "wasi:*"] });
  const used = names.filter((name) => new RegExp(`\\b${MARK}${name}\\b`).test(text));
  const models = [...text.matchAll(/new Model\d*\(\s*(["'`])([^"'`$]+)\1/g)].map((match) => match[2]);
  return {
    web: used.filter((name) => WEB.includes(name)),
    absent: used.filter((name) => name in ABSENT).map((name) => ({ name, ...firstMention(project, files, name) })),
    models: [...new Set(models)],
    streaming: GENERATOR.test(text),
  };
}

/** `predict` as esbuild prints a generator of that name. */
const GENERATOR = /(?:^|[\s,{])(?:async )?\*\s?predict\(|\bpredict: (?:async )?function\*|function\* predict\(/;

function entry(/** @type {string} */ engine, /** @type {string} */ file, /** @type {string} */ plan) {
  return `
    import { finish } from "dormouse/engine/${engine}";
    import { worker } from "dormouse/worker";
    import exported from ${JSON.stringify(`./${file}`)};
    const made = worker(exported, ${plan});
    export function describe() { return made.describe(); }
    export function setup() { return finish(made.setup()); }
    export function predict(input) { return finish(made.predict(input)); }
  `;
}

/**
 * @param {Project} project
 * @param {import("esbuild").BuildOptions} options
 */
async function run(project, options) {
  try {
    const result = await build({
      absWorkingDir: project.root,
      bundle: true,
      conditions: ["component", "worker"],
      external: ["dormouse:*", "wasi:*"],
      format: "esm",
      logLevel: "silent",
      metafile: true,
      outfile: "bundle.js",
      platform: "browser",
      plugins: [sdk],
      write: false,
      ...options,
    });
    return { text: /** @type {any} */ (result.outputFiles)[0].text, files: Object.keys(/** @type {any} */ (result.metafile).inputs) };
  } catch (error) {
    throw failureOf(error);
  }
}

/** The SDK itself, wherever the author's folder is and whatever it has installed. */
const sdk = {
  name: "dormouse",
  setup(/** @type {import("esbuild").PluginBuild} */ { initialOptions, onResolve }) {
    if (initialOptions.external?.includes("dormouse")) return;
    onResolve({ filter: /^dormouse(\/.*)?$/ }, ({ path }) => {
      const file = SDK[/** @type {keyof typeof SDK} */ (path)];
      if (file === undefined) return { errors: [{ text: `Could not resolve "${path}"` }] };
      return { path: fileURLToPath(new URL(`../src/${file}`, import.meta.url)) };
    });
  },
};

/** esbuild's first error, in the words of the other builds. */
function failureOf(/** @type {any} */ error) {
  const [first, ...others] = error?.errors ?? [];
  if (first === undefined) return error;
  const told = others.map((/** @type {any} */ { location, text }) => `${location?.file}:${location?.line}: ${explained(text)}`);
  return new Failure(explained(first.text), {
    file: first.location?.file,
    line: first.location?.line,
    advice: told.join("\n") || undefined,
  });
}

function explained(/** @type {string} */ text) {
  const missing = /^Could not resolve "(.*?)"/.exec(text)?.[1];
  if (missing === undefined) return text;
  const bare = missing.replace(/^node:/, "").split("/")[0];
  if (missing.startsWith("node:") || builtinModules.includes(bare)) return `${missing} is Node's, and a component has none of it`;
  return missing.startsWith(".") ? `${missing} is not there` : `${missing} is not installed: run npm install ${missing}`;
}

/** The first line of the author's files that has a name in it. */
function firstMention(/** @type {Project} */ { root }, /** @type {string[]} */ files, /** @type {string} */ name) {
  for (const file of files) {
    const lines = readFileSync(join(root, file), "utf8").split("\n");
    const index = lines.findIndex((line) => new RegExp(`\\b${name}\\b`).test(line));
    if (index >= 0) return { file: relative(".", file), line: index + 1 };
  }
  return {};
}
