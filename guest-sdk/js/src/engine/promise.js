/**
 * Promises that are driven from JavaScript.
 *
 * The component's exports are plain functions, and QuickJS runs no jobs while one of them is running:
 * a native promise would never settle before it returns. These do: the build lowers `async` to
 * generators on promises, and `run` works off their jobs, and timers when there are none, until the one
 * it waits for has settled.
 */

/** @type {(() => void)[]} */
const jobs = [];

/** Runs when no job is left; says whether it brought new ones. */
let idle = () => false;

/** Sets what is done when there are no jobs. */
export function whenIdle(/** @type {() => boolean} */ next) {
  idle = next;
}

export function queueJob(/** @type {() => void} */ job) {
  jobs.push(job);
}

/**
 * Works until a promise has settled; returns its value or throws its reason.
 *
 * @template T
 * @param {DrivenPromise} promise
 * @returns {T}
 */
export function run(promise) {
  while (promise.state === "pending") {
    if (jobs.length === 0 && !idle()) {
      throw "predict waits for something that can't happen: no timer or task is left";
    }
    // A queue that is read from the front: jobs add jobs behind it.
    for (let next = 0; next < jobs.length; next += 1) jobs[next]();
    jobs.length = 0;
  }
  if (promise.state === "rejected") throw promise.value;
  return promise.value;
}

/** The `Promise` of the language, as far as its methods go. */
export class DrivenPromise {
  state = "pending";
  /** @type {any} */
  value = undefined;
  /** @type {(() => void)[]} */
  #waiting = [];

  constructor(/** @type {(resolve: (value?: any) => void, reject: (reason?: any) => void) => void} */ executor) {
    if (typeof executor !== "function") throw new TypeError("Promise needs a function");
    const { resolve, reject } = this.#resolvers();
    try {
      executor(resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  then(/** @type {any} */ onFulfilled, /** @type {any} */ onRejected) {
    return new DrivenPromise((resolve, reject) => {
      const react = () => {
        const handler = this.state === "fulfilled" ? onFulfilled : onRejected;
        if (typeof handler !== "function") {
          (this.state === "fulfilled" ? resolve : reject)(this.value);
          return;
        }
        try {
          resolve(handler(this.value));
        } catch (error) {
          reject(error);
        }
      };
      if (this.state === "pending") this.#waiting.push(react);
      else queueJob(react);
    });
  }

  catch(/** @type {any} */ onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(/** @type {any} */ onFinally) {
    if (typeof onFinally !== "function") return this.then(onFinally, onFinally);
    return this.then(
      (/** @type {any} */ value) => DrivenPromise.resolve(onFinally()).then(() => value),
      (/** @type {any} */ reason) =>
        DrivenPromise.resolve(onFinally()).then(() => {
          throw reason;
        }),
    );
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  /** One pair of functions; the first call of either counts. */
  #resolvers() {
    let isDecided = false;
    const once = (/** @type {(value: any) => void} */ action) => (/** @type {any} */ value) => {
      if (isDecided) return;
      isDecided = true;
      action(value);
    };
    return {
      resolve: once((value) => this.#resolve(value)),
      reject: once((reason) => this.#settle("rejected", reason)),
    };
  }

  #resolve(/** @type {any} */ value) {
    if (value === this) {
      this.#settle("rejected", new TypeError("a promise can't be resolved with itself"));
      return;
    }
    if ((typeof value !== "object" && typeof value !== "function") || value === null) {
      this.#settle("fulfilled", value);
      return;
    }
    /** @type {any} */
    let then;
    try {
      then = value.then;
    } catch (error) {
      this.#settle("rejected", error);
      return;
    }
    if (typeof then !== "function") this.#settle("fulfilled", value);
    else queueJob(() => this.#follow(value, then));
  }

  #follow(/** @type {any} */ thenable, /** @type {any} */ then) {
    const { resolve, reject } = this.#resolvers();
    try {
      then.call(thenable, resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  #settle(/** @type {string} */ state, /** @type {any} */ value) {
    this.state = state;
    this.value = value;
    for (const react of this.#waiting) queueJob(react);
    this.#waiting = [];
  }

  static resolve(/** @type {any} */ value) {
    return value instanceof DrivenPromise ? value : new DrivenPromise((resolve) => resolve(value));
  }

  static reject(/** @type {any} */ reason) {
    return new DrivenPromise((_, reject) => reject(reason));
  }

  static try(/** @type {(...items: any[]) => any} */ body, /** @type {any[]} */ ...items) {
    return new DrivenPromise((resolve) => resolve(body(...items)));
  }

  static withResolvers() {
    /** @type {any} */
    const made = {};
    made.promise = new DrivenPromise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  }

  static all(/** @type {Iterable<any>} */ items) {
    return collect(items, (promise, settle, reject) => promise.then(settle, reject));
  }

  static allSettled(/** @type {Iterable<any>} */ items) {
    return collect(items, (promise, settle) =>
      promise.then(
        (/** @type {any} */ value) => settle({ status: "fulfilled", value }),
        (/** @type {any} */ reason) => settle({ status: "rejected", reason }),
      ),
    );
  }

  static race(/** @type {Iterable<any>} */ items) {
    return new DrivenPromise((resolve, reject) => {
      for (const item of items) DrivenPromise.resolve(item).then(resolve, reject);
    });
  }

  static any(/** @type {Iterable<any>} */ items) {
    return new DrivenPromise((resolve, reject) => {
      const failed = collect(items, (promise, settle) => promise.then(resolve, settle));
      failed.then((/** @type {any[]} */ errors) => reject(new AggregateError(errors, "every promise was rejected")));
    });
  }
}

/** A promise of an array that is filled in the order of the items. */
function collect(
  /** @type {Iterable<any>} */ items,
  /** @type {(promise: DrivenPromise, settle: (value: any) => void, reject: (reason: any) => void) => void} */ wait,
) {
  return new DrivenPromise((resolve, reject) => {
    /** @type {any[]} */
    const values = [];
    let left = 1;
    const done = () => {
      left -= 1;
      if (left === 0) resolve(values);
    };
    let count = 0;
    for (const item of items) {
      const index = count;
      count += 1;
      left += 1;
      wait(
        DrivenPromise.resolve(item),
        (value) => {
          values[index] = value;
          done();
        },
        reject,
      );
    }
    done();
  });
}
