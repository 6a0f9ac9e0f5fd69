/**
 * The two JavaScript engines a component can have inside, and what decides between them.
 *
 * QuickJS makes a component of 1.6 MB that starts in a fraction of a millisecond; what it lacks of the
 * web's interfaces the SDK adds where it is small (`src/engine`). StarlingMonkey has URLs, streams, text
 * encoders and events, and makes 12 MB. A file that uses one of `WEB` gets StarlingMonkey.
 */

/** Names that only StarlingMonkey has. */
export const WEB = [
  "AbortController", "AbortSignal", "Blob", "CompressionStream", "DecompressionStream", "Event", "EventTarget",
  "File", "FormData", "Headers", "ReadableStream", "Request", "Response", "TextDecoder", "TextEncoder",
  "TransformStream", "URL", "URLSearchParams", "WritableStream", "crypto", "structuredClone",
];

/** Names that neither has, and what to say of them. */
export const ABSENT = {
  Buffer: "use Uint8Array",
  WebSocket: "a component reaches no network",
  Worker: "a component has one thread",
  XMLHttpRequest: "a component reaches no network",
  document: "there is no page",
  fetch: "a component reaches no network",
  localStorage: "nothing outlives a prediction",
  process: "there is no process; settings come as inputs",
  require: "use import",
  window: "there is no page; use globalThis",
};

/** How esbuild writes for each engine. */
export const ENGINES = {
  quickjs: {
    target: "es2022",
    // Lowered to generators on the SDK's promises: see src/engine/promise.js.
    supported: { "async-await": false, "async-generator": false, "for-await": false, using: false },
  },
  starling: { target: "es2022", supported: { using: false } },
};
