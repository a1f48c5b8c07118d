/** Run jobs on Node: `new Worker(app).run()`, or the command `holdfast-worker`. */
export type { LogFields, Logger, LogLevel } from "./log.js";
export { lineLogger, withFields } from "./log.js";
export { CLIENT, type EndReason, Worker, type WorkerOptions, type WorkerStats } from "./worker.js";
