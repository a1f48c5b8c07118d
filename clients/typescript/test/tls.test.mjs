// The client, the worker and its thread of heartbeats work over https with a private certificate authority (NODE_EXTRA_CA_CERTS).
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer } from "node:tls";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { DEADLINE_MS, realServer, withoutServer } from "./support.mjs";

const PROGRAM = fileURLToPath(new URL("tls-program.mjs", import.meta.url));
const KEY = "tls-tests-admin-key-of-no-worth";

describe("https with a private authority", { skip: withoutServer }, () => {
  const directory = mkdtempSync(join(tmpdir(), "holdfast-ts-tls-"));
  let server, secured;

  before(async () => {
    certify(directory);
    server = await realServer({
      HOLDFAST_API_KEY: KEY,
      HOLDFAST__WORKER__HEARTBEAT_SECONDS: "1",
      HOLDFAST__WORKER__LOST_AFTER_SECONDS: "3",
    });
    secured = await tlsServer(directory, Number(new URL(server.url).port));
  });

  after(async () => {
    secured?.close();
    await server?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it("runs a job for longer than a lease, in one attempt", async () => {
    const { code, output } = await run(secured.url, { NODE_EXTRA_CA_CERTS: join(directory, "ca.pem") });
    assert.equal(code, 0, output);
    assert.match(output, /completed in attempt 1/);
  });

  it("is refused where the authority is not known", async () => {
    const { code, output } = await run(secured.url, {});
    assert.notEqual(code, 0);
    assert.match(output, /ConnectionError/);
    assert.ok(!output.includes(KEY));
  });
});

/** An authority, and a certificate of localhost. */
function certify(directory) {
  const openssl = (...options) => execFileSync("openssl", options, { cwd: directory, stdio: "pipe" });
  writeFileSync(join(directory, "san"), "subjectAltName=DNS:localhost\n");
  const request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"];
  openssl(...request, "/CN=Test authority", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem");
  openssl(...request, "/CN=localhost", "-keyout", "host.key", "-out", "host.csr");
  const authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
  openssl("x509", "-req", "-in", "host.csr", ...authority, "-days", "2", "-extfile", "san", "-out", "host.pem");
}

/** Passes what it receives to a port of this machine. */
async function tlsServer(directory, upstream) {
  const sockets = new Set();
  const files = { cert: readFileSync(join(directory, "host.pem")), key: readFileSync(join(directory, "host.key")) };
  const server = createServer(files, (socket) => {
    const onward = connect(upstream, "127.0.0.1");
    for (const one of [socket, onward]) {
      sockets.add(one);
      one.on("error", () => {}).on("close", () => (socket.destroy(), onward.destroy(), sockets.delete(one)));
    }
    socket.pipe(onward).pipe(socket);
  });
  server.on("tlsClientError", () => {});
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { url: `https://localhost:${server.address().port}`, close };
}

function run(url, more) {
  const env = { PATH: process.env.PATH, HOLDFAST_URL: url, HOLDFAST_API_KEY: KEY, ...more };
  return new Promise((resolve) => {
    execFile(process.execPath, [PROGRAM], { env, timeout: DEADLINE_MS * 2 }, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? 1) : 0, output: stdout + stderr });
    });
  });
}
