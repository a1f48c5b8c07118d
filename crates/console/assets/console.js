// @ts-check
// What every page loads. Without it each page is complete: it adds what is live, the keyboard, the palette and copying.

import { copyButtons } from './dom.js';
import { startKeys } from './keys.js';
import { startLive } from './live.js';
import { startPalette } from './palette.js';
import { startSearch } from './search.js';
import { startSelection } from './selection.js';

copyButtons();
startSelection();
startPalette();
startKeys();
startLive();
void startSearch();

// A menu closes when one clicks elsewhere, or presses Escape in it.
document.addEventListener('click', (event) => closeMenus(/** @type {Node} */ (event.target)));
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') closeMenus(null);
});

/** @param {Node | null} inside The menu that holds this stays open. */
function closeMenus(inside) {
  for (const menu of document.querySelectorAll('details.menu[open]')) {
    if (inside && menu.contains(inside)) continue;
    const held = menu.contains(document.activeElement);
    menu.removeAttribute('open');
    if (held) menu.querySelector('summary')?.focus();
  }
}
