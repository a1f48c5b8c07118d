// @ts-check
// A search that found less than a page goes on by itself: the rows of the next pages are added, up to what a page may hold.

import { parsePage } from './dom.js';

/** Rows of the page at most. */
const MOST = 200;

export async function startSearch() {
  const line = document.getElementById('progress');
  const rows = document.querySelector('#jobs');
  if (!line || !rows || !line.querySelector('[data-search-on]')) return;
  // The page is the search's own until it ends.
  rows.removeAttribute('data-live');
  let searched = Number(line.querySelector('[data-searched]')?.getAttribute('data-searched'));
  for (;;) {
    const link = line.querySelector('a[data-search-on]');
    if (!(link instanceof HTMLAnchorElement) || rows.querySelectorAll('tbody tr').length >= MOST) return;
    await visible();
    const answer = await fetch(link.href, { headers: { 'x-holdfast-live': '1' }, redirect: 'error' }).catch(() => null);
    if (!answer?.ok) return;
    const page = parsePage(await answer.text());
    add(rows, page);
    const next = page.getElementById('progress');
    const looked = Number(next?.querySelector('[data-searched]')?.getAttribute('data-searched') ?? 0);
    searched += looked;
    if (!next) {
      line.textContent = 'The whole table was searched.';
      return;
    }
    line.replaceChildren(...[...next.childNodes].map((node) => document.importNode(node, true)));
    const shown = line.querySelector('[data-searched]');
    if (shown) shown.textContent = searched.toLocaleString('en');
  }
}

/**
 * @param {Element} rows
 * @param {Document} page
 */
function add(rows, page) {
  const found = [...page.querySelectorAll('#jobs tbody tr')].map((row) => document.importNode(row, true));
  if (found.length === 0) return;
  const body = rows.querySelector('tbody');
  if (body) return body.append(...found.slice(0, MOST - body.children.length));
  const whole = page.querySelector('#jobs');
  if (whole) rows.replaceChildren(...[...whole.childNodes].map((node) => document.importNode(node, true)));
}

/** A hidden tab does not search on. */
function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const shown = () => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', shown);
      resolve(undefined);
    };
    document.addEventListener('visibilitychange', shown);
  });
}
