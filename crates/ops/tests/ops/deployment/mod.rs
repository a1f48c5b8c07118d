//! The files that platforms read: each is parsed, has only fields that its platform knows, and says what the code says
//! (commands, port, routes, settings, grace). What they start is started here, as processes.

mod autoscaling;
mod commands;
mod fields;
mod files;
mod grafana;
mod image;
mod kubernetes;
mod platforms;
mod railway;
mod redis;
mod systemd;
