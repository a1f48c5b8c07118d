/**
 * What can go wrong, by class: an answer of the server ({@link ApiError} and its subclasses), no answer ({@link ConnectionError}),
 * a payload that its schema refuses ({@link PayloadError}), a job that did not complete ({@link JobFailedError}).
 * No error carries the API key.
 */
import type { Fault, Job, Problem } from "./api-types.js";

/** The class that all errors of this package extend. */
export class HoldfastError extends Error {
  override name = "HoldfastError";
}

/** The arguments or the environment are wrong; no request was sent. */
export class ConfigurationError extends HoldfastError {
  override name = "ConfigurationError";
}

/** The server could not be reached, or the connection was lost before its answer was read. The call may have had its effect. */
export class ConnectionError extends HoldfastError {
  override name = "ConnectionError";
}

/** There was no answer in time. The call may have had its effect. */
export class RequestTimeoutError extends ConnectionError {
  override name = "RequestTimeoutError";
}

/** The server answered with an error: a problem document (RFC 9457), or what a proxy sent in its place. */
export class ApiError extends HoldfastError {
  override name = "ApiError";
  /** The HTTP status. */
  readonly status: number;
  /** What went wrong, for programs, such as `urn:holdfast:problem:unknown-kind`; `about:blank` if a proxy answered. */
  readonly type: string;
  readonly title: string;
  readonly detail: string;
  /** Every invalid field. */
  readonly errors: readonly Fault[];
  /** The path of the invalid field, or the name of a header or parameter. */
  readonly field: string | undefined;
  /** Which job of a batch is wrong, from 0. */
  readonly index: number | undefined;
  /** The request's id in the server's log. */
  readonly requestId: string | undefined;
  /** How long the server asks to wait before the call is repeated, in seconds. */
  readonly retryAfterSeconds: number | undefined;

  constructor(status: number, problem: Partial<Problem>, retryAfterSeconds?: number) {
    const title = problem.title ?? `HTTP status ${status}`;
    const detail = problem.detail ?? "the answer is no problem document: a proxy may have sent it";
    super(`${title}: ${detail} (${status})`);
    this.status = status;
    this.type = problem.type ?? "about:blank";
    this.title = title;
    this.detail = detail;
    this.errors = problem.errors ?? [];
    this.field = problem.field ?? undefined;
    this.index = problem.index ?? undefined;
    this.requestId = problem.request_id ?? undefined;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** The server's own answer, and not that of something in between. */
  get isProblem(): boolean {
    return this.type !== "about:blank";
  }

  /** The last part of `type`, such as `unknown-kind`. */
  get slug(): string {
    return this.type.slice(this.type.lastIndexOf(":") + 1);
  }
}

/** 401: the API key is missing, wrong or revoked. */
export class UnauthenticatedError extends ApiError {
  override name = "UnauthenticatedError";
}

/** 403: the API key lacks a scope. */
export class ForbiddenError extends ApiError {
  override name = "ForbiddenError";
}

/** 404. */
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}

/** 409: the state of what is addressed does not allow it. */
export class ConflictError extends ApiError {
  override name = "ConflictError";
}

/** 400, 413, 415 or 422: the request is wrong, and would be wrong again. */
export class InvalidRequestError extends ApiError {
  override name = "InvalidRequestError";
}

/** 429: too many requests of this key. */
export class RateLimitedError extends ApiError {
  override name = "RateLimitedError";
}

/** 408, 502, 503 or 504: the same call may succeed later. */
export class UnavailableError extends ApiError {
  override name = "UnavailableError";
}

const CLASSES: Readonly<Record<number, typeof ApiError>> = {
  400: InvalidRequestError,
  401: UnauthenticatedError,
  403: ForbiddenError,
  404: NotFoundError,
  408: UnavailableError,
  409: ConflictError,
  413: InvalidRequestError,
  415: InvalidRequestError,
  422: InvalidRequestError,
  429: RateLimitedError,
  502: UnavailableError,
  503: UnavailableError,
  504: UnavailableError,
};

/** The error that an answer stands for. */
export function apiError(status: number, body: string, retryAfterSeconds?: number): ApiError {
  return new (CLASSES[status] ?? ApiError)(status, problemOf(body), retryAfterSeconds);
}

function problemOf(body: string): Partial<Problem> {
  try {
    const parsed: unknown = JSON.parse(body);
    return typeof parsed === "object" && parsed !== null ? (parsed as Partial<Problem>) : {};
  } catch {
    return {};
  }
}

/** Whether the same call may succeed later. Whether it may be repeated is for the caller to know. */
export function isTransient(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof UnavailableError || error instanceof RateLimitedError;
}

/** How long the server asked to wait, in milliseconds; 0 if it did not. */
export function retryAfterMs(error: unknown): number {
  return error instanceof ApiError ? (error.retryAfterSeconds ?? 0) * 1000 : 0;
}

/** One reason for which a payload was refused. */
export interface PayloadIssue {
  readonly message: string;
  /** Where, such as `user.email`; empty for the payload itself. */
  readonly path: string;
}

/** The payload is not what the kind's schema describes, or is not JSON. No request was sent. */
export class PayloadError extends HoldfastError {
  override name = "PayloadError";
  readonly kind: string;
  readonly issues: readonly PayloadIssue[];

  constructor(kind: string, issues: readonly PayloadIssue[], options?: ErrorOptions) {
    const reasons = issues.slice(0, 10).map(({ path, message }) => (path === "" ? message : `${path}: ${message}`));
    super(`the payload of ${kind} is invalid: ${reasons.join("; ")}`, options);
    this.kind = kind;
    this.issues = issues;
  }
}

/** A job that was waited for will not complete: it was discarded or cancelled. `job` says why. */
export class JobFailedError extends HoldfastError {
  override name = "JobFailedError";
  readonly job: Job;

  constructor(job: Job) {
    const reason = job.errors.at(-1)?.message.split("\n", 1)[0];
    super(`the job ${job.id} (${job.kind}) was ${job.state}${reason === undefined ? "" : `: ${reason}`}`);
    this.job = job;
  }
}

/** A job did not end in the time that `wait` was given. It goes on. */
export class WaitTimeoutError extends HoldfastError {
  override name = "WaitTimeoutError";
  readonly jobId: string;

  constructor(jobId: string, seconds: number) {
    super(`the job ${jobId} has not ended within ${seconds} s; it goes on`);
    this.jobId = jobId;
  }
}

/** One line about an error, for logs. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : ` (${messageOf(error.cause)})`;
  return `${error.message || error.name}${cause}`;
}
