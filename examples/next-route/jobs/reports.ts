// The kinds of jobs: imported by the route, which enqueues them, and by the worker, which runs them.
import { App } from "@holdfast/client";
import * as v from "valibot";

export const app = new App({ queue: "reports" });

const Month = v.object({ month: v.pipe(v.string(), v.regex(/^\d{4}-\d{2}$/)) });

export const makeReport = app.job("report.make", { schema: Month, timeoutSeconds: 120 }, async ({ month }, ctx) => {
  const days = new Date(Number(month.slice(0, 4)), Number(month.slice(5)), 0).getDate();
  for (let day = 1; day <= days; day += 1) {
    ctx.signal.throwIfAborted(); // stops when the job is cancelled
    ctx.progress({ day, days });
  }
  return { month, days };
});
