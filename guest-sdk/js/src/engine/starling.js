/** What StarlingMonkey does otherwise: it drives promises itself and takes 64-bit numbers as BigInt. */

import { console } from "./console.js";

Object.assign(globalThis, { console, dormouseU64: "bigint" });

/** What an export returns to the host: the promise, which the engine waits for. */
export const finish = (/** @type {Promise<unknown>} */ promise) => promise;
