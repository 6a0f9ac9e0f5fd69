/**
 * What a build tells while it runs, as JSON lines on standard error. The same events as the Python
 * SDK's build:
 *
 *     {"event": "step", "step": "bundle", "message": "app.ts"}
 *     {"event": "note", "level": "warning", "file": "app.ts", "line": 3, "message": "..."}
 *     {"event": "failed", "file": "app.ts", "line": 12, "message": "...", "advice": "..."}
 */

/** Why there is no component, with where and with what to do about it. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {{ file?: string, line?: number, advice?: string }} [where]
   */
  constructor(message, { file, line, advice } = {}) {
    super(message);
    this.file = file ?? null;
    this.line = line ?? null;
    this.advice = advice ?? null;
  }
}

/** Writes events and keeps the notes. */
export class Reporter {
  /** @type {object[]} */
  notes = [];

  /** @param {(line: string) => void} [write] */
  constructor(write = (line) => process.stderr.write(line)) {
    this.write = write;
  }

  /** A part of the build begins. */
  step(/** @type {string} */ step, /** @type {string} */ message) {
    this.#tell({ event: "step", step, message });
  }

  /**
   * Something the author should know: `warning` when a prediction may differ, `info` otherwise.
   *
   * @param {"info" | "warning"} level
   * @param {string} message
   * @param {{ file?: string, line?: number }} [where]
   */
  note(level, message, { file, line } = {}) {
    const note = { level, message, file: file ?? null, line: line ?? null };
    this.notes.push(note);
    this.#tell({ event: "note", ...note });
  }

  /** The build ends here. */
  failed(/** @type {Failure} */ { message, file, line, advice }) {
    this.#tell({ event: "failed", file, line, message, advice });
  }

  #tell(/** @type {object} */ event) {
    this.write(`${JSON.stringify(event)}\n`);
  }
}
