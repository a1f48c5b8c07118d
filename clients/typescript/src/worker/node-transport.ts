/**
 * HTTP for the worker: `node:http`, because it says when a connection cannot be made in time, and costs half of what `fetch` does.
 *
 * Every call of a worker may be repeated. So a request that was lost because the server had closed an idle connection is sent again,
 * once, on a new one.
 */
import * as http from "node:http";
import * as https from "node:https";
import { ConnectionError, RequestTimeoutError } from "../errors.js";
import type { HttpAnswer, HttpRequest, Transport } from "../transport.js";

/** A worker needs one connection for its pull, one for outcomes, one for progress; more only while it changes its id. */
const MAX_SOCKETS = 8;

const CONNECT_MS = 5_000;

/** The largest answer is a pull's: 16 MiB of payloads, and what is around them. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

export interface NodeTransport {
  readonly transport: Transport;
  /** Closes the connections; requests under way fail. */
  close(): void;
}

export function nodeTransport(base: string): NodeTransport {
  const client = base.startsWith("https:") ? https : http;
  const agent = new client.Agent({ keepAlive: true, maxSockets: MAX_SOCKETS, scheduling: "lifo" });
  const transport: Transport = async (request) => {
    try {
      return await exchange(client, agent, request);
    } catch (error) {
      if (!(error instanceof StaleConnectionError) || request.signal.aborted) throw error;
      return exchange(client, agent, request);
    }
  };
  return { transport, close: () => agent.destroy() };
}

/** The server has closed a connection that was kept, at the moment when it was used again. */
class StaleConnectionError extends ConnectionError {}

function exchange(client: typeof http | typeof https, agent: http.Agent, given: HttpRequest): Promise<HttpAnswer> {
  const { url, method, headers, body, signal } = given;
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
    const request = client.request(url, { method, agent, headers: { ...headers, ...length } });
    const fail = (error: Error) => {
      signal.removeEventListener("abort", abort);
      request.destroy();
      if (signal.aborted) reject(signal.reason);
      else if (error instanceof ConnectionError) reject(error);
      else reject(connectionError(error, request.reusedSocket));
    };
    const abort = () => fail(new ConnectionError("the call was given up"));
    const succeed = (answer: HttpAnswer) => {
      signal.removeEventListener("abort", abort);
      resolve(answer);
    };
    if (signal.aborted) return fail(new ConnectionError("the call was given up"));
    signal.addEventListener("abort", abort, { once: true });
    request.on("error", fail);
    request.on("socket", (socket) => {
      if (!socket.connecting) return;
      const timer = setTimeout(() => {
        fail(new RequestTimeoutError(`no connection to the server within ${CONNECT_MS / 1000} s`));
      }, CONNECT_MS);
      socket.once("connect", () => clearTimeout(timer));
      socket.once("close", () => clearTimeout(timer));
    });
    request.on("response", (response) => read(response, succeed, fail));
    request.end(body);
  });
}

function read(response: http.IncomingMessage, succeed: (answer: HttpAnswer) => void, fail: (error: Error) => void): void {
  const chunks: Buffer[] = [];
  let bytes = 0;
  response.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) fail(new ConnectionError(`the answer has more than ${MAX_ANSWER_BYTES} bytes`));
    else chunks.push(chunk);
  });
  response.on("error", fail);
  response.on("end", () => {
    const status = response.statusCode ?? 0;
    succeed({ status, retryAfter: response.headers["retry-after"], body: Buffer.concat(chunks).toString("utf8") });
  });
}

function connectionError(cause: Error, reused: boolean): ConnectionError {
  const { code } = cause as NodeJS.ErrnoException;
  const stale = reused && (code === "ECONNRESET" || code === "EPIPE");
  return new (stale ? StaleConnectionError : ConnectionError)("the server cannot be reached", { cause });
}
