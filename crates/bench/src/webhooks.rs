//! Webhooks: signed deliveries to a receiver on this machine, from the first claim to the last row of the log; beside them
//! plain POSTs of as much by the same client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use futures::StreamExt;
use holdfast_jobs::Resources;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::enqueue::JobRequest;
use holdfast_services::notify::notifications::Notices;
use holdfast_services::notify::webhooks::{EXCERPT, NotifyWebhook, WebhookDraft, WebhookId};
use holdfast_services::outbound::{Call, Outbound};
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::report::{Figure, Report};
use super::scenario::{finish_working, scaled};
use super::system::{QUEUE, Setup, System};
use super::{failed, load};

const PART: &str = "webhooks";

/// Deliveries of the whole, and of one call that enqueues them.
const DELIVERIES: usize = 10_000;
const BATCH: usize = 1_000;

/// Plain POSTs: bytes of each, about those of a delivery, and how many are under way.
const BODY: usize = 290;
const AT_ONCE: usize = 64;

const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let mut setup = setup.clone();
    let allow = "HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE".to_owned();
    setup.env.insert(allow, "true".to_owned());
    let mut system = System::open(&setup).await?;
    let notices = Notices::new(&system.settings, &system.database, system.jobs.clone());
    let receiver = Receiver::start().await?;
    let by = AuditContext::new(Actor::cli());
    // Nothing else is ever published under this name.
    let events = ["holdfast.bench".to_owned()];
    let url = format!("http://{}/", receiver.address);
    let draft = WebhookDraft::parse(&url, Some("holdfast-bench"), &events, true).map_err(failed)?;
    let webhooks = notices.webhooks();
    let made = webhooks.create(&by, &draft, None).await.map_err(failed)?;
    let id = made.webhook.id;
    let delivered = deliver(
        &mut system,
        &notices,
        id,
        &receiver,
        scaled(DELIVERIES, scale),
        report,
    )
    .await;
    webhooks.delete(&by, id).await.map_err(failed)?;
    tidy(&system, id).await?;
    system.close().await?;
    delivered
}

async fn deliver(
    system: &mut System,
    notices: &Notices,
    id: WebhookId,
    receiver: &Receiver,
    count: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    for batch in 0..count / BATCH {
        let requests = (batch * BATCH..(batch + 1) * BATCH)
            .map(|n| request(id, n))
            .collect::<Result<Vec<_>, _>>()?;
        system.jobs.enqueue_requests(requests).await.map_err(failed)?;
    }
    let outbound = Outbound::new(&system.settings.http_request).map_err(failed)?;
    let plain = plain_posts(&outbound, count).await?;
    report.figure(PART, "plain POSTs by the same client", Figure::Rate(plain), None);
    let resources = Resources::default()
        .with(notices.webhooks().clone())
        .with(outbound);
    let began = Instant::now();
    system.work_with(resources)?;
    receiver.took(count as u64).await?;
    let ended = finish_working(system).await?;
    let rate = count as f64 / ended.duration_since(began).as_secs_f64();
    report.figure(
        PART,
        &format!("{count} signed deliveries, one worker process"),
        Figure::Rate(rate),
        Some(Figure::Rate(1_500.0)),
    );
    report.figure(
        PART,
        "  of plain POSTs",
        Figure::Share(100.0 * rate / plain),
        None,
    );
    if receiver.total() != count as u64 {
        let total = receiver.total();
        return Err(Failure::msg(format!(
            "{total} requests came of {count} deliveries"
        )));
    }
    Ok(())
}

/// How many POSTs of as many bytes this client makes a second, where that is all it does: the yardstick.
async fn plain_posts(outbound: &Outbound, count: usize) -> Result<f64, Failure> {
    let receiver = Receiver::start().await?;
    let url: reqwest::Url = format!("http://{}/", receiver.address).parse().map_err(failed)?;
    let body = bytes::Bytes::from(vec![b'x'; BODY]);
    let began = Instant::now();
    let posts = futures::stream::iter(0..count).map(|_| {
        let call = Call {
            method: reqwest::Method::POST,
            url: url.clone(),
            headers: reqwest::header::HeaderMap::new(),
            body: Some(body.clone()),
            timeout: PATIENCE,
            accept: Vec::new(),
        };
        outbound.send_once(call, EXCERPT)
    });
    let mut posts = posts.buffer_unordered(AT_ONCE);
    while let Some(sent) = posts.next().await {
        let reply = sent.map_err(|error| Failure::msg(format!("a plain POST failed: {error}")))?;
        if !reply.status.is_success() {
            return Err(Failure::msg(format!(
                "a plain POST was answered {}",
                reply.status
            )));
        }
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// On the bench's own queue, which nobody else works on.
fn request(webhook: WebhookId, n: usize) -> Result<JobRequest, Failure> {
    let job = NotifyWebhook {
        webhook,
        id: format!("msg_bench_{n}"),
        event_type: "holdfast.bench".parse().map_err(failed)?,
        timestamp: holdfast_core::clock::now(),
        data: to_raw_value(&json!({"order": n, "name": "x".repeat(150)})).map_err(failed)?,
        test: false,
    };
    let payload = to_raw_value(&job).map_err(failed)?;
    let mut request = JobRequest::new("notify.webhook", payload);
    request.queue = Some(QUEUE.to_owned());
    Ok(request)
}

/// The log of the bench's deliveries, and what the audit log says of its endpoint.
async fn tidy(system: &System, id: WebhookId) -> Result<(), Failure> {
    system
        .sql("delete from holdfast_webhook_deliveries where event_type = 'holdfast.bench'")
        .await?;
    system
        .sql(&format!("delete from holdfast_audit where target = '{id}'"))
        .await
}

/// Answers every request with 200; a few lines over a socket, so that the figure is the worker's.
struct Receiver {
    address: SocketAddr,
    taken: watch::Receiver<()>,
    total: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let total = Arc::new(AtomicU64::new(0));
        let (told, taken) = watch::channel(());
        let accepting = tokio::spawn({
            let total = Arc::clone(&total);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // A connection that ends is the client's business.
                    tokio::spawn(answer(stream, Arc::clone(&total), told.clone()));
                }
            }
        });
        Ok(Self {
            address,
            taken,
            total,
            accepting,
        })
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    async fn took(&self, count: u64) -> Result<(), Failure> {
        let mut taken = self.taken.clone();
        let waiting = taken.wait_for(|()| self.total() >= count);
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::msg(format!(
                "only {} of {count} deliveries came",
                self.total()
            ))),
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    total: Arc<AtomicU64>,
    told: watch::Sender<()>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(8_192);
    loop {
        let end = loop {
            if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let end = head + 4 + load::content_length(&buffer[..head]);
                if buffer.len() >= end {
                    break end;
                }
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..end);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await?;
        total.fetch_add(1, Ordering::Relaxed);
        told.send_replace(());
    }
}
