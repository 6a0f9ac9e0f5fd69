import assert from "node:assert/strict";
import { test } from "node:test";
import { DrivenPromise, queueJob, run, whenIdle } from "../src/engine/promise.js";
import { runNextTimer, setTimer } from "../src/engine/timers.js";

/** An `async` function as the build lowers it. */
const lowered = (body) =>
  new DrivenPromise((resolve, reject) => {
    const generator = body();
    const step = (method) => (value) => {
      try {
        const { done, value: next } = generator[method](value);
        if (done) resolve(next);
        else DrivenPromise.resolve(next).then(step("next"), step("throw"));
      } catch (error) {
        reject(error);
      }
    };
    step("next")(undefined);
  });

const failure = (promise) => {
  try {
    run(promise);
  } catch (error) {
    return error;
  }
  assert.fail("it did not fail");
};

test("a value passes through then, catch and finally", () => {
  const seen = [];
  const promise = DrivenPromise.resolve(1)
    .then((value) => value + 1)
    .finally(() => seen.push("finally"))
    .then((value) => DrivenPromise.reject(new Error(`with ${value}`)))
    .catch((error) => error.message);
  assert.equal(run(promise), "with 2");
  assert.deepEqual(seen, ["finally"]);
});

test("reactions run after the code that adds them, in order", () => {
  const seen = [];
  const promise = DrivenPromise.resolve().then(() => seen.push(2));
  queueJob(() => seen.push(3));
  seen.push(1);
  run(promise.then(() => {}));
  assert.deepEqual(seen, [1, 2, 3]);
});

test("a thenable is followed, and the first of resolve and reject counts", () => {
  const thenable = { then: (resolve, reject) => (resolve("first"), reject("second")) };
  assert.equal(run(DrivenPromise.resolve(thenable)), "first");
  const cycle = DrivenPromise.withResolvers();
  cycle.resolve(cycle.promise);
  assert.match(failure(cycle.promise).message, /itself/);
});

test("lowered async functions wait for each other", () => {
  const double = (n) => lowered(function* () {
    yield null;
    return n * 2;
  });
  const promise = lowered(function* () {
    const all = yield DrivenPromise.all([double(1), double(2), 3]);
    try {
      yield DrivenPromise.reject(new Error("caught"));
    } catch (error) {
      return [...all, error.message];
    }
  });
  assert.deepEqual(run(promise), [2, 4, 3, "caught"]);
});

test("all, allSettled, any and race do as the language says", () => {
  const no = () => DrivenPromise.reject("no");
  assert.equal(failure(DrivenPromise.all([1, no()])), "no");
  assert.deepEqual(run(DrivenPromise.allSettled([1, no()])), [
    { status: "fulfilled", value: 1 },
    { status: "rejected", reason: "no" },
  ]);
  assert.equal(run(DrivenPromise.any([no(), 2])), 2);
  assert.deepEqual(failure(DrivenPromise.any([no(), no()])).errors, ["no", "no"]);
  assert.equal(run(DrivenPromise.race([new DrivenPromise(() => {}), 3])), 3);
  assert.deepEqual(run(DrivenPromise.all([])), []);
  assert.equal(run(DrivenPromise.try((n) => n + 1, 1)), 2);
});

test("timers run in the order they are due, when nothing else is to do", () => {
  const slept = [];
  whenIdle(() => runNextTimer((ms) => slept.push(ms)));
  const after = (ms) => new DrivenPromise((resolve) => setTimer(resolve, ms, [ms]));
  const order = [];
  const promise = DrivenPromise.all([after(2000).then((ms) => order.push(ms)), after(1000).then((ms) => order.push(ms))]);
  run(promise);
  assert.deepEqual(order, [1000, 2000]);
  assert.ok(slept.length === 2 && slept[0] <= 1000);
});

test("waiting for what can't happen is an error", () => {
  whenIdle(() => false);
  assert.equal(failure(new DrivenPromise(() => {})), "predict waits for something that can't happen: no timer or task is left");
});
