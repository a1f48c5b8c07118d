// For the test: the server that HOLDFAST_URL names, or a fresh `holdfast dev` (HOLDFAST_BINARY names the program).
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export async function holdfast(): Promise<{ stop(): Promise<void> }> {
  if (process.env.HOLDFAST_URL) return { stop: async () => undefined };
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), "holdfast-example-"));
  const env = { PATH: process.env.PATH, HOME: directory, PORT: String(port) };
  const child = spawn(process.env.HOLDFAST_BINARY ?? "holdfast", ["dev"], { cwd: directory, env, stdio: "ignore" });
  process.env.HOLDFAST_URL = `http://127.0.0.1:${port}`;
  for (let tries = 0; !(await isReady()); tries += 1) {
    if (child.exitCode !== null || tries === 300) throw new Error("holdfast dev did not start");
    await sleep(100);
  }
  return {
    async stop() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function isReady(): Promise<boolean> {
  const answer = await fetch(`${process.env.HOLDFAST_URL}/health/ready`).catch(() => undefined);
  return answer?.ok ?? false;
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
