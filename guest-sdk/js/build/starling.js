import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { Failure } from "./report.js";

/** componentize-js, and the shim that it imports without naming it. */
const PACKAGES = ["@bytecodealliance/componentize-js@0.23.0", "@bytecodealliance/preview2-shim@0.17.8"];

/** Beside the SDK, so that it goes with it. */
const FOLDER = fileURLToPath(new URL("../node_modules/.starling", import.meta.url));
const MODULE = "node_modules/@bytecodealliance/componentize-js/src/componentize.js";

/**
 * The function that builds components with StarlingMonkey inside. It is large (400 MB) and seldom needed,
 * so it is installed when a file first needs it.
 *
 * @param {(message: string) => void} tell
 */
export async function starlingBuilder(tell) {
  if (!existsSync(FOLDER)) {
    tell("installing componentize-js (once)");
    await install();
  }
  return (await import(pathToFileURL(join(FOLDER, MODULE)).href)).componentize;
}

/** Installs into a folder of its own, which takes its place when it is whole: another build may do the same. */
async function install() {
  mkdirSync(dirname(FOLDER), { recursive: true });
  const folder = mkdtempSync(`${FOLDER}-`);
  try {
    writeFileSync(join(folder, "package.json"), '{ "private": true }');
    const args = ["install", "--no-audit", "--no-fund", "--loglevel=error", ...PACKAGES];
    await promisify(execFile)("npm", args, { cwd: folder });
    renameSync(folder, FOLDER);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    if (existsSync(FOLDER)) return;
    const { stderr, message } = /** @type {any} */ (error);
    throw new Failure("componentize-js could not be installed, which the web's interfaces need", {
      advice: String(stderr || message).trim().slice(-2000),
    });
  }
}
