/** Run jobs on Node: `new Worker(app).run()`, or the command `holdfast-worker`. */
export type { LogFields, Logger, LogLevel } from "./log.js";
export { lineLogger, withFields } from "./log.js";
export { CLIENT, type WorkerOptions } from "./options.js";
export { type EndReason, Worker, type WorkerStats } from "./worker.js";
