// A private PostgreSQL on a free port.
import { execFile } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort } from "./support.mjs";

const run = promisify(execFile);
const DEBIAN = "/usr/lib/postgresql";

/** The folder with `initdb` and `postgres`. */
export function postgresPrograms() {
  const versions = existsSync(DEBIAN) ? readdirSync(DEBIAN).map((version) => join(DEBIAN, version, "bin")) : [];
  const folders = [...(process.env.PATH ?? "").split(":"), ...versions];
  return folders.find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "pg_ctl")));
}

export async function postgres() {
  const directory = mkdtempSync(join(tmpdir(), "holdfast-pg-"));
  const programs = postgresPrograms();
  // PostgreSQL does not run as root.
  const isRoot = process.getuid?.() === 0;
  const identity = isRoot ? await identityOf("postgres") : {};
  if (isRoot) chownSync(directory, identity.uid, identity.gid);
  const call = (program, ...args) => run(join(programs, program), args, { ...identity, cwd: directory });
  const data = join(directory, "data");
  const port = await freePort();
  await call("initdb", "--pgdata", data, "--auth", "trust", "--username", "postgres", "--no-sync");
  const options = `-p ${port} -k ${directory} -c listen_addresses=127.0.0.1 -c fsync=off`;
  await call("pg_ctl", "--pgdata", data, "--log", join(directory, "log"), "--wait", "--options", options, "start");
  const close = async () => {
    await call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop");
    rmSync(directory, { recursive: true, force: true });
  };
  return { url: `postgres://postgres@127.0.0.1:${port}/postgres`, close };
}

async function identityOf(user) {
  const [uid, gid] = await Promise.all(["-u", "-g"].map(async (flag) => Number((await run("id", [flag, user])).stdout)));
  return { uid, gid };
}
