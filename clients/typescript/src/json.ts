/** JSON text of values that callers and handlers give. */

/** Not JSON, and why. */
export class NotJsonError extends Error {
  override name = "NotJsonError";
}

/**
 * The value as JSON text; `undefined` becomes `null`. What `JSON.stringify` would leave out without a word at the top, such as a
 * function, is refused.
 */
export function jsonOf(value: unknown): string {
  if (value === undefined) return "null";
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new NotJsonError(`is not JSON: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  if (text === undefined) throw new NotJsonError(`is not JSON: it is a ${typeof value}`);
  return text;
}

/** A text for people as the server takes it: with a replacement for every half of a surrogate pair, and for U+0000. */
export function wellFormed(text: string): string {
  return text.replaceAll(/[\p{Surrogate}\0]/gu, "\ufffd");
}

/** The beginning of a text that has at most so many bytes in UTF-8, without half a character at its end. */
export function cut(text: string, bytes: number): string {
  // A UTF-16 unit takes at most three bytes.
  if (text.length * 3 <= bytes) return text;
  const target = new Uint8Array(bytes);
  const { read } = new TextEncoder().encodeInto(text, target);
  return text.slice(0, read);
}
