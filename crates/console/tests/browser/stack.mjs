// What the pages are shown of: `holdfast dev` on a database of its own, with or without Redis, and what the tests put into it.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const KEY = 'the-key-of-the-browser-tests';
export const PASSWORD = 'a password of the browser tests';

/** Markup that would run, or break out of where it stands. */
export const HOSTILE = [
  '<script>alert(1)</script>',
  '<img src=x onerror=alert(1)>',
  '"><svg onload=alert(1)>',
  "';alert(1)//",
  '</textarea><script>alert(1)</script>',
  '</title><script>alert(1)</script>',
  '<a href="javascript:alert(1)">x</a>',
  '<iframe srcdoc="<script>parent.alert(1)</script>">',
  '{{constructor.constructor("alert(1)")()}}',
  '<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>',
];

export class Stack {
  /** @param {string} holdfast The binary. */
  static async start(holdfast) {
    const stack = new Stack();
    stack.holdfast = holdfast;
    stack.directory = mkdtempSync(join(tmpdir(), 'holdfast-'));
    stack.port = await freePort();
    stack.redisPort = await freePort();
    stack.url = `http://127.0.0.1:${stack.port}`;
    stack.console = `${stack.url}/console`;
    await stack.startRedis();
    await stack.startApi();
    return stack;
  }

  async startRedis() {
    const flags = ['--port', String(this.redisPort), '--save', '', '--appendonly', 'no', '--bind', '127.0.0.1', '--dir', this.directory];
    this.redis = spawn('redis-server', flags, { stdio: 'ignore' });
    await new Promise((resolve) => setTimeout(resolve, 300));
  }

  async startApi() {
    const env = {
      PATH: process.env.PATH,
      HOME: this.directory,
      PORT: String(this.port),
      DATABASE_URL: `sqlite://${join(this.directory, 'holdfast.db')}`,
      REDIS_URL: `redis://127.0.0.1:${this.redisPort}`,
      HOLDFAST_API_KEY: KEY,
      JWT_SECRET_KEY: 'a secret of the browser tests, and long enough',
      HOLDFAST__SERVER__HOST: '127.0.0.1',
      HOLDFAST__CONSOLE__LABEL: 'example',
      HOLDFAST__CONSOLE__LABEL_COLOR: 'blue',
      HOLDFAST__AUTH__LOGIN_PER_ACCOUNT_PER_MINUTE: '1000',
      LOG_LEVEL: 'error',
    };
    this.api = spawn(this.holdfast, ['dev'], { env, cwd: this.directory, stdio: ['ignore', 'ignore', 'inherit'] });
    for (let attempt = 0; ; attempt++) {
      const answer = await fetch(`${this.url}/health/ready`).catch(() => null);
      if (answer?.ok) return;
      if (attempt > 300) throw new Error('holdfast does not get ready');
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Ends one of the two at once. @param {'api' | 'redis'} name */
  async kill(name) {
    const child = this[name];
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  /** What the API answers. */
  async ask(method, path, body = undefined, key = KEY) {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    const answer = await fetch(this.url + path, { method, headers, body: text });
    const document = await answer.text();
    return { status: answer.status, text: document, json: document ? JSON.parse(document) : null };
  }

  async enqueue(kind, payload, more = {}) {
    const answer = await this.ask('POST', '/v1/jobs', { kind, payload, ...more });
    if (answer.status !== 202) throw new Error(answer.text);
    return answer.json.id;
  }

  /** An API and a queue with something of everything. */
  async fill() {
    for (const [name, role] of [['ada@example.com', 'admin'], ['olga@example.com', 'operator'], ['vera@example.com', 'viewer']]) {
      await this.ask('POST', '/v1/users', { name, role, password: PASSWORD });
    }
    await this.ask('PUT', '/v1/queues/reports', { served_by: 'pull' });
    await this.ask('PUT', '/v1/queues/invoices', { served_by: 'pull' });
    const kind = (queue, description) => ({ queue, description, payload_schema: { type: 'object' } });
    await this.ask('PUT', '/v1/kinds/report.render', kind('reports', 'Renders a report as PDF'));
    await this.ask('PUT', '/v1/kinds/invoice.send', kind('invoices', 'Sends an invoice'));
    for (let n = 0; n < 40; n++) await this.enqueue('debug.echo', { customer: { id: 1000 + n, name: `Customer ${n}` }, order: `A-${n}` });
    for (let n = 0; n < 12; n++) await this.enqueue('report.render', { report: n, month: '2026-11', pages: 12 + n });
    for (let n = 0; n < 5; n++) await this.enqueue('invoice.send', { invoice: `R-${2000 + n}` }, { delay_seconds: 3600 });
    const messages = ['connection to mail.example.com timed out after 30 s', 'template "welcome" has no subject', 'HTTP 503 from https://api.example.com/v2/orders'];
    for (let n = 0; n < 24; n++) await this.enqueue('debug.fail', { mode: 'permanent', message: `${messages[n % 3]} (order ${n})` });
    await this.enqueue('debug.fail', { mode: 'transient', times: 3, message: 'the server closed the connection' });
    await this.enqueue('debug.sleep', { seconds: 300 });
    await this.ask('POST', '/v1/schedules', { name: 'nightly-report', cron: '0 2 * * *', time_zone: 'Europe/Berlin', kind: 'report.render', payload: { report: 1 } });
    await this.ask('POST', '/v1/schedules', { name: 'cleanup', every_seconds: 3600, kind: 'debug.echo', payload: {} });
    await this.ask('POST', '/v1/batches', {
      name: 'import of orders',
      jobs: [1, 2, 3, 4].map((n) => ({ kind: n < 4 ? 'debug.echo' : 'report.render', payload: { n } })),
    });
    await this.ask('POST', '/v1/webhooks', { url: 'https://example.com/hooks/jobs', events: ['job.discarded'], description: 'Alerts' });
    await this.ask('POST', '/v1/keys', { name: 'shop', scopes: ['produce', 'read'] });
    await this.until('the failures', async () => (await this.ask('GET', '/v1/dead-letters?limit=100')).json.dead_letters.length >= 24);
  }

  /** `holdfast console` for this API, with the key. */
  async serveConsole() {
    const env = { PATH: process.env.PATH, HOME: this.directory, HOLDFAST_URL: this.url, HOLDFAST_API_KEY: KEY };
    const child = spawn(this.holdfast, ['console'], { env, cwd: this.directory, stdio: ['ignore', 'pipe', 'inherit'] });
    const link = await new Promise((resolve) => {
      let text = '';
      child.stdout.on('data', (chunk) => {
        text += chunk;
        const found = /at (http\S+)/.exec(text);
        if (found) resolve(found[1]);
      });
    });
    return { link, address: new URL(link).origin, stop: () => child.kill('SIGKILL') };
  }

  async until(what, found) {
    for (let attempt = 0; attempt < 300; attempt++) {
      if (await found()) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`waited in vain for ${what}`);
  }

  stop() {
    this.api?.kill('SIGKILL');
    this.redis?.kill('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
      server.close(() => resolve(port));
    });
  });
}
