// @ts-check
// Helpers that the other modules share.

/** Where the console is served. */
export const root = document.body.dataset.path ?? '';

/**
 * The one policy of trusted types. It is given whole pages of this console alone, as its server rendered and escaped them.
 * @type {{ createHTML(text: string): any } | undefined}
 */
const policy = /** @type {any} */ (window).trustedTypes?.createPolicy('holdfast', {
  createHTML: (/** @type {string} */ text) => text,
});

/**
 * A page that was fetched, as a document of its own: its scripts do not run.
 * @param {string} text
 */
export function parsePage(text) {
  return new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, 'text/html');
}

/**
 * An element with attributes and children. Texts become text, never markup.
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/**
 * Whether a key belongs to what has the focus.
 * @param {EventTarget | null} target
 */
export function isField(target) {
  return target instanceof HTMLElement && target.closest('input:not([type=checkbox]), textarea, select, [contenteditable]') !== null;
}

/** Whether something is open that the page shall not change under. */
export function isHeld() {
  const selection = document.getSelection();
  const isSelecting = selection !== null && !selection.isCollapsed;
  return isSelecting || document.querySelector('dialog[open], details.menu[open], input[name=id]:checked') !== null;
}

/** Shows the buttons that copy, and makes them do it. One listener serves those that come later, too. */
export function copyButtons() {
  showCopyButtons(document);
  document.addEventListener('click', async (event) => {
    const button = event.target instanceof Element ? event.target.closest('[data-copy]') : null;
    const text = button?.parentElement?.querySelector('pre')?.textContent;
    if (!button || text == null) return;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Not allowed';
    }
    setTimeout(() => (button.textContent = 'Copy'), 1500);
  });
}

/** @param {ParentNode} scope */
export function showCopyButtons(scope) {
  for (const button of scope.querySelectorAll('[data-copy][hidden]')) button.removeAttribute('hidden');
}
