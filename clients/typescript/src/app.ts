/**
 * An application's kinds of jobs. Each is declared once, with {@link App.job}, and is a producer wherever the module is imported, and a
 * handler where a `Worker` runs the app.
 */
import type { KindRetry, NewKind } from "./api-types.js";
import { Client, type ClientOptions } from "./client.js";
import { Connection } from "./connection.js";
import type { JobContext } from "./context.js";
import { type EnqueueManyOptions, type EnqueueOptions, type JobRequest, type JobSettings, defined } from "./enqueue.js";
import { ConfigurationError } from "./errors.js";
import type { JobHandle } from "./job.js";
import { type InferInput, type InferOutput, type JsonSchema, type StandardSchema, jsonSchemaOf, validate } from "./schema.js";
import { type Queryable, type SqlSettings, enqueueIn } from "./sql.js";
import { Testing } from "./testing.js";

export interface AppOptions extends ClientOptions {
  /** The client that jobs are enqueued with. Default: one with the other options. */
  readonly client?: Client | undefined;
  /** The queue of kinds that name none. */
  readonly queue?: string | undefined;
}

export interface JobOptions {
  /** The queue of the kind's jobs. Default: the app's. */
  readonly queue?: string | undefined;
  /** The payload's schema as JSON Schema (2020-12), for the server. Default: what `schema` offers. */
  readonly jsonSchema?: JsonSchema | undefined;
  /** The result's. The server checks it when a job completes. */
  readonly resultSchema?: JsonSchema | undefined;
  /** Longest duration of one attempt, in seconds. Default: the server's. */
  readonly timeoutSeconds?: number | undefined;
  readonly retry?: RetryPolicy | undefined;
  readonly description?: string | undefined;
  /** JSON pointers such as `/customer/email` to fields of the payload that only admins see. */
  readonly redact?: readonly string[] | undefined;
}

/** What is not given is the server's default. */
export interface RetryPolicy {
  /** Largest number of attempts, the first included. */
  readonly maxAttempts?: number | undefined;
  /** Longest delay after the first failure, in seconds; doubled after each further one. */
  readonly baseSeconds?: number | undefined;
  /** Longest delay, in seconds. */
  readonly capSeconds?: number | undefined;
  /** Whether each delay is random. */
  readonly jitter?: boolean | undefined;
}

export type Handler<Payload, Result> = (payload: Payload, ctx: JobContext) => Result | Promise<Result>;

export class App {
  readonly #options: AppOptions;
  readonly #kinds = new Map<string, JobKind>();
  #client: Client | undefined;

  constructor(options: AppOptions = {}) {
    this.#options = options;
    this.#client = options.client;
  }

  /** Made when it is first used: a module with an app can be imported where there is no server. */
  get client(): Client {
    this.#client ??= new Client(this.#options);
    return this.#client;
  }

  /** For a worker: the app's server and key, as far as it names no others. @internal */
  connection(url?: string | URL, key?: string): Connection {
    const { client, ...own } = this.#options;
    return client === undefined ? new Connection(url ?? own.url, key ?? own.key) : client.connection.with(url, key);
  }

  /** Every kind, by its name. */
  get kinds(): ReadonlyMap<string, JobKind> {
    return this.#kinds;
  }

  /**
   * Declares a kind. Without a handler the app can enqueue its jobs and not run them.
   * @param name A letter, then up to 99 of letters, digits, `_`, `-`, `.` and `:`, such as `thumbnail.make`
   */
  job<Schema extends StandardSchema, Result = unknown>(
    name: string,
    options: JobOptions & { readonly schema: Schema },
    handler?: Handler<InferOutput<Schema>, Result>,
  ): JobKind<InferInput<Schema>, Awaited<Result>>;
  job<Payload = unknown, Result = unknown>(
    name: string,
    options?: JobOptions & { readonly schema?: undefined },
    handler?: Handler<Payload, Result>,
  ): JobKind<Payload, Awaited<Result>>;
  job(name: string, options: JobOptions & { schema?: StandardSchema | undefined } = {}, handler?: AnyHandler): JobKind {
    const queue = options.queue ?? this.#options.queue;
    if (queue === undefined) {
      throw new ConfigurationError(`the kind ${name} has no queue: name one in its options, or a default in those of the app`);
    }
    if (this.#kinds.has(name)) throw new ConfigurationError(`the kind ${name} is declared twice`);
    const kind = new JobKind(this, name, queue, options, options.schema, handler);
    this.#kinds.set(name, kind);
    return kind;
  }

  /** Declares the kinds at the server: all of them, or those of these names. Needs a key with the scope `admin`. */
  async declare(names: Iterable<string> = this.#kinds.keys()): Promise<void> {
    for (const name of names) {
      const kind = this.#kinds.get(name);
      if (kind === undefined) throw new ConfigurationError(`the app has no kind ${name}`);
      await this.client.declare(name, kind.definition());
    }
  }

  /**
   * From now on jobs are enqueued into memory, and run when the test says so: no server is needed.
   *
   * ```ts
   * using testing = app.testing();
   * await signup("ada@example.org");
   * await testing.run();
   * ```
   */
  testing(): Testing {
    const before = this.#client;
    const testing = new Testing(this.#kinds, () => {
      this.#client = before;
    });
    this.#client = new Client(testing.backend);
    return testing;
  }
}

