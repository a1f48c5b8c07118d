#!/usr/bin/env node
// Writes src/api-types.ts: the types of what the client sends and receives, from the server's OpenAPI document.
//
//   node scripts/generate-types.mjs http://127.0.0.1:8080    from a server that runs (/openapi.json)
//   node scripts/generate-types.mjs openapi.json             from a file
//
// test/package.test.mjs fails when the types are not those that this prints.
import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

/** Schemas that the client names; those that they refer to come with them. */
const ROOTS = [
  "AcceptedBatch", "AcceptedJob", "Finish", "FinishedJobs", "Heartbeat", "HeartbeatAnswer", "Job", "JobOutcome", "Kind", "NewBatch", "NewJob",
  "NewKind", "NewWorker", "Problem", "Pull", "PulledJobs", "RegisteredWorker", "SteeredJob",
];

export async function documentFrom(source) {
  if (!/^https?:/.test(source)) return JSON.parse(await readFile(source, "utf8"));
  const answer = await fetch(new URL("/openapi.json", source));
  if (!answer.ok) throw new Error(`${source}/openapi.json is answered ${answer.status}`);
  return answer.json();
}

/** The text of src/api-types.ts. */
export function typesOf(document) {
  const schemas = inlined(document.components.schemas);
  const names = reachable(schemas, ROOTS);
  const header = "/* Generated from the server's OpenAPI document by scripts/generate-types.mjs. Do not edit. */\n";
  return header + names.map((name) => `\n${declaration(name, schemas[name])}`).join("");
}

/** The schemas without those that only give a plain text or number a name, such as the format of ids. */
function inlined(schemas) {
  const isPlain = (schema) => ["string", "number", "integer", "boolean"].includes(schema.type) && !schema.enum;
  const plain = Object.fromEntries(Object.entries(schemas).filter(([, schema]) => isPlain(schema)));
  const prefix = "#/components/schemas/";
  return JSON.parse(JSON.stringify(schemas), (_, value) => {
    const { $ref, ...more } = value ?? {};
    const schema = typeof $ref === "string" ? plain[$ref.slice(prefix.length)] : undefined;
    return schema === undefined ? value : { ...schema, ...more };
  });
}

function reachable(schemas, roots) {
  const found = new Set();
  const visit = (name) => {
    if (found.has(name)) return;
    if (schemas[name] === undefined) throw new Error(`the document has no schema ${name}`);
    found.add(name);
    for (const [, reference] of JSON.stringify(schemas[name]).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) visit(reference);
  };
  roots.forEach(visit);
  return [...found].sort();
}

function declaration(name, schema) {
  const comment = commentOf(schema, "");
  if (schema.type === "object" && schema.properties) return `${comment}export interface ${name} ${objectOf(schema, "")}\n`;
  return `${comment}export type ${name} = ${typeOf(schema, "")};\n`;
}

function typeOf(schema, indent) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives) return alternatives.map((one) => typeOf(one, indent)).join(" | ");
  if (schema.allOf) return schema.allOf.map((one) => typeOf(one, indent)).join(" & ");
  if (Array.isArray(schema.type)) return schema.type.map((type) => typeOf({ ...schema, type }, indent)).join(" | ");
  switch (schema.type) {
    case "string":
      return choicesOf(schema.pattern) ?? "string";
    case "integer":
    case "number":
      return "number";
    case "boolean":
    case "null":
      return schema.type;
    case "array":
      return `Array<${typeOf(schema.items ?? {}, indent)}>`;
    case "object":
      if (schema.properties) return objectOf(schema, indent);
      return `Record<string, ${typeOf(schema.additionalProperties || {}, indent)}>`;
    default:
      return "unknown";
  }
}

/** The words of a pattern such as `^(high|normal|low)$`. */
function choicesOf(pattern) {
  const words = /^\^\(?([a-z_|]+)\)?\$$/.exec(pattern ?? "")?.[1];
  return words?.split("|").map((word) => JSON.stringify(word)).join(" | ");
}

function objectOf(schema, indent) {
  const required = new Set(schema.required);
  const inner = `${indent}  `;
  const fields = Object.entries(schema.properties).map(([name, field]) => {
    const key = /^[a-z_]\w*$/i.test(name) ? name : JSON.stringify(name);
    return `${commentOf(field, inner)}${inner}${key}${required.has(name) ? "" : "?"}: ${typeOf(field, inner)};\n`;
  });
  return `{\n${fields.join("")}${indent}}`;
}

function commentOf(schema, indent) {
  const text = schema.description ?? schema.oneOf?.find((one) => one.description)?.description;
  if (!text) return "";
  const lines = text.replaceAll("*/", "* /").split("\n");
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join("\n")}\n${indent} */\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const source = process.argv[2];
  if (source === undefined) {
    console.error("usage: generate-types.mjs URL-OF-A-SERVER | OPENAPI-FILE");
    process.exit(64);
  }
  const target = new URL("../src/api-types.ts", import.meta.url);
  await writeFile(target, typesOf(await documentFrom(source)));
}
