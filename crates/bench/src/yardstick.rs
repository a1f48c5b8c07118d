//! LPUSH of the same payload against the same Redis: what the network and the server give to anyone.

use std::time::Instant;

use super::failed;
use anyhow::Error as Failure;

use super::system::PAYLOAD_BYTES;

#[derive(Debug, Clone, Copy)]
pub(super) struct Yardstick {
    /// Commands a second, each waiting for the one before.
    pub one_by_one: f64,
    /// Commands a second in pipelines of 500.
    pub pipelined: f64,
}

const KEY: &str = "holdfast:bench:yardstick";
const SINGLE: usize = 10_000;
const PIPELINES: usize = 400;
const PIPELINE: usize = 500;

pub(super) async fn measure(url: &str) -> Result<Yardstick, Failure> {
    let client = redis::Client::open(url).map_err(failed)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let payload = "x".repeat(PAYLOAD_BYTES);
    let began = Instant::now();
    for _ in 0..SINGLE {
        let _: i64 = redis::cmd("LPUSH")
            .arg(KEY)
            .arg(&payload)
            .query_async(&mut connection)
            .await
            .map_err(failed)?;
    }
    let one_by_one = SINGLE as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for _ in 0..PIPELINES {
        let mut pipe = redis::pipe();
        for _ in 0..PIPELINE {
            pipe.cmd("LPUSH").arg(KEY).arg(&payload).ignore();
        }
        let () = pipe.query_async(&mut connection).await.map_err(failed)?;
    }
    let pipelined = (PIPELINES * PIPELINE) as f64 / began.elapsed().as_secs_f64();
    let _: i64 = redis::cmd("DEL")
        .arg(KEY)
        .query_async(&mut connection)
        .await
        .map_err(failed)?;
    Ok(Yardstick {
        one_by_one,
        pipelined,
    })
}
