// What the package is: its entry points, its types, its version, its guide.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { VERSION } from "@holdfast/client";
import { documentFrom, typesOf } from "../scripts/generate-types.mjs";
import { realServer, withoutServer } from "./support.mjs";

const run = promisify(execFile);
const here = fileURLToPath(new URL("..", import.meta.url));
const read = (path) => readFileSync(join(here, path), "utf8");

describe("the package", () => {
  it("has one version", () => assert.equal(JSON.parse(read("package.json")).version, VERSION));

  it("has no dependencies, and no registry's name in its lock file", () => {
    assert.equal(JSON.parse(read("package.json")).dependencies, undefined);
    assert.ok(!read("package-lock.json").includes('"resolved"'));
  });

  it("imports nothing of Node where producers run", () => {
    const seen = new Set();
    const visit = (path) => {
      if (seen.has(path)) return;
      seen.add(path);
      for (const [, from] of read(path).matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
        assert.ok(from.startsWith("./"), `${path} imports ${from}`);
        visit(join(dirname(path), from));
      }
    };
    visit("dist/index.js");
    assert.ok(seen.size > 10);
    assert.ok(![...seen].some((path) => path.includes("worker")));
  });

  it("runs without `process`", async () => {
    const code = "delete globalThis.process; const { Client } = await import('@holdfast/client'); new Client({ url: 'http://a' });";
    await run(process.execPath, ["--input-type=module", "-e", code], { cwd: here });
  });
});

describe("the command", () => {
  const cli = (...args) =>
    run(process.execPath, [join(here, "dist/worker/cli.js"), ...args], { env: { PATH: process.env.PATH } }).then(
      ({ stdout }) => ({ code: 0, text: stdout }),
      ({ code, stderr }) => ({ code, text: stderr }),
    );
  let directory;
  before(() => void (directory = mkdtempSync(join(tmpdir(), "holdfast-cli-"))));
  after(() => rmSync(directory, { recursive: true, force: true }));
  const file = (name, text) => {
    writeFileSync(join(directory, name), text);
    return join(directory, name);
  };

  it("prints its help and its version", async () => {
    assert.match((await cli("--help")).text, /Usage: holdfast-worker APP/);
    assert.equal((await cli("--version")).text.trim(), VERSION);
  });

  it("ends with 64 when the arguments or the app are wrong, and says what to do", async () => {
    const client = JSON.stringify(join(here, "dist/index.js"));
    const empty = file("empty.mjs", "export const nothing = 1;");
    const bare = file("bare.mjs", `import { App } from ${client}; export const app = new App({ queue: "q" });`);
    const handler = file("handler.mjs", `import { App } from ${client}; export const app = new App({ queue: "q" }); app.job("a", {}, () => 1);`);
    const wrong = file("wrong.mjs", "export const app = {};");
    for (const [args, text] of [
      [[], /name one module/],
      [["a.js", "b.js"], /name one module/],
      [[bare, "--speed", "9"], /--speed/],
      [[bare, "--concurrency", "many"], /--concurrency must be a number/],
      [[bare, "--log", "loud"], /--log must be/],
      [[empty], /exports no App as "app" or "default"/],
      [[wrong], /no App, or that of another copy/],
      [[bare], /no kind with a handler/],
      [[handler], /no server is named/],
      [[handler, "--concurrency", "0"], /concurrency must be a whole number from 1/],
    ]) {
      const { code, text: printed } = await cli(...args);
      assert.equal(code, 64, printed);
      assert.match(printed, text);
    }
    assert.equal((await cli(join(directory, "missing.mjs"))).code, 70);
  });
});

describe("with a server", { skip: withoutServer }, () => {
  let server;
  before(async () => void (server = await realServer()));
  after(() => server.close());

  it("the types are those of the server's OpenAPI document", async () => {
    const wanted = typesOf(await documentFrom(server.url));
    assert.equal(withoutComments(read("src/api-types.ts")), withoutComments(wanted), "run: npm run generate -- URL-OF-A-SERVER");
  });

  for (const page of ["README.md", "docs/typescript.md"]) {
    const path = page === "README.md" ? join(here, page) : above(here, page);
    it(`the examples of ${page} compile, and run`, { skip: path === undefined && "the guide is not beside the package" }, async (t) => {
      const directory = mkdtempSync(join(tmpdir(), "holdfast-guide-"));
      t.after(() => rmSync(directory, { recursive: true, force: true }));
      await runs(directory, blocks(readFileSync(path, "utf8")), server.url);
    });
  }
});

/** A description may change without the types. */
function withoutComments(text) {
  return text.replaceAll(/^ *\/\*\*[^]*?\*\/\n/gm, "");
}

/** The file in the nearest folder above that has it. */
function above(from, path) {
  for (let folder = from; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, path))) return join(folder, path);
  }
  return undefined;
}

/** The `ts` blocks that name a file (` ```ts title="app.ts" `), by that name. A name that comes again goes on in the same file. */
function blocks(page) {
  const files = new Map();
  for (const [, name, text] of page.matchAll(/^```ts title="([^"]+)"\n([^]*?)^```$/gm)) files.set(name, (files.get(name) ?? "") + text);
  assert.ok(files.size > 0, "there is no example");
  return files;
}

/** Compiles the files as a user would, starts a worker on app.ts, and runs every other file that is no test of types. */
async function runs(directory, files, url) {
  mkdirSync(join(directory, "node_modules/@holdfast"), { recursive: true });
  symlinkSync(here, join(directory, "node_modules/@holdfast/client"));
  for (const name of ["zod", "@types"]) symlinkSync(join(here, "node_modules", name), join(directory, "node_modules", name));
  writeFileSync(join(directory, "package.json"), '{ "type": "module" }');
  for (const [name, text] of files) writeFileSync(join(directory, name), text);
  const strict = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes"];
  const options = [...strict, "--target", "es2022", "--module", "nodenext", "--lib", "es2023,esnext.disposable", "--types", "node", "--outDir", "."];
  const tsc = join(here, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [tsc, ...options, ...files.keys()], { cwd: directory }).catch(({ stdout }) => assert.fail(stdout));
  const env = { PATH: process.env.PATH, HOLDFAST_URL: url };
  const worker = execFile(process.execPath, [join(here, "dist/worker/cli.js"), "app.js"], { cwd: directory, env });
  let log = "";
  worker.stderr.on("data", (text) => (log += text));
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  try {
    await new Promise((resolve, reject) => {
      worker.stderr.on("data", () => log.includes("the worker is registered") && resolve());
      void ended.then(() => reject(new Error(log)));
    });
    for (const name of files.keys()) {
      if (name === "app.ts") continue;
      const script = name.replace(/\.ts$/, ".js");
      const args = name.endsWith(".test.ts") ? ["--test", script] : [script];
      await run(process.execPath, args, { cwd: directory, env, timeout: 60_000 }).catch((error) => assert.fail(`${name}: ${error.stderr}${error.stdout}\n${log}`));
    }
  } finally {
    worker.kill("SIGTERM");
  }
  assert.equal(await ended, 0, log);
}
