/**
 * Enqueue Holdfast jobs, and declare an application's kinds. This entry point runs wherever there is `fetch`: Node, Bun, Deno, and edge
 * runtimes. The worker is `@holdfast/client/worker`, for Node.
 */
export type * from "./api-types.js";
export { App, type AppOptions, type Handler, JobKind, type JobOptions, type RetryPolicy as KindRetryPolicy } from "./app.js";
export { Client, type ClientOptions } from "./client.js";
export type { JobContext } from "./context.js";
export type { CallOptions, EnqueueManyOptions, EnqueueOptions, JobRequest, JobSettings } from "./enqueue.js";
export {
  ApiError,
  ConfigurationError,
  ConflictError,
  ConnectionError,
  ForbiddenError,
  HoldfastError,
  InvalidRequestError,
  JobFailedError,
  NotFoundError,
  PayloadError,
  type PayloadIssue,
  RateLimitedError,
  RequestTimeoutError,
  UnauthenticatedError,
  UnavailableError,
  WaitTimeoutError,
} from "./errors.js";
export { JobHandle, type WaitOptions } from "./job.js";
export { Discard, Retry, type RetryOptions, Snooze, type StopCause, Stopped } from "./outcomes.js";
export { type InferInput, type InferOutput, type JsonSchema, type StandardSchema, jsonSchemaOf } from "./schema.js";
export {
  type Queryable,
  type SqlSettings,
  type Statement,
  enqueueIn,
  enqueueManyIn,
  enqueueManyStatement,
  enqueueStatement,
  jobIdOf,
} from "./sql.js";
export type { TestJob, Testing } from "./testing.js";
export { type HttpAnswer, type HttpRequest, type Transport, fetchTransport } from "./transport.js";
export { VERSION } from "./version.js";
