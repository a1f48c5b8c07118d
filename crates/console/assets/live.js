// @ts-check
// Keeps a page current: its parts marked `data-live` are replaced by those of the same page, fetched again.
//
// An event of the API's stream says that there is something new; without the stream the page asks every two seconds. A hidden tab asks
// for nothing. New rows of a list are gathered behind a button, so that nothing moves under the eyes of a person who reads.

import { element, isHeld, parsePage, root, showCopyButtons } from './dom.js';

/** Between two requests, in milliseconds. */
const PERIOD = 2_000;
/** With the stream: when it has said nothing for so long. Ages go on. */
const QUIET_PERIOD = 10_000;
/** An answer that takes longer counts as none. */
const DEADLINE = 8_000;

/** What the server sent last for each part, to see what has changed. @type {Map<string, string>} */
const served = new Map();

let isAsking = false;
let lastAsked = 0;
let failedSince = 0;
let isOver = false;
/** @type {EventSource | null} */
let stream = null;
/** Whether the API has a stream; unknown until it was tried. @type {boolean | undefined} */
let hasStream;

export function startLive() {
  if (document.querySelector('[data-live]') === null) return;
  for (const part of document.querySelectorAll('[data-live]')) served.set(part.id, part.innerHTML);
  lastAsked = Date.now();
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) closeStream();
    else {
      openStream();
      void refresh();
    }
  });
  setInterval(() => {
    const period = stream?.readyState === EventSource.OPEN && failedSince === 0 ? QUIET_PERIOD : PERIOD;
    if (Date.now() - lastAsked >= period) void refresh();
  }, 250);
  openStream();
}

function openStream() {
  if (document.hidden || hasStream === false || isOver || stream) return;
  const opened = new EventSource(`${root}/stream`);
  stream = opened;
  opened.onopen = () => (hasStream = true);
  opened.onerror = () => {
    // An API without the route answers 404, and the browser gives up; otherwise it connects again by itself.
    if (opened.readyState === EventSource.CLOSED) {
      if (hasStream === undefined) hasStream = false;
      stream = null;
      if (hasStream) setTimeout(openStream, PERIOD);
    }
  };
  let newest = '';
  opened.addEventListener('overview', (event) => {
    // A snapshot that says nothing new is repeated under its id.
    if (event.lastEventId !== newest) void refresh();
    newest = event.lastEventId;
  });
}

function closeStream() {
  stream?.close();
  stream = null;
}

async function refresh() {
  if (isAsking || document.hidden || isOver) return;
  isAsking = true;
  lastAsked = Date.now();
  try {
    const answer = await oneAtATime(() =>
      fetch(location.href, {
        headers: { 'x-holdfast-live': '1' },
        cache: 'no-store',
        redirect: 'error',
        signal: AbortSignal.timeout(DEADLINE),
      }),
    );
    if (answer.status === 401) return ended();
    if (answer.status >= 500) return failed();
    // What the page shows is gone, or no longer for this person; it stays as it was.
    if (!answer.ok) return recovered();
    const page = parsePage(await answer.text());
    recovered();
    if (!isHeld()) for (const part of document.querySelectorAll('[data-live]')) update(part, page.getElementById(part.id));
  } catch {
    failed();
  } finally {
    isAsking = false;
  }
}

/**
 * The tabs of a browser ask one after the other: a session's token is exchanged for the next one by a single request.
 * @template T
 * @param {() => Promise<T>} ask
 * @returns {Promise<T>}
 */
async function oneAtATime(ask) {
  if (!navigator.locks) return ask();
  return await navigator.locks.request('holdfast', ask);
}

/**
 * @param {Element} part
 * @param {Element | null} fresh
 */
function update(part, fresh) {
  if (!fresh || served.get(part.id) === fresh.innerHTML) return;
  if (part.getAttribute('data-live') === 'rows' && part.querySelector('tbody')) return gather(part, fresh);
  replace(part, fresh);
}

/**
 * @param {Element} part
 * @param {Element} fresh
 */
function replace(part, fresh) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  if (focused && focused.matches('input, textarea, select')) return;
  const place = focused ? [...part.querySelectorAll('*')].indexOf(focused) : -1;
  const open = [...part.querySelectorAll('details')].map((details) => details.open);
  const current = part.querySelector('tr.current')?.id;
  served.set(part.id, fresh.innerHTML);
  part.replaceChildren(...[...fresh.childNodes].map((node) => document.importNode(node, true)));
  [...part.querySelectorAll('details')].forEach((details, index) => (details.open = open[index] ?? details.open));
  if (current) document.getElementById(current)?.classList.add('current');
  showCopyButtons(part);
  const again = part.querySelectorAll('*')[place];
  if (again instanceof HTMLElement) again.focus();
}

/**
 * Updates the rows that are there, and counts those that are new.
 * @param {Element} part
 * @param {Element} fresh
 */
function gather(part, fresh) {
  const rows = [...part.querySelectorAll('tbody tr[data-row]')];
  const known = new Map(rows.map((row) => [row.getAttribute('data-row'), row]));
  let added = 0;
  for (const row of fresh.querySelectorAll('tbody tr[data-row]')) {
    const old = known.get(row.getAttribute('data-row'));
    if (!old) added += 1;
    else if (!old.contains(document.activeElement) && old.innerHTML !== row.innerHTML) {
      old.replaceChildren(...[...row.childNodes].map((node) => document.importNode(node, true)));
    }
    known.delete(row.getAttribute('data-row'));
  }
  part.querySelector('.gathered')?.remove();
  if (added === 0 && known.size === 0) return;
  const text = added > 0 ? `${added} new` : 'The list has changed';
  const button = element('button', { type: 'button', class: 'gathered' }, `${text}: show`);
  button.addEventListener('click', () => {
    replace(part, fresh);
    part.querySelector('a')?.focus();
  });
  part.prepend(button);
}

function failed() {
  failedSince ||= Date.now();
  const since = new Date(failedSince).toLocaleTimeString();
  say(`The API does not answer. This page shows what was known at ${since}, and tries again by itself.`);
}

function recovered() {
  if (failedSince === 0) return;
  failedSince = 0;
  say('');
  openStream();
}

function ended() {
  isOver = true;
  closeStream();
  say('Your session has ended. ', element('a', { href: location.href }, 'Log in again'));
}

/** @param {...(string | Node)} parts */
function say(...parts) {
  const line = document.getElementById('connection');
  if (!line || line.textContent === parts.map((part) => (typeof part === 'string' ? part : part.textContent)).join('')) return;
  line.replaceChildren(...parts);
  line.hidden = parts[0] === '';
}
