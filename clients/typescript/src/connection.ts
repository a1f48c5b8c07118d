/** Where the server is, and the key that it wants. The key is in a private field: no log and no error shows it. */
import { ConfigurationError } from "./errors.js";
import { VERSION } from "./version.js";

/** A setting from the environment, where the runtime has one. */
export function environment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  try {
    return process?.env?.[name] || undefined;
  } catch {
    // Deno without the permission.
    return undefined;
  }
}

export class Connection {
  /** Without a slash at its end. */
  readonly base: string;
  readonly #key: string | undefined;

  /**
   * @param url Default: `HOLDFAST_URL`.
   * @param key Default: `HOLDFAST_API_KEY`. Without one the server allows what it allows to anonymous callers.
   */
  constructor(url: string | URL | undefined, key: string | undefined) {
    this.base = baseOf(url ?? environment("HOLDFAST_URL"));
    this.#key = checkedKey(key ?? environment("HOLDFAST_API_KEY"));
  }

  /** The same, but for what is given. */
  with(url: string | URL | undefined, key: string | undefined): Connection {
    return new Connection(url ?? this.base, key ?? this.#key);
  }

  headers(): Record<string, string> {
    const headers: Record<string, string> = { accept: "application/json", "user-agent": `holdfast-typescript/${VERSION}` };
    if (this.#key !== undefined) headers["authorization"] = `Bearer ${this.#key}`;
    return headers;
  }
}

function baseOf(given: string | URL | undefined): string {
  if (given === undefined) {
    throw new ConfigurationError('no server is named: give { url: "https://…" }, or set HOLDFAST_URL');
  }
  let url: URL;
  try {
    url = new URL(given);
  } catch {
    // The text may hold a password: it is not repeated.
    throw new ConfigurationError("the server's URL is not a URL; it looks like https://jobs.example.com");
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new ConfigurationError(`the server's URL must begin with http:// or https://, not ${url.protocol}`);
  }
  if (url.username !== "" || url.password !== "") {
    throw new ConfigurationError("the server's URL must not contain a user or a password: give the API key as { key }");
  }
  if (url.search !== "" || url.hash !== "") {
    throw new ConfigurationError("the server's URL must not contain a query or a fragment");
  }
  return url.origin + url.pathname.replace(/\/+$/, "");
}

function checkedKey(key: string | undefined): string | undefined {
  if (key === undefined || key === "") return undefined;
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw new ConfigurationError("the API key has characters that no key has, such as a space or a line break at its end");
  }
  return key;
}
