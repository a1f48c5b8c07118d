// A small driver of Chromium over its debugging pipe: no package is needed.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Longest wait for what a page is to show, in milliseconds. */
const PATIENCE = 10_000;

export class Browser {
  #process;
  #directory;
  #next = 1;
  #waiting = new Map();
  #listeners = new Set();
  #rest = '';

  /** @param {string} program The executable. */
  static async start(program) {
    const browser = new Browser();
    browser.#directory = mkdtempSync(join(tmpdir(), 'console-'));
    const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-default-apps', '--disable-sync', '--mute-audio',
      '--force-color-profile=srgb', '--hide-scrollbars', `--user-data-dir=${browser.#directory}`, 'about:blank'];
    browser.#process = spawn(program, flags, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    browser.#process.stdio[4].on('data', (chunk) => browser.#receive(chunk.toString()));
    browser.#process.on('exit', () => {
      for (const { reject } of browser.#waiting.values()) reject(new Error('the browser has ended'));
    });
    await browser.send('Browser.getVersion');
    return browser;
  }

  #receive(text) {
    const parts = (this.#rest + text).split('\0');
    this.#rest = parts.pop() ?? '';
    for (const part of parts) {
      const message = JSON.parse(part);
      const waiting = this.#waiting.get(message.id);
      if (waiting) {
        this.#waiting.delete(message.id);
        if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`));
        else waiting.resolve(message.result);
      } else for (const listener of this.#listeners) listener(message);
    }
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, method }));
  }

  listen(listener) {
    this.#listeners.add(listener);
  }

  /** A page with cookies of its own. */
  async page() {
    const { browserContextId } = await this.send('Target.createBrowserContext');
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank', browserContextId });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId, targetId);
    await page.prepare();
    return page;
  }

  async stop() {
    await this.send('Browser.close').catch(() => {});
    await new Promise((resolve) => {
      if (this.#process.exitCode !== null) resolve(undefined);
      else this.#process.once('exit', resolve);
    });
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

export class Page {
  /** Messages of the console, violations of the policy, exceptions. @type {string[]} */
  faults = [];
  /** Requests that the page has sent. @type {string[]} */
  requests = [];

  constructor(browser, session, target) {
    this.browser = browser;
    this.session = session;
    this.target = target;
  }

  send(method, params = {}) {
    return this.browser.send(method, params, this.session);
  }

  async prepare() {
    this.browser.listen((message) => {
      if (message.sessionId !== this.session) return;
      if (message.method === 'Runtime.exceptionThrown') {
        const details = message.params.exceptionDetails;
        this.faults.push(`exception: ${details.exception?.description ?? details.text}`);
      }
      if (message.method === 'Log.entryAdded' && message.params.entry.source === 'security') this.faults.push(`security: ${message.params.entry.text}`);
      if (message.method === 'Page.javascriptDialogOpening') {
        this.faults.push(`a script ran: ${message.params.message}`);
        void this.send('Page.handleJavaScriptDialog', { accept: true });
      }
      if (message.method === 'Audits.issueAdded' && message.params.issue.code === 'ContentSecurityPolicyIssue') {
        this.faults.push(`policy: ${JSON.stringify(message.params.issue.details.contentSecurityPolicyIssueDetails)}`);
      }
      if (message.method === 'Network.requestWillBeSent') this.requests.push(message.params.request.url);
    });
    for (const domain of ['Page', 'Runtime', 'Log', 'Network', 'Audits']) await this.send(`${domain}.enable`);
    await this.size(1280, 900);
  }

  size(width, height) {
    return this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
  }

  /** @param {'light' | 'dark'} theme */
  theme(theme) {
    return this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: theme }] });
  }

  async go(url) {
    await this.send('Page.navigate', { url });
    await this.until(`location.href !== 'about:blank' && document.readyState === 'complete'`);
  }

  /** The value of an expression in the page. */
  async value(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true, also over navigations. */
  async until(expression, patience = PATIENCE) {
    const end = Date.now() + patience;
    for (;;) {
      const found = await this.value(`Boolean(${expression})`).catch(() => false);
      if (found) return;
      if (Date.now() > end) throw new Error(`not within ${patience} ms: ${expression}\n${await this.text().catch(() => '')}`);
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
  }

  text() {
    return this.value('document.body?.innerText.slice(0, 3000)');
  }

  /** Waits for a text on the page. */
  sees(text, patience = PATIENCE) {
    return this.until(`document.body?.innerText.includes(${JSON.stringify(text)})`, patience);
  }

  /** Presses one key: a character, or a name such as Enter. @param {string} key @param {number} modifiers 2: Ctrl, 8: Shift */
  async press(key, modifiers = 0) {
    // The modules have run once the page has loaded.
    await this.until(`document.readyState === 'complete'`);
    const isCharacter = key.length === 1;
    const text = key === 'Enter' ? '\r' : isCharacter && modifiers !== 2 ? key : undefined;
    const code = key === 'Enter' ? 13 : key === 'Tab' ? 9 : key === 'Escape' ? 27 : isCharacter ? key.toUpperCase().charCodeAt(0) : 0;
    const event = { key, text, modifiers, windowsVirtualKeyCode: code };
    await this.send('Input.dispatchKeyEvent', { type: text ? 'keyDown' : 'rawKeyDown', ...event });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...event, text: undefined });
  }

  /** Types a text into what has the focus. */
  type(text) {
    return this.send('Input.insertText', { text });
  }

  /** Clicks an element by a selector, as a person would: it is scrolled into view. */
  async click(selector) {
    await this.until(`document.querySelector(${JSON.stringify(selector)})`);
    await this.value(`document.querySelector(${JSON.stringify(selector)}).click()`);
  }

  async fill(selector, text) {
    await this.until(`document.querySelector(${JSON.stringify(selector)})`);
    await this.value(`(() => { const field = document.querySelector(${JSON.stringify(selector)}); field.focus(); field.value = ''; })()`);
    await this.type(text);
  }

  async picture(file, fullPage = false) {
    let clip;
    if (fullPage) {
      const { cssContentSize } = await this.send('Page.getLayoutMetrics');
      clip = { x: 0, y: 0, width: cssContentSize.width, height: Math.min(cssContentSize.height, 4000), scale: 1 };
    }
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', clip, captureBeyondViewport: fullPage });
    writeFileSync(file, Buffer.from(data, 'base64'));
  }

  close() {
    return this.browser.send('Target.closeTarget', { targetId: this.target });
  }
}
