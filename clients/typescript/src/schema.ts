/**
 * Schemas of payloads: anything that follows the [Standard Schema](https://standardschema.dev) interface, such as those of zod, valibot
 * and arktype. They check in this process, before a job is enqueued and before a handler is called. Where a schema can say itself as
 * JSON Schema, the server checks for every producer.
 */
import { PayloadError, type PayloadIssue } from "./errors.js";

/** The part of the Standard Schema interface that is used here. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[] };

export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What is enqueued. */
export type InferInput<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["input"];

/** What the handler is given. */
export type InferOutput<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["output"];

export type JsonSchema = Readonly<Record<string, unknown>> | boolean;

/** The payload as the schema returns it: with its defaults and transformations. @throws PayloadError */
export async function validate<Output>(kind: string, schema: StandardSchema<unknown, Output>, payload: unknown): Promise<Output> {
  const result = await schema["~standard"].validate(payload);
  if (result.issues === undefined) return result.value;
  throw new PayloadError(kind, result.issues.map(issueOf));
}

function issueOf({ message, path = [] }: StandardIssue): PayloadIssue {
  const steps = path.map((step) => String(typeof step === "object" ? step.key : step));
  return { message, path: steps.join(".") };
}

/**
 * The JSON Schema (2020-12) of what is enqueued, if the schema offers one: as `~standard.jsonSchema`, `toJSONSchema()` or
 * `toJsonSchema()`. A schema that cannot be said as JSON Schema has none, and is checked in this process only.
 */
export function jsonSchemaOf(schema: StandardSchema): JsonSchema | undefined {
  try {
    return withoutDialect(converted(schema as Convertible));
  } catch {
    return undefined;
  }
}

interface Convertible extends StandardSchema {
  readonly "~standard": StandardSchema["~standard"] & {
    readonly jsonSchema?: { readonly input?: (options: { target: string }) => JsonSchema };
  };
  readonly toJSONSchema?: (options: { target: string; io: string }) => JsonSchema;
  readonly toJsonSchema?: () => JsonSchema;
}

function converted(schema: Convertible): JsonSchema | undefined {
  const target = "draft-2020-12";
  const { jsonSchema } = schema["~standard"];
  if (typeof jsonSchema?.input === "function") return jsonSchema.input({ target });
  if (typeof schema.toJSONSchema === "function") return schema.toJSONSchema({ target, io: "input" });
  if (typeof schema.toJsonSchema === "function") return schema.toJsonSchema();
  return undefined;
}

/** The server reads every schema as 2020-12; what some libraries add beside the JSON Schema is dropped. */
function withoutDialect(schema: JsonSchema | undefined): JsonSchema | undefined {
  if (schema === undefined || typeof schema === "boolean") return schema;
  const plain = JSON.parse(JSON.stringify(schema)) as Record<string, unknown>;
  delete plain["$schema"];
  delete plain["~standard"];
  return plain;
}
