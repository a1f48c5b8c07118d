//! What somebody else does to the database: it is up, and late.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::PostgresServer;
use sqlx::{Connection as _, PgConnection};

use super::Disaster;
use crate::preload::StallingDisk;

/// Connections that are taken at most; the servers of the storm allow 100.
const MOST: usize = 100;
/// How long one attempt to take a connection may go on.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sessions of somebody else, which end with this value, and the disk.
#[derive(Debug)]
pub(super) struct Foreign {
    sessions: Vec<PgConnection>,
    /// If the schedule stalls it.
    disk: Option<StallingDisk>,
}

impl Foreign {
    pub(super) fn new(disk: Option<StallingDisk>) -> Self {
        let sessions = Vec::new();
        Self { sessions, disk }
    }

    fn disk(&self) -> Result<&StallingDisk> {
        self.disk.as_ref().context("the server's disk cannot stall")
    }

    pub(super) async fn begin(&mut self, postgres: &PostgresServer, disaster: Disaster) -> Result<()> {
        match disaster {
            Disaster::RowsLocked => {
                self.open_transaction(
                    postgres,
                    "begin; select from holdfast_batches for update skip locked;
                     select from holdfast_jobs where state = 'running' limit 5 for update skip locked",
                )
                .await
            }
            Disaster::OldTransaction => {
                self.open_transaction(
                    postgres,
                    "begin isolation level repeatable read; select count(*) from holdfast_jobs",
                )
                .await
            }
            Disaster::ClaimsDelayed => {
                let slow = "create or replace function storm_slow() returns trigger language plpgsql as
                    $$ begin perform pg_sleep(0.2); return new; end $$;
                    create or replace trigger storm_slow before update on holdfast_jobs for each row
                    when (old.state = 'available' and new.state = 'running') execute function storm_slow()";
                postgres.psql(slow).await.map(drop)
            }
            Disaster::DiskStalled => self.disk()?.stall(),
            _ => {
                self.take_connections(postgres).await;
                Ok(())
            }
        }
    }

    pub(super) async fn end(&mut self, postgres: &PostgresServer, disaster: Disaster) -> Result<()> {
        self.sessions.clear();
        if disaster == Disaster::ClaimsDelayed {
            postgres.psql("drop trigger storm_slow on holdfast_jobs").await?;
        }
        if disaster == Disaster::DiskStalled {
            self.disk()?.go_on()?;
        }
        Ok(())
    }

    async fn open_transaction(&mut self, postgres: &PostgresServer, sql: &'static str) -> Result<()> {
        let url = format!("postgres://postgres@{}/holdfast", postgres.addr());
        let mut session = PgConnection::connect(&url).await?;
        sqlx::raw_sql(sql).execute(&mut session).await?;
        self.sessions.push(session);
        Ok(())
    }

    /// As somebody without rights of its own: the last connections are the superuser's.
    async fn take_connections(&mut self, postgres: &PostgresServer) {
        let url = postgres.url();
        while self.sessions.len() < MOST {
            match tokio::time::timeout(PATIENCE, PgConnection::connect(&url)).await {
                Ok(Ok(session)) => self.sessions.push(session),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}
