/* Generated from the server's OpenAPI document by scripts/generate-types.mjs. Do not edit. */

/** An accepted batch. */
export interface AcceptedBatch {
  accepted: number;
  /** In the order of the request's `jobs`. */
  ids: Array<string>;
}

/** An accepted job. */
export interface AcceptedJob {
  /** It already existed under this key; `id` is that of the first one. */
  duplicate: boolean;
  /** `ledger`: committed in SQL. `redis`: on the broker. */
  durability: string;
  id: string;
  kind: string;
  queue: string;
  state: string;
}

/** How the batch ended whose callback a job is. */
export interface EndedBatchView {
  cancelled: number;
  completed: number;
  discarded: number;
  id: string;
  total: number;
}

export interface Fault {
  field: string;
  index?: number | null;
  reason: string;
}

/** Outcomes. */
export interface Finish {
  /** At most 1,000. */
  outcomes: Array<JobOutcome>;
}

/** The answer to one outcome. */
export interface FinishedJob {
  job: string;
  /** The job completed, but its result was refused for this reason: it is a dead letter. */
  refused?: string | null;
  status: OutcomeStatusView;
}

/** The answers, in the order of the outcomes. */
export interface FinishedJobs {
  outcomes: Array<FinishedJob>;
}

/** The heartbeat of a pull worker. */
export interface Heartbeat {
  /**
   * Lines of handlers, 1,000 at most, for the logs of their jobs (`GET /v1/jobs/{id}/log`). Those of jobs that are not the worker's
   * are dropped. A heartbeat that is repeated stores its lines again.
   */
  log?: Array<LogLine>;
  /** The newest progress of some of them, any JSON of up to 64 KiB. */
  progress?: Record<string, unknown>;
  /** Every job that the worker has. */
  running?: Array<string>;
}

/** Instructions to the worker. */
export interface HeartbeatAnswer {
  /** Jobs that are to stop: they were cancelled. */
  cancel: Array<string>;
  /** Take no more jobs: finish what there is, and delete the worker. */
  drain: boolean;
  /** Jobs that are no longer this worker's: what they still do is in vain. */
  lost: Array<string>;
}

/** A job. */
export interface Job {
  /** Attempts with an outcome. */
  attempt: number;
  /** The batch that the job is part of. */
  batch?: string | null;
  /** The batch whose callback the job is. */
  callback_of?: string | null;
  cancel_requested: boolean;
  /** The job that its completion enqueued. */
  child?: string | null;
  /** Executions whose worker died. */
  crashes: number;
  created_at: string;
  durability: string;
  /**
   * Who enqueued it: `key/ID`, `user/ID`, `sql/ROLE`, `schedule/NAME`, `cli/LOGIN`, `bootstrap` or `local`. Null: the program itself,
   * the end of another job, or a version before; and a job of a `redis` queue that was stored on the broker.
   */
  enqueued_by?: string | null;
  /** One for each failed attempt and crash. */
  errors: Array<JobFailure>;
  /** The job is cancelled if it has not begun by then. */
  expires_at?: string | null;
  finished_at?: string | null;
  id: string;
  kind: string;
  limit_key?: string | null;
  max_attempts: number;
  /** The job whose completion enqueued it. */
  parent?: string | null;
  payload: unknown;
  priority: string;
  /** The progress that the running handler reported last. */
  progress?: unknown;
  queue: string;
  /** What the handler returned. */
  result?: unknown;
  /** The earliest start. */
  run_at: string;
  started_at?: string | null;
  /** scheduled, available, running, retryable, completed, discarded or cancelled. */
  state: string;
  /** Words by which the job is found. */
  tags?: Array<string>;
  /** The follow-up job that its completion enqueues or enqueued. */
  then?: NewJob | null;
  timeout_seconds: number;
  unique_key?: string | null;
  /** The worker that runs it, or ran it last. */
  worker?: string | null;
}

/** One failed attempt, or crash. */
export interface JobFailure {
  at: string;
  attempt: number;
  /** transient, permanent, timeout, panic, crash, … */
  class: string;
  message: string;
  worker?: string | null;
}

/** What comes with a job beside its payload. */
export interface JobHeaders {
  /** The W3C trace context of its producer. */
  traceparent?: string | null;
}

