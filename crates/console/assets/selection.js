// @ts-check
// Rows: the current one, which the keyboard moves, and the selected ones.

/** The rows of the first list of the page. */
export function rows() {
  const list = document.querySelector('main table[data-rows]');
  return list ? /** @type {HTMLTableRowElement[]} */ ([...list.querySelectorAll('tbody tr')]) : [];
}

export function currentRow() {
  return /** @type {HTMLTableRowElement | null} */ (document.querySelector('main tr.current'));
}

/** @param {number} step */
export function move(step) {
  const all = rows();
  if (all.length === 0) return;
  const old = currentRow();
  const place = old ? all.indexOf(old) + step : step > 0 ? 0 : all.length - 1;
  const row = all[Math.max(0, Math.min(all.length - 1, place))];
  old?.classList.remove('current');
  row.classList.add('current');
  row.querySelector('a')?.focus({ preventScroll: true });
  row.scrollIntoView({ block: 'nearest' });
}

/** @param {ParentNode | null} scope */
function box(scope) {
  return /** @type {HTMLInputElement | null} */ (scope?.querySelector('input[name=id]') ?? null);
}

/** Selects the current row, or no longer. */
export function toggle() {
  const found = box(currentRow());
  if (!found) return;
  found.checked = !found.checked;
  lastToggled = rows().indexOf(/** @type {HTMLTableRowElement} */ (currentRow()));
  show();
}

let lastToggled = 0;

/** Selects every row from the one that was selected last to the current one. */
export function extend() {
  const all = rows();
  const current = currentRow();
  if (!current) return;
  const place = all.indexOf(current);
  for (const row of all.slice(Math.min(place, lastToggled), Math.max(place, lastToggled) + 1)) {
    const found = box(row);
    if (found) found.checked = true;
  }
  show();
}

/** Selects nothing. Whether anything was. */
export function clear() {
  const checked = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll('input[name=id]:checked'));
  for (const one of checked) one.checked = false;
  show();
  return checked.length > 0;
}

export function chosen() {
  return document.querySelectorAll('input[name=id]:checked').length;
}

function show() {
  const count = chosen();
  for (const bar of document.querySelectorAll('.selected')) {
    /** @type {HTMLElement} */ (bar).hidden = count === 0;
    const text = bar.querySelector('[data-chosen]');
    if (text) text.textContent = `${count} selected`;
  }
}

export function startSelection() {
  for (const all of document.querySelectorAll('[data-select-all]')) all.removeAttribute('hidden');
  document.addEventListener('change', (event) => {
    const changed = event.target;
    if (!(changed instanceof HTMLInputElement)) return;
    if (changed.matches('[data-select-all]')) {
      for (const row of rows()) {
        const found = box(row);
        if (found) found.checked = changed.checked;
      }
    }
    show();
  });
  show();
}
