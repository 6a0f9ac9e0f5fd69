#!/usr/bin/env node
/**
 * `node build/main.js FOLDER -o predictor.wasm`: bundles a predictor (`bundle`), chooses its engine
 * (`engines`) and makes the component (`componentize`). What it is doing goes to standard error as JSON
 * lines (`report`); what came out is one JSON object on standard output.
 */

import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bundle, examine } from "./bundle.js";
import { digest, keep, recall } from "./cache.js";
import { componentize } from "./componentize.js";
import { ABSENT } from "./engines.js";
import { readProject } from "./project.js";
import { Failure, Reporter } from "./report.js";

/**
 * Builds a folder, unless the component at `output` was made of the same; what came of it.
 *
 * @param {string} folder
 * @param {{ output: string, check?: boolean }} options
 * @param {Reporter} reporter
 */
export async function build(folder, { output, check }, reporter) {
  const start = performance.now();
  reporter.step("project", "reading the project");
  const project = readProject(folder);
  reporter.step("usage", `checking ${project.file}`);
  const { web, absent, models, streaming } = await examine(project);
  for (const { name, file, line } of absent) {
    reporter.note("warning", `${name} is not there: ${ABSENT[/** @type {keyof typeof ABSENT} */ (name)]}`, { file, line });
  }
  const engine = project.engine ?? (web.length > 0 ? "starling" : "quickjs");
  if (engine === "starling") {
    const reason = web.length > 0 ? web.join(", ") : "package.json";
    reporter.note("info", `built with StarlingMonkey for ${reason}: larger and slower to start than QuickJS`);
  }
  const source = await bundle(project, engine, { models, streaming });
  const result = { name: project.name, engine, models, settings: {} };
  const seconds = () => Math.round((performance.now() - start) / 10) / 100;
  if (check) return { ...result, notes: reporter.notes, seconds: seconds() };
  const inputs = digest(engine, source);
  const bytes = recall(output, inputs) ?? (await make(engine, source, output, reporter));
  keep(output, inputs, bytes);
  return { ...result, component: output, bytes, notes: reporter.notes, seconds: seconds() };
}

/**
 * @param {"quickjs" | "starling"} engine
 * @param {string} source
 * @param {string} output
 * @param {Reporter} reporter
 */
async function make(engine, source, output, reporter) {
  reporter.step("component", "running the file and taking its snapshot");
  const tell = (/** @type {string} */ message) => reporter.step("tools", message);
  return componentize(engine, source, { output, tell });
}

async function main() {
  const options = { output: { type: "string", short: "o" }, check: { type: "boolean" } };
  const { values, positionals } = parseArgs({ options: /** @type {any} */ (options), allowPositionals: true });
  const reporter = new Reporter();
  try {
    if (positionals.length !== 1 || !values.output) throw new Failure("usage: main.js FOLDER -o FILE.wasm [--check]");
    const result = await build(positionals[0], /** @type {any} */ (values), reporter);
    console.log(JSON.stringify(result));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    reporter.failed(error);
    process.exitCode = 1;
  }
}

// Not where a test imports it.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
