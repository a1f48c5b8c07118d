-- Schedules of the configuration that an administrator disabled: crates/jobs/src/schedules. `enabled` says whether it ticks.

alter table holdfast_schedules add column paused integer not null default 0;
