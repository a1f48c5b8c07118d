/** What a worker logs: a sentence and fields. No field holds a payload, a result or a key. */

export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;

export type LogLevel = (typeof LEVELS)[number];

/** One line for each message on standard error, from this level on. */
export function lineLogger(least: LogLevel = "info", write = (line: string) => void process.stderr.write(line)): Logger {
  const at = (level: LogLevel) =>
    LEVELS.indexOf(level) < LEVELS.indexOf(least)
      ? () => undefined
      : (message: string, fields: LogFields = {}) => {
          write(`${new Date().toISOString()} ${level.toUpperCase().padStart(5)} ${withFields(message, fields)}\n`);
        };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** The message with its fields, as text. */
export function withFields(message: string, fields: LogFields = {}): string {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return [message, ...given.map(([name, value]) => `${name}=${typeof value === "string" ? JSON.stringify(value) : value}`)].join(" ");
}
