// Receives signed requests (Standard Webhooks): SECRET=whsec_... PORT=9000 node receiver.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const KEY = Buffer.from(process.env.SECRET.replace(/^whsec_/, ""), "base64");
const TOLERANCE = 300; // seconds between the sender's clock and ours
const MAX_BODY = 1024 * 1024;
const MAX_SEEN = 100_000; // in production: a table with a unique column, written with what the request does
const seen = new Set();

/** Whether one of the signatures is ours; during a rotation there are two. */
function isAuthentic(headers, body) {
  const [id, sentAt] = [headers["webhook-id"] ?? "", headers["webhook-timestamp"] ?? ""];
  if (!/^\d{1,12}$/.test(sentAt) || Math.abs(Date.now() / 1000 - Number(sentAt)) > TOLERANCE) return false;
  const mac = createHmac("sha256", KEY).update(`${id}.${sentAt}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${mac}`);
  const given = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
  return given.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
}

async function handle(id, body) {
  console.log("handled", id); // your work; if it throws, the request is repeated
  return { handled: id, bytes: body.length };
}

async function read(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function receive(request) {
  const body = await read(request);
  if (body === null) return [413, { error: "the body is too large" }];
  if (!isAuthentic(request.headers, body)) return [401, { error: "the signature is not valid" }];
  const id = request.headers["webhook-id"];
  if (seen.has(id)) return [200, { repeated: id }];
  seen.add(id);
  if (seen.size > MAX_SEEN) seen.delete(seen.values().next().value);
  try {
    return [200, await handle(id, body)];
  } catch (error) {
    seen.delete(id);
    console.error(error);
    return [500, { error: "try again" }];
  }
}

createServer(async (request, response) => {
  const [status, document] = await receive(request);
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(document));
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1");
