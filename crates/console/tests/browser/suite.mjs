// The console in a real browser: `node suite.mjs HOLDFAST CHROMIUM PICTURES [AXE]`.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Browser } from './browser.mjs';
import { HOSTILE, KEY, PASSWORD, Stack } from './stack.mjs';

const [holdfast, chromium, pictures, axeFile] = process.argv.slice(2);
mkdirSync(pictures, { recursive: true });
const axe = axeFile ? readFileSync(axeFile, 'utf8') : '';

/** Name, and address below the console. */
const PAGES = [
  ['overview', ''], ['jobs', '/jobs'], ['job', '/jobs/JOB'], ['new-job', '/jobs/new'], ['queues', '/queues'], ['queue', '/queues/reports'],
  ['failures', '/failures'], ['batches', '/batches'], ['schedules', '/schedules'], ['schedule', '/schedules/nightly-report'],
  ['new-schedule', '/schedules/new'], ['workers', '/workers'], ['kinds', '/kinds'], ['webhooks', '/webhooks'], ['mail', '/mail'],
  ['sources', '/sources'], ['health', '/redis'], ['audit', '/audit'], ['keys', '/keys'], ['users', '/users'],
];

let failed = 0;
let count = 0;

async function check(name, test) {
  const started = Date.now();
  count += 1;
  try {
    await test();
    console.log(`ok ${count} ${name} (${Date.now() - started} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${count} ${name}\n${error.stack}`);
  }
}

function equal(found, wanted, what) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

const stack = await Stack.start(holdfast);
const browser = await Browser.start(chromium);

async function logIn(name) {
  const page = await browser.page();
  await page.go(stack.console);
  await page.fill('input[name=name]', name);
  await page.fill('input[name=password]', PASSWORD);
  await page.press('Enter');
  await page.sees('Overview');
  return page;
}

