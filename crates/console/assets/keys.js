// @ts-check
// The keyboard. No key works in a field, none with a modifier, and all can be switched off in the menu.

import { element, isField } from './dom.js';
import { chosen, clear, currentRow, extend, move, toggle } from './selection.js';

const STORED = 'holdfast-keys';

/** @type {[string, string][]} */
const HELP = [
  ['g then a letter', 'go to a section'],
  ['/', 'filter, or find jobs'],
  ['j k', 'next row, previous row'],
  ['Enter', 'open the row'],
  ['x', 'select the row'],
  ['X', 'select up to the row'],
  ['Esc', 'select nothing, close'],
  ['r', 'retry, run now or redrive'],
  ['c', 'cancel'],
  ['p', 'pause or resume'],
  ['n', 'new'],
  ['e', 'edit'],
  ['d', 'delete'],
  ['⌘K or Ctrl K', 'go to anything'],
  ['?', 'this list'],
];

/** What a key acts on: the ends of the addresses of forms and links. @type {Record<string, string[]>} */
const ACTIONS = {
  r: ['/retry', '/redrive', '/run', '/discover'],
  c: ['/cancel'],
  p: ['/pause', '/resume'],
  n: ['/new'],
  e: ['/edit'],
  d: ['/delete'],
};

/** After `g`, until when the letter counts. */
let goesUntil = 0;

export function startKeys() {
  document.addEventListener('keydown', (event) => {
    if (!areOn() || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (isField(event.target)) {
      if (event.key === 'Escape') /** @type {HTMLElement} */ (event.target).blur();
      return;
    }
    if (document.querySelector('dialog[open]')) return;
    if (press(event.key)) event.preventDefault();
  });
  const button = document.getElementById('keys-toggle');
  if (button) {
    button.hidden = false;
    const show = () => (button.textContent = areOn() ? 'Switch shortcuts off' : 'Switch shortcuts on');
    button.addEventListener('click', () => {
      localStorage.setItem(STORED, areOn() ? 'off' : 'on');
      show();
    });
    show();
  }
}

export function areOn() {
  return localStorage.getItem(STORED) !== 'off';
}

/**
 * Does what a key is for. Whether it is for anything.
 * @param {string} key
 */
function press(key) {
  if (Date.now() < goesUntil) {
    goesUntil = 0;
    const link = document.querySelector(`nav.sections a[data-key="${CSS.escape(key)}"]`);
    if (link instanceof HTMLElement) link.click();
    return link !== null;
  }
  switch (key) {
    case 'g':
      goesUntil = Date.now() + 1500;
      return true;
    case '/':
      return focus('#filter') || focus('#find');
    case 'j':
      move(1);
      return true;
    case 'k':
      move(-1);
      return true;
    case 'x':
      toggle();
      return true;
    case 'X':
      extend();
      return true;
    case 'Escape':
      return clear();
    case 'Enter':
      return open();
    case '?':
      help();
      return true;
    default:
      return act(key);
  }
}

/** @param {string} selector */
function focus(selector) {
  const found = document.querySelector(selector);
  if (!(found instanceof HTMLInputElement)) return false;
  found.focus();
  found.select();
  return true;
}

function open() {
  const link = currentRow()?.querySelector('a[data-open]');
  // A focused link opens by itself.
  if (!(link instanceof HTMLElement) || document.activeElement === link) return false;
  link.click();
  return true;
}

/** @param {string} key */
function act(key) {
  const ends = ACTIONS[key];
  if (!ends) return false;
  const found = target(ends);
  found?.click();
  return found !== null;
}

/**
 * The button or link of an action: for the selected rows, in the current row, or on the page.
 * @param {string[]} ends
 * @returns {HTMLElement | null}
 */
function target(ends) {
  if (chosen() > 0) {
    const word = ends.map((end) => end.slice(1));
    const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll('.selected button'));
    for (const button of buttons) {
      if (word.some((one) => button.value === one || button.formAction.endsWith(`/${one}`))) return button;
    }
    return null;
  }
  for (const scope of [currentRow(), document.querySelector('main .title'), document.querySelector('main')]) {
    for (const found of scope?.querySelectorAll('form.inline, a.button') ?? []) {
      const address = found instanceof HTMLFormElement ? found.action : /** @type {HTMLAnchorElement} */ (found).href;
      if (!ends.some((end) => address.endsWith(end))) continue;
      return found instanceof HTMLFormElement ? found.querySelector('button') : /** @type {HTMLElement} */ (found);
    }
  }
  return null;
}

export function help() {
  const dialog = document.getElementById('help');
  if (!(dialog instanceof HTMLDialogElement)) return;
  const list = element('dl', {});
  for (const [key, does] of HELP) list.append(element('dt', {}, element('kbd', {}, key)), element('dd', {}, does));
  for (const link of document.querySelectorAll('nav.sections a[data-key]')) {
    const key = link.getAttribute('data-key') ?? '';
    list.append(element('dt', {}, element('kbd', {}, `g ${key}`)), element('dd', {}, link.textContent ?? ''));
  }
  const close = element('button', { type: 'button' }, 'Close');
  close.addEventListener('click', () => dialog.close());
  dialog.replaceChildren(element('h2', {}, 'Keyboard'), list, close);
  dialog.showModal();
}
