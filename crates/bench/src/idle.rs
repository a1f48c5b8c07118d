//! What the built services cost while nothing happens, and how soon they are ready. Linux only: it reads `/proc`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::failed;
use super::report::{Figure, Report};
use super::system::Setup;

const SETTLE: Duration = Duration::from_secs(3);
const WATCH: Duration = Duration::from_secs(20);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// `sysconf(_SC_CLK_TCK)` on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Starts `api` and `worker`, waits until each is ready, and watches them do nothing.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    for name in ["api", "worker"] {
        let Some(binary) = sibling(name) else {
            report.skipped("idle", &format!("{name} is not built beside this program"));
            continue;
        };
        let began = Instant::now();
        let mut child = start(&binary, setup)?;
        let address = listening(&mut child).await?;
        ready(&address).await?;
        let start_up = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        let cpu_before = cpu_seconds(&child)?;
        tokio::time::sleep(WATCH).await;
        let cpu = (cpu_seconds(&child)? - cpu_before) / WATCH.as_secs_f64() * 100.0;
        let resident = resident_bytes(&child)?;
        child.kill().await?;
        let millis = Figure::Millis(start_up.as_secs_f64() * 1_000.0);
        report.figure(
            "idle",
            &format!("{name}: start to ready"),
            millis,
            Some(Figure::Millis(300.0)),
        );
        let most = Some(Figure::Bytes(30.0 * 1_048_576.0));
        report.figure(
            "idle",
            &format!("{name}: resident"),
            Figure::Bytes(resident),
            most,
        );
        report.figure(
            "idle",
            &format!("{name}: of one core"),
            Figure::Percent(cpu),
            Some(Figure::Percent(0.5)),
        );
    }
    Ok(())
}

pub(super) fn sibling(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.exists().then_some(path)
}

pub(super) fn start(binary: &PathBuf, setup: &Setup) -> Result<Child, Failure> {
    let child = Command::new(binary)
        .env_clear()
        .envs(&setup.env)
        .env("PORT", "0")
        .env("HOLDFAST__LOG__FORMAT", "json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// The address in the log line that names it. The rest of the log is read and dropped.
pub(super) async fn listening(child: &mut Child) -> Result<String, Failure> {
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Failure::msg("the service has no output"))?;
    let mut lines = BufReader::new(stdout).lines();
    let found = tokio::time::timeout(READY_LIMIT, async {
        while let Some(line) = lines.next_line().await? {
            let record: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            // `worker` says what it listens for.
            if record["message"]
                .as_str()
                .is_some_and(|message| message.starts_with("listening"))
                && let Some(address) = record["address"].as_str()
            {
                return Ok(address.to_owned());
            }
        }
        Err(Failure::msg("the service ended before it listened"))
    });
    let address = found.await.map_err(failed)??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(address
        .replace("[::]", "127.0.0.1")
        .replace("0.0.0.0", "127.0.0.1"))
}

pub(super) async fn ready(address: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_LIMIT;
    while Instant::now() < deadline {
        // Refused, cut off or "not ready": it is not ready.
        if is_ready(address).await.unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Failure::msg(format!(
        "http://{address}/health/ready did not become ready"
    )))
}

async fn is_ready(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

fn proc_file(child: &Child, file: &str) -> Result<String, Failure> {
    let pid = child.id().ok_or_else(|| Failure::msg("the service has ended"))?;
    Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
}

pub(super) fn cpu_seconds(child: &Child) -> Result<f64, Failure> {
    let stat = proc_file(child, "stat")?;
    // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th fields behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Ok((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

fn resident_bytes(child: &Child) -> Result<f64, Failure> {
    let status = proc_file(child, "status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .unwrap_or(0.0);
    Ok(kib * 1_024.0)
}
