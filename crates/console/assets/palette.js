// @ts-check
// The palette: every section, queue, kind and action of the page, found by typing.

import { element, root } from './dom.js';
import { help } from './keys.js';

/** @typedef {{ name: string, hint: string, go: () => void }} Entry */

const MOST = 12;

/** @type {Entry[] | null} */
let names = null;

export function startPalette() {
  const button = document.getElementById('palette-open');
  if (button) {
    button.hidden = false;
    button.addEventListener('click', show);
  }
  document.addEventListener('keydown', (event) => {
    if (event.key.toLowerCase() === 'k' && (event.metaKey || event.ctrlKey) && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      show();
    }
  });
}

function show() {
  const dialog = document.getElementById('palette');
  if (!(dialog instanceof HTMLDialogElement) || dialog.open) return;
  const input = /** @type {HTMLInputElement} */ (
    element('input', {
      type: 'text',
      role: 'combobox',
      'aria-label': 'Go to a page or do something',
      'aria-expanded': 'true',
      'aria-controls': 'palette-list',
      'aria-autocomplete': 'list',
      autocomplete: 'off',
      placeholder: 'A page, a queue, a kind, a job id, or an action',
    })
  );
  const list = element('ul', { id: 'palette-list', role: 'listbox', 'aria-label': 'Matches' });
  dialog.replaceChildren(input, list);
  /** @type {Entry[]} */
  let found = [];
  let place = 0;
  const draw = () => {
    list.replaceChildren(
      ...found.map((entry, index) => {
        const attributes = { role: 'option', id: `option-${index}`, 'aria-selected': String(index === place) };
        const option = element('li', attributes, element('span', {}, entry.name), element('span', { class: 'quiet' }, entry.hint));
        option.addEventListener('click', () => choose(entry));
        return option;
      }),
    );
    input.setAttribute('aria-activedescendant', found.length > 0 ? `option-${place}` : '');
    list.children[place]?.scrollIntoView({ block: 'nearest' });
  };
  const search = () => {
    found = matches(input.value);
    place = 0;
    draw();
  };
  /** @param {Entry} entry */
  const choose = (entry) => {
    dialog.close();
    entry.go();
  };
  input.addEventListener('input', search);
  input.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length > 0) {
      place = (place + step + found.length) % found.length;
      draw();
      event.preventDefault();
    } else if (event.key === 'Enter' && found[place]) {
      event.preventDefault();
      choose(found[place]);
    }
  });
  dialog.showModal();
  input.focus();
  search();
  if (names === null) void load().then(search);
}

/** The names of queues and kinds: once for each page. */
async function load() {
  names = [];
  const answer = await fetch(`${root}/names`, { headers: { 'x-holdfast-live': '1' } });
  if (!answer.ok) return;
  /** @type {{ queues: string[], kinds: string[] }} */
  const found = await answer.json();
  names = [
    ...found.queues.map((name) => link(name, 'queue', `${root}/queues/${encodeURIComponent(name)}`)),
    ...found.kinds.map((name) => link(name, 'jobs of this kind', `${root}/jobs?q=${encodeURIComponent(`kind:${name}`)}`)),
  ];
}

/**
 * @param {string} name
 * @param {string} hint
 * @param {string} url
 * @returns {Entry}
 */
function link(name, hint, url) {
  return { name, hint, go: () => location.assign(url) };
}

/** @param {string} text */
function matches(text) {
  const wanted = text.trim().toLowerCase();
  /** @type {Entry[]} */
  const first = [];
  if (/^[0-7][0-9a-z]{25}$/.test(wanted)) first.push(link(text.trim(), 'job', `${root}/jobs/${encodeURIComponent(text.trim())}`));
  const found = [...sections(), ...actions(), ...(names ?? [])].filter((entry) => fits(entry.name.toLowerCase(), wanted));
  if (wanted !== '' && first.length === 0) found.push(link(text.trim(), 'find jobs', `${root}/jobs?q=${encodeURIComponent(text.trim())}`));
  return [...first, ...found].slice(0, MOST);
}

/**
 * Whether the letters of `wanted` occur in this order.
 * @param {string} name
 * @param {string} wanted
 */
function fits(name, wanted) {
  let from = 0;
  for (const letter of wanted) {
    from = name.indexOf(letter, from) + 1;
    if (from === 0) return false;
  }
  return true;
}

/** @returns {Entry[]} */
function sections() {
  const links = /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll('nav.sections a'));
  return [...links].map((found) => link(found.textContent ?? '', `g ${found.dataset.key ?? ''}`, found.href));
}

/** @returns {Entry[]} */
function actions() {
  const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll('main .title form.inline button'));
  const links = /** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll('main .title a.button'));
  const found = [...buttons, ...links].map((one) => ({ name: one.textContent ?? '', hint: 'on this page', go: () => one.click() }));
  return [...found, { name: 'Keyboard shortcuts', hint: '?', go: help }];
}
