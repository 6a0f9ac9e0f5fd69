import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { digest, keep, recall } from "../build/cache.js";
import { build } from "../build/main.js";
import { Failure, Reporter } from "../build/report.js";

/** What a check says of a project with these files. */
async function check(files) {
  const folder = mkdtempSync(join(tmpdir(), "dormouse-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const reporter = new Reporter(() => {});
  return build(folder, { output: "", check: true }, reporter);
}

async function failure(files) {
  try {
    await check(files);
  } catch (error) {
    assert.ok(error instanceof Failure, String(error.stack));
    return [error.file, error.line, error.message].filter((part) => part !== null).join(":");
  }
  assert.fail("it did not fail");
}

const HEAD = 'import { Model, predictor } from "dormouse";\n';
const MINIMAL = `${HEAD}export default predictor({ predict: () => 1 });\n`;

test("a file that needs nothing more gets QuickJS", async () => {
  const { engine, models } = await check({ "predict.js": `${HEAD}export default predictor({ predict: () => new Model("m") });` });
  assert.deepEqual([engine, models], ["quickjs", ["m"]]);
});

test("a file that uses the web's interfaces gets StarlingMonkey", async () => {
  const { engine, notes } = await check({ "predict.ts": `${MINIMAL}const x: URL = new URL("https://e.org");` });
  assert.equal(engine, "starling");
  assert.match(notes[0].message, /StarlingMonkey for URL:/);
});

test("a name of one's own is no web interface", async () => {
  assert.equal((await check({ "predict.js": `${MINIMAL}const crypto = () => 1; crypto();` })).engine, "quickjs");
});

test("what no engine has is told by file and line", async () => {
  const { notes } = await check({ "predict.js": `${MINIMAL}console.log(process.env.HOME);\nfetch("https://e.org");` });
  const note = (line, message) => ({ level: "warning", message, file: "predict.js", line });
  assert.deepEqual(notes, [
    note(4, "fetch is not there: a component reaches no network"),
    note(3, "process is not there: there is no process; settings come as inputs"),
  ]);
});

test("an engine can be asked for", async () => {
  const asked = (engine) => ({ "package.json": JSON.stringify({ dormouse: { engine } }), "predict.js": MINIMAL });
  assert.equal((await check(asked("starling"))).engine, "starling");
  assert.equal(await failure(asked("v8")), 'package.json:engine is "v8", it must be "quickjs" or "starling"');
});

test("a project is named by its package", async () => {
  const { name } = await check({ "package.json": '{ "name": "@me/My_Thing", "main": "app.mjs" }', "app.mjs": MINIMAL });
  assert.equal(name, "my-thing");
});

test("mistakes are told by file and line", async () => {
  assert.match(await failure({ "predict.js": "const x = ;\n" }), /^predict.js:1:Unexpected ";"/);
  assert.equal(await failure({ "predict.js": 'import fs from "node:fs";' }), "predict.js:1:node:fs is Node's, and a component has none of it");
  assert.equal(await failure({ "predict.js": 'import x from "left-pad";' }), "predict.js:1:left-pad is not installed: run npm install left-pad");
  assert.match(await failure({ "readme.md": "" }), /no predict.js or predict.ts/);
  assert.match(await failure({ "package.json": "{" }), /^package.json:is not JSON/);
});

test("nothing is made twice of the same", () => {
  const output = join(mkdtempSync(join(tmpdir(), "dormouse-")), "x.wasm");
  const inputs = digest("quickjs", "one");
  assert.notEqual(inputs, digest("starling", "one"));
  assert.equal(recall(output, inputs), undefined);
  writeFileSync(output, "abc");
  keep(output, inputs, 3);
  assert.equal(recall(output, inputs), 3);
  assert.equal(recall(output, digest("quickjs", "two")), undefined);
  writeFileSync(output, "abcd");
  assert.equal(recall(output, inputs), undefined);
});