type AnyHandler = Handler<any, any>;

/** A kind of job: enqueues its jobs, and knows their handler. `App.job` makes it. */
export class JobKind<Input = any, Result = any> {
  readonly name: string;
  readonly queue: string;
  readonly #app: App;
  readonly #options: JobOptions;
  readonly #schema: StandardSchema | undefined;
  readonly #handler: AnyHandler | undefined;

  /** @internal */
  constructor(app: App, name: string, queue: string, options: JobOptions, schema?: StandardSchema, handler?: AnyHandler) {
    this.#app = app;
    this.name = name;
    this.queue = queue;
    this.#options = options;
    this.#schema = schema;
    this.#handler = handler;
  }

  get hasHandler(): boolean {
    return this.#handler !== undefined;
  }

  /** Enqueues a job. @throws PayloadError if the schema refuses the payload, and what `Client.enqueue` throws */
  async enqueue(payload: Input, options: EnqueueOptions = {}): Promise<JobHandle<Result>> {
    await this.#check(payload);
    return this.#app.client.enqueue<Result>(this.name, payload, options);
  }

  /** Enqueues one job for each payload; see `Client.enqueueMany`. */
  async enqueueMany(payloads: readonly Input[], options: EnqueueManyOptions & JobSettings = {}): Promise<JobHandle<Result>[]> {
    for (const payload of payloads) await this.#check(payload);
    const { idempotencyKey, traceparent, signal, ...settings } = options;
    const requests = payloads.map((payload) => ({ ...settings, kind: this.name, payload }));
    const jobs = await this.#app.client.enqueueMany(requests, { idempotencyKey, traceparent, signal });
    return jobs as JobHandle<Result>[];
  }

  /** A checked request, for `Client.enqueueMany` and `then`. @throws PayloadError */
  async request(payload: Input, settings: JobSettings = {}): Promise<JobRequest> {
    await this.#check(payload);
    return { ...settings, kind: this.name, payload };
  }

  /**
   * Enqueues a job inside a transaction of PostgreSQL, the one that holds Holdfast's tables: it runs if the transaction commits. See
   * `enqueueIn`. @returns the job's id
   */
  async enqueueIn(transaction: Queryable, payload: Input, settings: SqlSettings = {}): Promise<string> {
    await this.#check(payload);
    return enqueueIn(transaction, this.name, payload, settings);
  }

  /** Checks the payload and calls the handler. @throws PayloadError, and what the handler throws */
  async run(payload: unknown, ctx: JobContext): Promise<Result> {
    if (this.#handler === undefined) throw new ConfigurationError(`the kind ${this.name} has no handler`);
    const checked = this.#schema === undefined ? payload : await validate(this.name, this.#schema, payload);
    return this.#handler(checked, ctx) as Promise<Result>;
  }

  /** As `PUT /v1/kinds/{name}` takes it. */
  definition(): NewKind {
    const { jsonSchema, resultSchema, timeoutSeconds, retry, description, redact } = this.#options;
    return {
      queue: this.queue,
      ...defined({
        timeout_seconds: timeoutSeconds,
        retry: retry && retryOf(retry),
        payload_schema: jsonSchema ?? (this.#schema && jsonSchemaOf(this.#schema)),
        result_schema: resultSchema,
        description,
        redact: redact && [...redact],
      }),
    };
  }

  async #check(payload: unknown): Promise<void> {
    if (this.#schema !== undefined) await validate(this.name, this.#schema, payload);
  }
}

function retryOf({ maxAttempts, baseSeconds, capSeconds, jitter }: RetryPolicy): KindRetry {
  return defined({ max_attempts: maxAttempts, base_seconds: baseSeconds, cap_seconds: capSeconds, jitter });
}