try {
  await stack.fill();
  const job = await stack.enqueue('debug.echo', { customer: { id: 4711 }, note: 'find me by my payload' });
  const admin = await logIn('ada@example.com');
  // The picture of the README: before hostile text is put everywhere.
  await admin.picture(join(pictures, 'readme.png'));

  await check('a wrong password is refused, and an API key lets in', async () => {
    const page = await browser.page();
    await page.go(`${stack.console}/login`);
    await page.fill('input[name=name]', 'ada@example.com');
    await page.fill('input[name=password]', 'wrong');
    await page.press('Enter');
    await page.until(`document.querySelector('.notice.bad')`);
    await page.value(`document.querySelector('details').open = true`);
    await page.fill('input[name=key]', KEY);
    await page.press('Enter');
    await page.sees('HOLDFAST_API_KEY');
    await page.close();
  });

  await check('a queue is paused and resumed with the keyboard', async () => {
    await admin.press('g');
    await admin.press('q');
    await admin.until(`location.pathname.endsWith('/queues')`);
    await admin.sees('Drained in');
    await admin.until(`document.querySelector('main table tbody tr')`);
    await admin.press('j');
    const name = await admin.value(`document.querySelector('tr.current a').textContent`);
    await admin.press('p');
    await admin.sees(`Queue ${name} is paused`);
    const paused = async () => (await stack.ask('GET', '/v1/queues')).json.queues.find((queue) => queue.name === name).paused;
    equal(await paused(), true, 'paused');
    await admin.press('j');
    await admin.press('p');
    await admin.sees(`Queue ${name} runs again`);
    equal(await paused(), false, 'paused');
  });

  await check('dead letters are redriven after a preview, with the keyboard', async () => {
    await admin.press('g');
    await admin.press('f');
    await admin.sees('Redrive all that match');
    await admin.press('r');
    await admin.sees('dead letters match');
    await admin.fill('input[name=rate]', '50');
    await admin.press('Enter');
    await admin.sees('were redriven');
    await stack.until('the redriven jobs to fail again', async () => (await stack.ask('GET', '/v1/dead-letters?limit=100')).json.dead_letters.length >= 24);
  });

  await check('a job is found by its payload, with the keyboard', async () => {
    await admin.press('g');
    await admin.press('j');
    await admin.until(`location.pathname.endsWith('/jobs')`);
    await admin.until(`document.querySelector('main tbody tr')`);
    await admin.press('/');
    await admin.until(`document.activeElement?.id === 'filter'`);
    await admin.type('payload.customer.id:4711');
    await admin.press('Enter');
    await admin.until(`location.search.includes('4711') && document.querySelectorAll('main tbody tr').length === 1`);
    await admin.press('j');
    await admin.press('Enter');
    await admin.until(`location.pathname.endsWith('/jobs/${job}')`);
    await admin.sees('find me by my payload');
  });

  await check('the palette leads to a queue and to a job', async () => {
    await admin.press('k', 2);
    await admin.until(`document.querySelector('#palette[open] input')`);
    await admin.until(`document.querySelectorAll('#palette [role=option]').length > 3`);
    await admin.type('invoices');
    await admin.until(`document.querySelector('#palette [aria-selected=true]')?.textContent.includes('invoices')`);
    await admin.press('Enter');
    await admin.until(`location.pathname.endsWith('/queues/invoices')`);
    await admin.press('k', 2);
    await admin.until(`document.querySelector('#palette[open] input')`);
    await admin.type(job);
    await admin.press('Enter');
    await admin.until(`location.pathname.endsWith('/jobs/${job}')`);
    await admin.sees('find me by my payload');
  });

  await check('shortcuts are listed, and can be switched off', async () => {
    await admin.press('?', 8);
    await admin.until(`document.querySelector('#help[open]')`);
    await admin.press('Escape');
    await admin.until(`!document.querySelector('#help[open]')`);
    await admin.value(`document.getElementById('keys-toggle').click()`);
    await admin.press('?', 8);
    equal(await admin.value(`document.querySelector('#help[open]') === null`), true, 'no help');
    await admin.value(`document.getElementById('keys-toggle').click()`);
  });

  await check('integers of any size are shown with every digit', async () => {
    const big = '1234567890123456789012345678901234567890';
    const answer = await stack.ask('POST', '/v1/jobs', `{"kind":"debug.echo","payload":{"big":${big},"edge":9223372036854775808}}`);
    await admin.go(`${stack.console}/jobs/${answer.json.id}`);
    await admin.sees(big);
    await admin.sees('9223372036854775808');
    const copied = await admin.value(`document.querySelector('[aria-label=Payload]').textContent`);
    if (!copied.includes(big)) throw new Error(copied);
  });

  await check('text of jobs, errors, keys, names and webhooks does nothing', async () => {
    const ids = [];
    for (const text of HOSTILE) {
      ids.push(await stack.enqueue('debug.echo', { [text]: [text] }, { unique_key: text, limit_key: text }));
      await stack.enqueue('debug.fail', { mode: 'permanent', message: text });
      await stack.ask('POST', '/v1/batches', { name: text, jobs: [{ kind: 'debug.echo', payload: text }] });
      await stack.ask('POST', '/v1/keys', { name: text, scopes: ['read'] });
      await stack.ask('POST', '/v1/users', { name: text, role: 'viewer', password: PASSWORD });
      await stack.ask('POST', '/v1/webhooks', { url: `https://example.com/${encodeURIComponent(text)}`, events: ['job.*'], description: text });
      await stack.ask('PUT', `/v1/mail-templates/t${ids.length}`, { subject: 'x', text: text.replace(/[{}]/g, ''), html: text.replace(/[{}]/g, '') });
      const worker = await stack.ask('POST', '/v1/workers', { name: text, queues: ['reports'], client: { name: text, version: text, language: text } });
      if (worker.status >= 500) throw new Error(worker.text);
    }
    const page = await logIn('ada@example.com');
    page.faults.length = 0;
    const addresses = PAGES.map(([, path]) => path.replace('JOB', ids[0])).concat(ids.map((id) => `/jobs/${id}`));
    for (const path of addresses) await page.go(stack.console + path);
    for (const text of HOSTILE) {
      await page.go(`${stack.console}/jobs?q=${encodeURIComponent(text)}`);
      await page.go(`${stack.console}/login?next=${encodeURIComponent(text)}`);
    }
    equal(page.faults, [], 'faults');
    await page.close();
  });

  await check('a viewer is offered nothing, and every write is refused', async () => {
    const page = await logIn('vera@example.com');
    await page.go(`${stack.console}/queues/reports`);
    equal(await page.value(`document.querySelectorAll('main form[method=post]').length`), 0, 'forms');
    const before = await stack.ask('GET', '/v1/audit?limit=1');
    const writes = ['queues/reports/pause', 'queues/reports/purge', `jobs/${job}/cancel`, 'jobs', 'jobs/selected', 'failures/redrive', 'failures/delete',
      'schedules', 'schedules/cleanup/run', 'schedules/cleanup/delete', 'webhooks', 'keys', 'users', 'mail/suppress'];
    const form = `id=${job}&do=cancel&confirm=reports&kind=debug.echo&payload={}&name=x&cron=0 2 * * *&url=https://example.com&events=*&scope=read&role=admin&address=a@example.com&step=do`;
    for (const path of writes) {
      const status = await page.value(`fetch('/console/${path}', { method: 'POST', body: new URLSearchParams(${JSON.stringify(form)}) }).then((answer) => answer.status)`);
      equal(status, 403, path);
    }
    equal((await stack.ask('GET', '/v1/audit?limit=1')).text, before.text, 'the audit log');
    await page.close();
  });

  await check('new rows are gathered, and shown when one wants them', async () => {
    const page = await logIn('olga@example.com');
    await page.go(`${stack.console}/jobs?q=kind:report.render`);
    await page.until(`document.querySelectorAll('tbody tr').length >= 12`);
    const rows = await page.value(`document.querySelectorAll('tbody tr').length`);
    await stack.enqueue('report.render', { report: 99 });
    await page.until(`document.querySelector('.gathered')?.textContent.startsWith('1 new')`);
    equal(await page.value(`document.querySelectorAll('tbody tr').length`), rows, 'rows');
    await page.click('.gathered');
    await page.until(`document.querySelectorAll('tbody tr').length === ${rows + 1}`);
    await page.close();
  });

  await check('a hidden tab asks for nothing', async () => {
    const page = await logIn('olga@example.com');
    await page.go(`${stack.console}/queues`);
    await page.value(`Object.defineProperty(document, 'hidden', { get: () => true }); document.dispatchEvent(new Event('visibilitychange'))`);
    await new Promise((resolve) => setTimeout(resolve, 300));
    page.requests.length = 0;
    await new Promise((resolve) => setTimeout(resolve, 4_500));
    equal(page.requests, [], 'requests');
    await page.close();
  });

  await check('an outage of Redis and a restart of the API are shown, and end by themselves', async () => {
    // With a key: a Redis that comes back empty ends the sessions of users.
    const page = await browser.page();
    await page.go(`${stack.console}/login`);
    await page.value(`document.querySelector('details').open = true`);
    await page.fill('input[name=key]', KEY);
    await page.press('Enter');
    await page.sees('HOLDFAST_API_KEY');
    const user = await logIn('olga@example.com');
    await page.until(`document.querySelector('.state.healthy')`);
    await stack.kill('redis');
    await page.sees('is degraded', 6_000);
    await stack.startRedis();
    await page.until(`!document.querySelector('#faults').textContent.includes('redis is degraded')`, 40_000);
    await user.sees('Your session has ended', 10_000);
    await user.close();
    await stack.kill('api');
    await page.sees('The API does not answer', 3_500);
    await stack.startApi();
    await page.until(`document.getElementById('connection').hidden`, 30_000);
    await page.close();
  });

  await check('holdfast console serves the pages of an API elsewhere, to the browser with its link', async () => {
    const served = await stack.serveConsole();
    const page = await browser.page();
    await page.go(served.link);
    await page.sees('What is wrong now');
    await page.go(`${served.address}/console/queues/reports`);
    await page.click('form[action$="/pause"] button');
    await page.sees('Queue reports is paused');
    await stack.ask('POST', '/v1/queues/reports/resume');
    const stranger = await browser.page();
    await stranger.go(`${served.address}/console/queues`);
    await stranger.sees('Log in');
    served.stop();
    await page.close();
    await stranger.close();
  });

  await check('pages are complete without JavaScript', async () => {
    const page = await browser.page();
    await page.send('Emulation.setScriptExecutionDisabled', { value: true });
    await page.go(`${stack.console}/login`);
    await page.fill('input[name=name]', 'ada@example.com');
    await page.fill('input[name=password]', PASSWORD);
    await page.press('Enter');
    await page.sees('What is wrong now');
    await page.go(`${stack.console}/queues/reports`);
    await page.value(`document.querySelector('form[action$="/pause"] button').click()`);
    await page.sees('Queue reports is paused');
    await stack.ask('POST', '/v1/queues/reports/resume');
    await page.close();
  });

  await check(`every page in both themes and widths${axe ? ' has no fault that axe-core finds' : ''}`, async () => {
    const page = await logIn('ada@example.com');
    const faults = [];
    for (const theme of ['light', 'dark']) {
      await page.theme(theme);
      for (const width of [1280, 390]) {
        await page.size(width, width === 1280 ? 900 : 844);
        for (const [name, path] of PAGES) {
          await page.go(stack.console + path.replace('JOB', job));
          if (axe) {
            await page.value(`${axe}; 0`);
            const found = await page.value(`axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map((one) => one.id + ': ' + one.nodes.map((node) => node.html.slice(0, 120)).slice(0, 3).join(' | ')))`);
            faults.push(...found.map((one) => `${name} ${theme} ${width}: ${one}`));
          }
          const overflow = await page.value('document.documentElement.scrollWidth - document.documentElement.clientWidth');
          if (overflow > 0) faults.push(`${name} ${theme} ${width}: ${overflow} px wider than the window`);
          await page.picture(join(pictures, `${name}-${theme}-${width}.png`));
        }
      }
    }
    equal(faults, [], 'faults');
    await page.close();
  });

  await check('the first load is small, and no page has made a fault', async () => {
    equal(admin.faults, [], 'faults');
  });
} finally {
  await browser.stop();
  stack.stop();
}

console.log(`figure: ${count - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
