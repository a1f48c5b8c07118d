/** A producer's connection to a server. */
import { Api, type Patience } from "./api.js";
import type { Kind, NewKind } from "./api-types.js";
import { Connection } from "./connection.js";
import type { Backend, CallOptions, EnqueueManyOptions, EnqueueOptions, JobRequest } from "./enqueue.js";
import { ConfigurationError } from "./errors.js";
import { JobHandle } from "./job.js";
import { ServerBackend } from "./server.js";
import { type Transport, fetchTransport } from "./transport.js";

export interface ClientOptions {
  /** Such as `https://jobs.example.com`. Default: the environment's `HOLDFAST_URL`. */
  readonly url?: string | URL | undefined;
  /** An API key: the scope `produce` to enqueue, `read:payload` to wait for results. Default: the environment's `HOLDFAST_API_KEY`. */
  readonly key?: string | undefined;
  /** For one try of a call, in seconds. Default: 10. */
  readonly timeoutSeconds?: number | undefined;
  /** Tries of a call while the server is unavailable. Default: 5. */
  readonly tries?: number | undefined;
  /** For all tries of a call, in seconds. Default: 30. */
  readonly totalSeconds?: number | undefined;
  /** How requests are made. Default: `fetch`, with at most 64 connections. */
  readonly transport?: Transport | undefined;
}

/**
 * Enqueues jobs and follows them. It opens no connection before the first call, keeps no process alive, and needs no closing. Make one
 * for each process, not one for each request: its connections are reused.
 */
export class Client {
  readonly #backend: Backend;
  readonly #server: Server | undefined;

  constructor(options: ClientOptions | Backend = {}) {
    if (isBackend(options)) {
      this.#backend = options;
      this.#server = undefined;
    } else {
      this.#server = serverOf(options);
      const { api, patience, timeoutMs } = this.#server;
      this.#backend = new ServerBackend(api, patience, timeoutMs);
    }
  }

  /**
   * Enqueues a job. When this resolves the job is committed: it will run.
   * @throws InvalidRequestError if the server refuses it, UnavailableError or ConnectionError if the server could not take it in time
   */
  async enqueue<Result = unknown>(kind: string, payload?: unknown, options: EnqueueOptions = {}): Promise<JobHandle<Result>> {
    const { id, duplicate } = await this.#backend.enqueue({ ...options, kind, payload }, options);
    return new JobHandle(this.#backend, id, duplicate);
  }

  /**
   * Enqueues many jobs; handles in the order of the requests. Up to 10,000 jobs and about 4 MiB are accepted atomically. More are sent in
   * several requests: after an error the first of them may have been accepted, and a repeat with the same `idempotencyKey` completes
   * the rest.
   */
  async enqueueMany(requests: readonly JobRequest[], options: EnqueueManyOptions = {}): Promise<JobHandle[]> {
    const ids = await this.#backend.enqueueMany(requests, options);
    return ids.map((id) => new JobHandle(this.#backend, id));
  }

  /** A job by its id; nothing is asked yet. */
  job<Result = unknown>(id: string): JobHandle<Result> {
    return new JobHandle(this.#backend, id);
  }

  /** Declares a kind and its queue, or replaces its definition: `PUT /v1/kinds/{name}`. Needs the scope `admin`. */
  async declare(name: string, definition: NewKind, { signal }: CallOptions = {}): Promise<Kind> {
    if (this.#server === undefined) throw new ConfigurationError("kinds cannot be declared without a server");
    const { api, patience, timeoutMs } = this.#server;
    const path = `/v1/kinds/${encodeURIComponent(name)}`;
    return api.repeat<Kind>({ method: "PUT", path, body: JSON.stringify(definition), timeoutMs, signal }, patience);
  }

  /** For a worker of the same server. @internal */
  get connection(): Connection {
    if (this.#server === undefined) throw new ConfigurationError("the client has no server: the app is in its testing mode");
    return this.#server.connection;
  }

  /**
   * Makes workers look at a queue now. For jobs that were enqueued with SQL: others are seen without it.
   */
  async ring(queue: string, { signal }: CallOptions = {}): Promise<void> {
    if (this.#server === undefined) return;
    const { api, patience, timeoutMs } = this.#server;
    await api.repeat({ method: "POST", path: `/v1/queues/${encodeURIComponent(queue)}/ring`, timeoutMs, signal }, patience);
  }
}

interface Server {
  readonly connection: Connection;
  readonly api: Api;
  readonly patience: Patience;
  readonly timeoutMs: number;
}

function serverOf(options: ClientOptions): Server {
  const { url, key, timeoutSeconds = 10, tries = 5, totalSeconds = 30, transport = fetchTransport() } = options;
  for (const [name, value] of Object.entries({ timeoutSeconds, tries, totalSeconds })) {
    if (!(value > 0)) throw new ConfigurationError(`${name} must be a number above 0, not ${value}`);
  }
  const connection = new Connection(url, key);
  const api = new Api(connection, transport);
  return { connection, api, patience: { tries, totalMs: totalSeconds * 1000 }, timeoutMs: timeoutSeconds * 1000 };
}

function isBackend(options: ClientOptions | Backend): options is Backend {
  return "enqueueMany" in options;
}
