// Compiled, not run: what the types promise.
import { App, type Job, type JobHandle, Retry } from "@holdfast/client";
import { type as ark } from "arktype";
import * as v from "valibot";
import { z } from "zod";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Equal<A, B>): void {}

const app = new App({ queue: "q" });

// The input is enqueued, the output is handled, the result is waited for.
const zod = app.job("a", { schema: z.object({ n: z.string().transform(Number), m: z.number().default(1) }) }, async (payload, ctx) => {
  same<typeof payload, { n: number; m: number }>(true);
  same<typeof ctx.signal, AbortSignal>(true);
  if (ctx.attempt > 2) throw new Retry({ after: 5 });
  return { total: payload.n };
});
const job = zod.enqueue({ n: "5" });
same<typeof job, Promise<JobHandle<{ total: number }>>>(true);
// @ts-expect-error the input is a string
void zod.enqueue({ n: 5 });
// @ts-expect-error a field is missing
void zod.enqueue({});

const valibot = app.job("b", { schema: v.object({ url: v.string() }) }, (payload) => payload.url.length);
same<Parameters<typeof valibot.enqueue>[0], { url: string }>(true);

const arktype = app.job("c", { schema: ark({ url: "string", "width?": "number" }) }, (payload) => payload.url);
void arktype.enqueue({ url: "a" });

// Without a schema the handler says what it takes.
const plain = app.job("d", {}, (payload: { id: number }) => String(payload.id));
same<Parameters<typeof plain.enqueue>[0], { id: number }>(true);
const waited = plain.enqueue({ id: 1 }).then((job) => job.wait());
same<typeof waited, Promise<string>>(true);

// Without a handler the app enqueues alone.
void app.job("e", { schema: z.object({ id: z.number() }) }).enqueue({ id: 1 });
void app.job("f").enqueue({ anything: true });

void app.client.enqueue("a", {}, { priority: "high", then: { kind: "b" } });
// @ts-expect-error there is no such priority
void app.client.enqueue("a", {}, { priority: "urgent" });
const shown = app.client.job("J").show();
same<typeof shown, Promise<Job>>(true);
