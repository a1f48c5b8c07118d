//! Schedules: jobs that come by the clock.
//!
//! # What holds
//! - **A tick is one job.** The row of a schedule names the next tick. Whoever makes a tick's job moves the row on in
//!   the same transaction, and only if it still waits for that very tick at that very revision. So any number of beats
//!   may run, start, stop, sleep and come back with old news: the first one makes the job, the others change nothing.
//!   This does not depend on how long a finished job is kept. The job's idempotency key, `schedule:<name>:<tick>`, is a
//!   second line: it holds when a schedule is deleted and made again.
//! - **Times come from the database's clock.** What is due, how long a beat sleeps, and when a schedule was last run:
//!   no host's clock is asked, so a host that is minutes off changes nothing.
//! - **A tick is never early.** Its job is made when the server's clock has reached it. A jitter moves the job's own
//!   `run_at`, by a share that name and tick alone decide, so every beat would choose the same.
//! - **Nothing here needs Redis or a leader.** A job made here goes to the ledger, whatever its queue's durability.
//! - **What is missed is caught up with** as the schedule says ([`CatchUp`]). A tick is missed if it is late by more than
//!   `beat.missed_after_seconds`, or if a later tick of the same schedule is due as well.
//!
//! # States
//! A schedule waits for `next_tick`, or is disabled. Enabling it, or changing its rhythm, sets `next_tick` to the first
//! one from then on: there is nothing to catch up with. Any other edit keeps `next_tick`.
//! The configuration's schedules are restored by every beat at its start, belong to it alone (the API answers 409), and are
//! deleted when they are not configured any more. One that the configuration enables can be *paused*: it is disabled until it
//! is enabled again, whatever beats start meanwhile. The pause ends where the configuration disables the schedule itself.
//!
//! # When things fail
//! - *The database is away*: beats stay, try again with backoff, and catch up. A commit whose answer is lost is found
//!   out by the next look: the row waits for the tick, or has moved on.
//! - *A beat dies*: another one, or the next one, takes the tick. Half a tick does not exist.
//! - *A beat is stopped in the middle of a transaction*: PostgreSQL ends it after three seconds, and others pass its rows
//!   by until then.
//! - *A tick's job is refused* (its kind is gone from this process, its payload is refused by now): the tick stays due and
//!   is left to other beats; this one tries again after [`ticker::REFUSED_REST`], and the schedule shows `last_error`.

mod check;
mod manage;
pub mod model;
mod rows;
mod runs;
mod store;
mod tick;
mod ticker;
pub mod timing;

pub use check::{DEFAULT_CATCH_UP_MAX, MAX_CATCH_UP, MAX_NAME, is_name, rhythm};
pub use manage::{MAX_SCHEDULES, NEXT_TICKS, PutOutcome, ScheduleError, Schedules, SyncReport};
pub use model::{BeatRecord, CatchUp, Definition, Rhythm, Schedule, ScheduleRecord, Source};
pub use runs::{LAST_RUNS, Run, RunJob};
pub use store::{Note, ScheduleStore, Step, Summary, TakenStep};
pub use ticker::{Ticker, Vitals};
pub use timing::{Timing, TimingFault};
