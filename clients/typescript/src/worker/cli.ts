#!/usr/bin/env node
/**
 * The command `holdfast-worker`. Exit codes: 0 after a signal or an order to drain, 64 if the arguments, the app or the server's answer to
 * them are wrong, 70 for anything else.
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { App } from "../app.js";
import { ApiError, ConfigurationError, ForbiddenError, messageOf } from "../errors.js";
import { VERSION } from "../version.js";
import { isTemporary } from "./calls.js";
import { type LogLevel, type Logger, lineLogger } from "./log.js";
import type { WorkerOptions } from "./options.js";
import { Worker } from "./worker.js";

const HELP = `Runs the jobs of an app.

Usage: holdfast-worker APP [options]

  APP                  a module that exports an App of @holdfast/client, as "app" or as its default

  --concurrency N      handlers at the same time (default 16)
  --queues A,B         the queues to take jobs from (default: those of the app's kinds)
  --name NAME          shown in lists of workers (default: the host's name)
  --grace SECONDS      how long handlers may go on after a signal (default 25)
  --export NAME        the name of the module's export
  --no-declare         do not declare the app's kinds first; a key without the scope "admin" does not anyway
  --declare-only       declare the app's kinds, with a key of the scope "admin", and end
  --log LEVEL          debug, info, warn or error (default info)
  --help, --version

The server and the key come from the app, or from HOLDFAST_URL and HOLDFAST_API_KEY. SIGTERM and SIGINT end the worker gracefully, a
second one immediately.
`;

const OPTIONS = {
  concurrency: { type: "string" },
  queues: { type: "string" },
  name: { type: "string" },
  grace: { type: "string" },
  export: { type: "string" },
  "no-declare": { type: "boolean" },
  "declare-only": { type: "boolean" },
  log: { type: "string" },
  help: { type: "boolean" },
  version: { type: "boolean" },
} as const;

class UsageError extends ConfigurationError {}

async function main(args: string[]): Promise<void> {
  const { values, positionals } = parsed(args);
  if (values.help) return void process.stdout.write(HELP);
  if (values.version) return void process.stdout.write(`${VERSION}\n`);
  const [path, ...more] = positionals;
  if (path === undefined || more.length > 0) throw new UsageError("name one module, such as ./app.js (see --help)");
  const app = await appOf(path, values.export);
  if (values["declare-only"]) return app.declare();
  const logger = lineLogger(levelOf(values.log));
  const options: WorkerOptions = {
    concurrency: numberOf("concurrency", values.concurrency),
    graceSeconds: numberOf("grace", values.grace),
    queues: values.queues?.split(",").map((queue) => queue.trim()),
    name: values.name,
    logger,
    signals: true,
    watchdog: true,
  };
  const worker = new Worker(app, options);
  if (!values["no-declare"]) await declare(app, logger);
  await worker.run();
}

/** A worker's key may lack the scope: the kinds were declared when the app was deployed. */
async function declare(app: App, log: Logger): Promise<void> {
  try {
    await app.declare();
  } catch (error) {
    if (error instanceof ForbiddenError) log.info("the key may not declare kinds: --declare-only does it, with an admin's key");
    else if (isTemporary(error)) log.warn("the kinds could not be declared", { error: messageOf(error) });
    else throw error;
  }
}

function parsed(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(`${messageOf(error)} (see --help)`);
  }
}

function numberOf(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const number = Number(text);
  if (text.trim() === "" || !Number.isFinite(number)) throw new UsageError(`--${name} must be a number, not ${JSON.stringify(text)}`);
  return number;
}

function levelOf(text = "info"): LogLevel {
  if (text === "debug" || text === "info" || text === "warn" || text === "error") return text;
  throw new UsageError(`--log must be debug, info, warn or error, not ${JSON.stringify(text)}`);
}

async function appOf(path: string, name: string | undefined): Promise<App> {
  const module = (await import(pathToFileURL(resolve(path)).href)) as Record<string, unknown>;
  const names = name === undefined ? ["app", "default"] : [name];
  for (const name of names) {
    if (module[name] instanceof App) return module[name];
  }
  const isOther = names.some((name) => module[name] !== undefined);
  const why = isOther ? ": what it exports is no App, or that of another copy of the package" : "";
  throw new UsageError(`${path} exports no App as ${names.map((name) => JSON.stringify(name)).join(" or ")}${why}`);
}

/** What another try would not mend. */
function isUsersFault(error: unknown): boolean {
  return error instanceof ConfigurationError || (error instanceof ApiError && !isTemporary(error));
}

try {
  await main(process.argv.slice(2));
  // Handlers that were given up, and pools of the app, do not keep the process.
  process.exit(0);
} catch (error) {
  const text = isUsersFault(error) ? messageOf(error) : error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`holdfast-worker: ${text}\n`);
  if (error instanceof ApiError && error.slug === "unknown-queue") {
    process.stderr.write("holdfast-worker: declare the app's kinds once, with an admin's key: holdfast-worker APP --declare-only\n");
  }
  process.exit(isUsersFault(error) ? 64 : 70);
}
