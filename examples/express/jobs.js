// The kinds of jobs: imported by the web server, which enqueues them, and by the worker, which runs them.
import { App, Discard } from "@holdfast/client";
import { z } from "zod";

export const app = new App({ queue: "mail" });

const Welcome = z.object({ to: z.email(), name: z.string().min(1) });

export const sendWelcome = app.job("welcome.send", { schema: Welcome, retry: { maxAttempts: 5 } }, async ({ to, name }, ctx) => {
  if (to.endsWith("@example.invalid")) throw new Discard("this domain takes no mail");
  ctx.log(`a welcome for ${name}`);
  // Here the mail is sent. `ctx.id` is the same in every attempt: give it to the mail service as its idempotency key.
  return { to, subject: `Welcome, ${name}!`, attempt: ctx.attempt };
});
