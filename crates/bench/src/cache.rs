//! `holdfast-bench cache`: the operations of the cache, what they cost Redis, a herd, and two ways to tell others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use bytes::Bytes;
use holdfast_cache::{Cache, Class, Namespace};
use holdfast_core::config::Settings;
use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use super::failed;
use super::http::percentile;
use super::invalidation;
use super::report::{Figure, Report};
use super::system::{Setup, System};

const COPIED: Namespace<Bytes> = Namespace::raw(Class::Static, "bench-copied", 1);
const UNCOPIED: Namespace<Bytes> = Namespace::raw(Class::Static, "bench", 1).not_copied();

const VALUE: usize = 1_000;
const CALLERS: usize = 64;
const OPERATIONS: usize = 64_000;
const KEYS: usize = 1_000;
const HERD: usize = 1_000;
const LOAD_TIME: Duration = Duration::from_millis(50);
const P99: Figure = Figure::Millis(10.0);

/// Which operation is repeated.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Set,
    GetLocal,
    GetRedis,
    Delete,
}

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let settings = setup.settings()?;
    let Some(endpoint) = &settings.redis.cache else {
        report.skipped("cache", "it needs REDIS_URL");
        return Ok(());
    };
    let url = endpoint.url.expose_secret();
    let cache = System::cache(&settings)?;
    cache.gate().wait_ready(Duration::from_secs(2)).await;
    let each = (OPERATIONS as f64 * scale) as usize / CALLERS;
    for (operation, name) in [
        (Operation::Set, "set"),
        (Operation::GetLocal, "get, copied in the process"),
        (Operation::GetRedis, "get, from Redis"),
        (Operation::Delete, "delete"),
    ] {
        let before = commands(url).await?;
        let began = Instant::now();
        let mut times = repeat(&cache, operation, each).await?;
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        let asked = (commands(url).await? - before) as f64 / times.len() as f64;
        report.figure("cache", &format!("{name}, 64 callers"), Figure::Rate(rate), None);
        let p99 = Figure::Millis(percentile(&mut times, 0.99));
        report.figure("cache", "  p99", p99, Some(P99));
        if matches!(operation, Operation::GetRedis) {
            let aim = Some(Figure::Count(1.3));
            report.figure("cache", "  commands on Redis for each", Figure::Count(asked), aim);
        }
    }
    herd(&settings, report).await?;
    invalidation::measure(url, report).await
}

async fn repeat(cache: &Cache, operation: Operation, each: usize) -> Result<Vec<f64>, Failure> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let cache = cache.clone();
        callers.spawn(async move {
            let value = Bytes::from(vec![b'x'; VALUE]);
            let mut times = Vec::with_capacity(each);
            for number in 0..each {
                let part = [((caller * each + number) % KEYS).to_string()];
                let (copied, uncopied) = (COPIED.key(&part), UNCOPIED.key(&part));
                let began = Instant::now();
                match operation {
                    Operation::Set if number % 2 == 0 => cache.set(&copied, &value).await,
                    Operation::Set => cache.set(&uncopied, &value).await,
                    Operation::GetLocal => drop(cache.get(&copied).await),
                    Operation::GetRedis => drop(cache.get(&uncopied).await),
                    Operation::Delete => cache.delete(&uncopied).await,
                }
                times.push(began.elapsed().as_secs_f64() * 1_000.0);
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(done) = callers.join_next().await {
        times.extend(done.map_err(failed)?);
    }
    Ok(times)
}

/// A thousand callers of one key that nobody has.
async fn herd(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let cache = System::cache(settings)?;
    cache.gate().wait_ready(Duration::from_secs(2)).await;
    let key = COPIED.key(&["herd"]);
    cache.delete(&key).await;
    let loads = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..HERD {
        let (cache, key, loads) = (cache.clone(), key.clone(), Arc::clone(&loads));
        callers.spawn(async move {
            let load = move || async move {
                loads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(LOAD_TIME).await;
                Ok::<_, std::convert::Infallible>(Bytes::from_static(b"loaded"))
            };
            cache.get_or_load(&key, load).await.is_ok()
        });
    }
    let served = callers
        .join_all()
        .await
        .into_iter()
        .filter(|served| *served)
        .count();
    let took = Figure::Millis(began.elapsed().as_secs_f64() * 1_000.0);
    report.figure("herd", "1,000 misses at once, a loader of 50 ms", took, None);
    let runs = Figure::Count(loads.load(Ordering::SeqCst) as f64);
    report.figure("herd", "  runs of the loader", runs, Some(Figure::Count(1.0)));
    cache.delete(&key).await;
    if served == HERD {
        Ok(())
    } else {
        Err(Failure::msg(format!(
            "only {served} of {HERD} callers were served"
        )))
    }
}

/// Commands that the server has done, this question not included.
async fn commands(url: &str) -> Result<u64, Failure> {
    let client = redis::Client::open(url).map_err(failed)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    invalidation::info(&mut connection, "stats", "total_commands_processed")
        .await
        .map(|count| count as u64)
}