/** How one job ended. */
export interface JobOutcome {
  /** Of a failed or discarded job: the reason, for people. 4,096 bytes are stored. */
  error?: string | null;
  /** As the pull gave it. */
  fence: string;
  job: string;
  /**
   * Lines for the job's log that no heartbeat has brought. Of one line 4,096 bytes are stored, of a job the newest 1,000 lines with
   * 256 KiB.
   */
  log?: Array<string>;
  outcome: OutcomeVerb;
  /** Of a completed job. Checked against the kind's `result_schema`. */
  result?: unknown;
  /** Of a failed or snoozed job: when to try again, in seconds from now. */
  retry_after_seconds?: number | null;
}

/** A kind of job. */
export interface Kind {
  /** Declared with `PUT /v1/kinds/{name}`, and run by pull workers. Otherwise it is part of the program. */
  declared?: boolean;
  description?: string | null;
  kind: string;
  /** JSON Schema (2020-12) of its payloads, with `examples` where there are some. Only a declared kind may have none. */
  payload_schema?: unknown;
  /** The queue of its jobs, unless a job sets another. */
  queue: string;
  /** Paths of secret fields of its payloads: only admins see these. */
  redact?: Array<string>;
  /** JSON Schema of its results, if it has results and they have a schema. */
  result_schema?: unknown;
  /** The policy of its jobs on the kind's queue, unless a job sets another. */
  retry: RetryPolicy;
  /** The policies on queues that have their own. */
  retry_on: Record<string, RetryPolicy>;
  /** Longest duration of one attempt, unless a job sets another. */
  timeout_seconds: number;
}

/** The parts of a retry policy that a kind decides. The others are the configured default's. */
export interface KindRetry {
  /** Longest delay after the first failure, doubled after each further one. */
  base_seconds?: number | null;
  /** Longest delay. */
  cap_seconds?: number | null;
  /** Whether each delay is random. */
  jitter?: boolean | null;
  /** Largest number of attempts, the first included. */
  max_attempts?: number | null;
}

/** A line that a handler wrote. */
export interface LogLine {
  /**
   * As the pull gave it: then the line is dropped if the worker no longer has the job under this fence. Absent: it belongs to the
   * execution that the worker has now.
   */
  fence?: string | null;
  job: string;
  /** 4,096 bytes are stored. */
  line: string;
}

/** Many jobs, accepted atomically. */
export interface NewBatch {
  /** Up to 10,000, unless the server is configured otherwise. */
  jobs: Array<NewJob>;
}

/** A job to be enqueued. */
export interface NewJob {
  /** The earliest start, in seconds from now, by the database's clock. */
  delay_seconds?: number | null;
  /** The job is cancelled, with an error of the class `expired`, if it has not begun by then (RFC 3339). Not for follow-ups. */
  expires_at?: string | null;
  /** The kind of job; `GET /v1/kinds` lists them. */
  kind: string;
  /** The key for per-key limits of concurrency and rate, e.g. a customer's id. */
  limit_key?: string | null;
  /** Largest number of attempts, the first included. Default: the kind's, or the configured one. */
  max_attempts?: number | null;
  /** The payload, as the kind requires it. Stored byte for byte. */
  payload: unknown;
  /** Default: `normal`. */
  priority?: "high" | "normal" | "low" | null;
  /** Default: the kind's queue. */
  queue?: string | null;
  /**
   * At or after this time (RFC 3339). A time that has passed means now, and is stored so. Not together with
   * `delay_seconds`.
   */
  run_at?: string | null;
  /** Words by which the job is found (`tag:vip`): at most 8, each once, of 1 to 64 characters. */
  tags?: Array<string>;
  /**
   * The job that is enqueued when this one completes, in the same transaction. It may have its own `then`,
   * ten jobs in all. It is not enqueued if the job is discarded or cancelled. `delay_seconds` counts from
   * the completion; `run_at` is not allowed. Handlers in Rust can read the previous result.
   */
  then?: NewJob | null;
  /** Longest duration of one attempt, in seconds; above 0, at most a day. */
  timeout_seconds?: number | null;
  /** At most one job of this kind with this key waits or runs; a further request returns the first. */
  unique_key?: string | null;
}

