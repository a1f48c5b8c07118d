//! OpenTelemetry traces: a few spans where work begins and ends (a request, an enqueue, an execution), joined by the W3C
//! context that travels with a job.
//!
//! # Invariants
//! - Without a collector nothing is made: no thread, no span; a context that arrives is handed on as it came.
//! - A span never waits and never fails. Ended spans go into a queue of [`QUEUE`]; when it is full they are dropped.
//!
//! # When the collector is away
//! A thread of its own exports, each export within [`EXPORT_DEADLINE`]. A collector that fails is told once, and once more
//! when it takes spans again; what could not be exported is lost. At the end of the process what is queued has
//! [`FLUSH_LIMIT`] to leave.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use crate::config::TracesSettings;

/// Ended spans that wait for their export.
const QUEUE: usize = 8_192;

/// Spans of one export at most.
const BATCH: usize = 512;

/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Longest one export may take.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// Longest the end of the process waits for the spans that are queued.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

static TRACING: OnceLock<Tracing> = OnceLock::new();

/// Begins to trace, if the settings name a collector. Later calls change nothing.
pub(super) fn start(settings: &TracesSettings, service: &'static str) {
    let Some(endpoint) = &settings.endpoint else {
        return;
    };
    if TRACING.get().is_some() {
        return;
    }
    let endpoint = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
    match provider(settings, &endpoint, service) {
        Ok(provider) => {
            let tracer = provider.tracer("holdfast");
            let _started_before = TRACING.set(Tracing { provider, tracer }).is_err();
            tracing::info!("traces are exported");
        }
        // Of the driver's own words none may name the URL, which may hold a token.
        Err(error) => tracing::warn!(
            error,
            "traces cannot be exported; the service continues without them"
        ),
    }
}

fn provider(
    settings: &TracesSettings,
    endpoint: &str,
    service: &'static str,
) -> Result<SdkTracerProvider, &'static str> {
    let client = Client::new().ok_or("the HTTP client cannot be built")?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_DEADLINE)
        .with_headers(headers(settings))
        .with_http_client(client)
        .build()
        .map_err(|_| "the OTEL_* variables contradict each other")?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(GATHER)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    let root = Sampler::TraceIdRatioBased(settings.sample_ratio);
    let resource = Resource::builder_empty()
        .with_service_name(format!("holdfast-{service}"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(root)))
        .with_resource(resource)
        .build())
}

/// `name=value` pairs with commas between; what is no pair is left out.
fn headers(settings: &TracesSettings) -> HashMap<String, String> {
    let text = settings
        .headers
        .as_ref()
        .map_or("", |headers| headers.expose_secret());
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Lets the spans that are queued leave. Blocks, for [`FLUSH_LIMIT`] at most: the last thing a process does.
pub(super) fn finish() {
    if let Some(tracing) = TRACING.get() {
        let _nobody_to_tell = tracing.provider.shutdown_with_timeout(FLUSH_LIMIT).is_err();
    }
}

/// The exporter's way out: its thread has no runtime, so the client brings one.
struct Client {
    http: reqwest::Client,
    runtime: Runtime,
    failing: AtomicBool,
}

impl Client {
    fn new() -> Option<Self> {
        let roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.into(),
        };
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(EXPORT_DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .ok()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .ok()?;
        Some(Self {
            http,
            runtime,
            failing: AtomicBool::new(false),
        })
    }

    /// Tells of an outage once, and once of its end.
    fn follow(&self, failed: bool, reason: &str) {
        match (self.failing.swap(failed, Ordering::Relaxed), failed) {
            (false, true) => tracing::warn!(
                reason,
                "the trace collector is unavailable: spans are lost until it recovers"
            ),
            (true, false) => tracing::info!("the trace collector has recovered"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.http.clone(), reqwest::Request::try_from(request)?);
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request).await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        match sent.await? {
            Ok((status, body)) => {
                self.follow(!status.is_success(), status.as_str());
                let mut response = Response::new(body);
                *response.status_mut() = status;
                Ok(response)
            }
            Err(error) => {
                let reason = if error.is_timeout() {
                    "no answer in time"
                } else {
                    "it cannot be reached"
                };
                self.follow(true, reason);
                Err(Box::new(error.without_url()))
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request that is answered.
    Server,
    /// A job that is handed over.
    Producer,
    /// A job that is run.
    Consumer,
}

/// Work under way. It ends when it is dropped.
pub struct Span(Option<SdkSpan>);

/// Begins a span, a child of the context that `traceparent` names. `None` where nothing is traced.
pub fn begin(kind: Kind, name: impl Into<Cow<'static, str>>, traceparent: Option<&str>) -> Span {
    let Some(tracing) = TRACING.get() else {
        return Span(None);
    };
    let parent = traceparent.and_then(parse).map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(parent)
    });
    let kind = match kind {
        Kind::Server => SpanKind::Server,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    };
    let builder = tracing.tracer.span_builder(name).with_kind(kind);
    Span(Some(tracing.tracer.build_with_context(builder, &parent)))
}

/// Whether anything is traced: what only a span needs need not be made otherwise.
pub fn is_on() -> bool {
    TRACING.get().is_some()
}

impl Span {
    /// Of what is not traced.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The W3C context of this span, for whoever comes after it. `None` where nothing is traced.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span_context();
        context.is_valid().then(|| {
            let flags = context.trace_flags().to_u8();
            format!(
                "00-{:032x}-{:016x}-{flags:02x}",
                context.trace_id(),
                context.span_id()
            )
        })
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// The work failed, in words without a secret.
    pub fn fail(&mut self, reason: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(reason));
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.traceparent()).finish()
    }
}

/// The trace of a context, as logs carry it.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32).then_some(id)
}

/// A W3C `traceparent`, of any version that has these fields.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let _version = parts.next()?;
    let trace = u128::from_str_radix(parts.next()?, 16).ok()?;
    let span = u64::from_str_radix(parts.next()?, 16).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from(trace),
        SpanId::from(span),
        TraceFlags::new(flags),
        true,
        TraceState::from_str("").ok()?,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_as_the_recommendation_writes_it() {
        let context = parse(PARENT).unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(trace_id(PARENT), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in [
            "",
            "00",
            "00-0-0-0",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "x-y-z-w",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_a_collector_nothing_is_made() {
        let span = begin(Kind::Server, "GET /", Some(PARENT));
        assert!(span.0.is_none() && span.traceparent().is_none() && !is_on());
    }
}