/** A kind to be declared. */
export interface NewKind {
  description?: string | null;
  /** JSON Schema (2020-12) of the payload, 16 KiB at most, without references to other documents. Checked when a job is enqueued. */
  payload_schema?: unknown;
  /** The queue of its jobs, served by pull workers. It is declared with the kind if there is none. */
  queue: string;
  /**
   * Secret fields of payloads: paths such as `login.token`, `items[].secret` or `/customer/email`. Callers that are no admins see
   * `"[redacted]"` there, and stored payloads are encrypted there where the installation has keys.
   */
  redact?: Array<string>;
  /** The same of the result. Checked when a job completes. */
  result_schema?: unknown;
  retry?: KindRetry;
  /** Longest duration of one attempt. Default: `jobs.default_timeout_seconds`. */
  timeout_seconds?: number | null;
}

/** The registration of a pull worker. */
export interface NewWorker {
  client: WorkerClient;
  /** Jobs that the worker runs concurrently. */
  concurrency: number;
  /** The kinds that it has handlers for: jobs of other kinds are put back for 15 s. Absent: every kind. */
  kinds?: Array<string> | null;
  /** 1 to 100 characters, such as the host's name. */
  name: string;
  /** The queues to take jobs from, each served by pull workers. */
  queues: Array<string>;
}

/** The status of a reported outcome. */
export type OutcomeStatusView = "stored" | "lease_lost" | "unknown";

/** How an attempt ended. */
export type OutcomeVerb = "completed" | "failed" | "discard" | "snooze" | "cancelled";

/** Every error (RFC 9457). */
export interface Problem {
  column?: number | null;
  detail: string;
  /** Every invalid field. */
  errors?: Array<Fault> | null;
  /** The path of the invalid field, or the name of a header or parameter. */
  field?: string | null;
  /** Which job of a batch, from 0. */
  index?: number | null;
  /** The requested path. */
  instance?: string | null;
  job_id?: string | null;
  /** For malformed JSON. */
  line?: number | null;
  /** The request's id in the server's log; also in `X-Request-Id`. */
  request_id?: string | null;
  status: number;
  title: string;
  /** Never changes for a kind of problem. */
  type: string;
}

/** A request for jobs. */
export interface Pull {
  /** Every job that the worker has. A job that is leased to it and not named here is given again. */
  have?: Array<string>;
  /** Jobs at most, 1 to 500. */
  max: number;
  /**
   * How long to wait for the first job, in seconds, 60 at most. The answer comes earlier, with no jobs, if the worker sends no
   * heartbeat in the meantime.
   */
  wait_seconds?: number;
}

/** A job to be run. */
export interface PulledJob {
  /** The number of this attempt, from 1. */
  attempt: number;
  /** The batch that the job is part of. */
  batch?: string | null;
  /** Longest time that the attempt may take, in seconds from its start. */
  deadline_seconds: number;
  /** The batch whose callback the job is. */
  ended_batch?: EndedBatchView | null;
  /** Send it back with the outcome, as it is. */
  fence: string;
  headers: JobHeaders;
  id: string;
  kind: string;
  max_attempts: number;
  payload: unknown;
  /** What the job before this one in its chain returned. */
  previous_result?: unknown;
  queue: string;
}

/** The answer to a pull. */
export interface PulledJobs {
  /** Take no more jobs: finish what there is, and delete the worker. */
  drain: boolean;
  jobs: Array<PulledJob>;
  /**
   * The worker's id has been given 100,000 jobs: register again when it suits, finish what was pulled under this id, and delete
   * it. Optional; it keeps the database fast.
   */
  register_again: boolean;
}

/** A registered worker. */
export interface RegisteredWorker {
  /** How often to send a heartbeat, in seconds. */
  heartbeat_seconds: number;
  id: string;
  /** After this many seconds without any call the worker's jobs are given to others. */
  lost_after_seconds: number;
}

/** How often a job is tried, and the delays in between. */
export interface RetryPolicy {
  /** Longest delay after the first failure, in seconds, doubled after each further one. */
  base_seconds: number;
  /** Longest delay, in seconds. */
  cap_seconds: number;
  /** Whether each delay is random. */
  jitter: boolean;
  /** Largest number of attempts, the first included. */
  max_attempts: number;
  /** The shortest delay, as a share of the longest after the same failure: 0 (full jitter), 0.5 (equal jitter) or 1 (none). */
  shortest_share: number;
}

/** The result of a request to cancel or retry. */
export interface SteeredJob {
  id: string;
  /** The job's current state. `running` after a cancellation: it was asked to stop. */
  state: string;
}

/** What a pull worker is, for people who look at a list of workers. */
export interface WorkerClient {
  language: string;
  name: string;
  version: string;
}
