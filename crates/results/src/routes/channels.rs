//! Channels.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::web;
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::Seconds;
use holdfast_http::problem::Problem;
use holdfast_http::{Call, ProduceOrWork, Reply, WithQuery, ok};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check;
use crate::state::ResultsState;
use crate::{ChannelPage, Message};

/// How long a message lives unless its sender says otherwise.
const DEFAULT_TTL_SECONDS: u32 = 60;

/// How long a message may live.
const MAX_TTL_SECONDS: u32 = 3_600;

/// Messages of one answer at most for each channel.
const MAX_LIMIT: usize = 10_000;

/// Messages of one answer for each channel unless the reader says otherwise.
const DEFAULT_LIMIT: usize = 1_000;

/// Channels of one call.
const MAX_CHANNELS: usize = 100;

/// Messages to be posted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessages, example = json!({"messages": ["ping"], "ttl_seconds": 60}))]
pub(crate) struct PostBody {
    /// 1 to 1,000 texts, each of up to `jobs.max_payload_bytes` bytes.
    #[schema(min_items = 1, max_items = 1_000)]
    messages: Vec<String>,
    /// How long they can be read; a minute by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3_600)]
    ttl_seconds: Option<u32>,
}

/// Posted messages.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PostedMessages)]
pub(crate) struct PostedView {
    /// The number of the last one; those before it have the numbers before it.
    last: i64,
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChannelMessage)]
pub(crate) struct MessageView {
    seq: i64,
    body: String,
}

impl From<Message> for MessageView {
    fn from(Message { seq, body }: Message) -> Self {
        Self { seq, body }
    }
}

/// The messages of a channel after the one that its reader has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChannelMessages)]
pub(crate) struct ChannelView {
    /// In the order of their numbers.
    messages: Vec<MessageView>,
    /// Pass it as `after` to go on.
    last: i64,
    /// Messages between `after` and `last` have expired, or had to make room: they are not among `messages`.
    missed: bool,
}

impl From<ChannelPage> for ChannelView {
    fn from(page: ChannelPage) -> Self {
        Self {
            messages: page.messages.into_iter().map(MessageView::from).collect(),
            last: page.last,
            missed: page.missed,
        }
    }
}

/// Which channels are read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChannelRead, example = json!({"channels": {"news": 0, "mine": null}, "wait_seconds": 10}))]
pub(crate) struct ReadBody {
    /// 1 to 100 names, each with the number of the last message that the reader has. Null: where to begin, without messages.
    channels: BTreeMap<String, Option<i64>>,
    /// How long to wait for the first message of any of them.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 30)]
    wait_seconds: Option<Seconds>,
    /// Messages of each channel at most; 1,000 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    limit: Option<usize>,
}

/// Every channel of the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChannelList)]
pub(crate) struct ChannelListView {
    channels: BTreeMap<String, ChannelView>,
}

/// Post messages
///
/// To all who listen. A channel needs no declaration. It holds 10,000 messages and 16 MiB at most: the oldest make room. If the
/// response is lost, a repeat posts the messages again.
#[utoipa::path(post, path = "/v1/channels/{name}", tag = "results", operation_id = "post_messages",
    request_body = PostBody,
    params(("name" = String, Path, description = "1 to 255 bytes, chosen by the caller")),
    responses(
        (status = 200, body = PostedView),
        (status = 413, description = "body-too-large, payload-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn post(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let (name, body): (String, PostBody) = (call.path("name"), call.json_of(payload, BodySize::Bulk).await?);
    check::name("name", &name)?;
    check::count("messages", body.messages.len(), check::MAX_ITEMS)?;
    for (index, message) in body.messages.iter().enumerate() {
        check::body(&format!("messages[{index}]"), message, call.state().max_body)?;
    }
    let seconds = body.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    let ttl = check::ttl_within("ttl_seconds", seconds, MAX_TTL_SECONDS)?;
    let last = call
        .run(move |state| async move { state.results.post(&name, &body.messages, ttl).await })
        .await?;
    ok(&PostedView { last })
}

/// Listen to a channel
///
/// The messages after number `after`, each once and in order. Without `after` there are none, and `last` is where to begin: the answer
/// comes immediately.
#[utoipa::path(get, path = "/v1/channels/{name}", tag = "results", operation_id = "listen_to_channel",
    params(
        ("name" = String, Path, description = "As the messages are posted"),
        ("after" = Option<i64>, Query, description = "The `last` of the previous answer"),
        ("wait_seconds" = Option<f64>, Query, minimum = 0, maximum = 30, description = "How long to wait for the first message"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10000, description = "1 to 10000; default 1000"),
    ),
    responses(
        (status = 200, body = ChannelView),
        (status = 400, description = "invalid-parameter"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn listen(call: Call<ProduceOrWork, ResultsState, WithQuery>) -> Reply {
    let name = call.path("name");
    let mut params = call.params(&["after", "wait_seconds", "limit"]);
    let after = params.parsed::<i64>("after");
    let wait = params
        .seconds("wait_seconds", check::MAX_WAIT)
        .unwrap_or_default();
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    params.finish()?;
    check::name("name", &name)?;
    let wait = wait.min(call.context().max_wait);
    let channels = BTreeMap::from([(name, after)]);
    let mut pages = heard(&call, channels, limit, wait).await?;
    match pages.pop_first() {
        Some((_, page)) => ok(&ChannelView::from(page)),
        None => Err(Problem::internal("a channel has no answer")),
    }
}

/// Listen to channels
///
/// Up to 100 at once: the answer comes as soon as one of them has a message, and names all of them.
#[utoipa::path(post, path = "/v1/channels/read", tag = "results", operation_id = "read_channels",
    request_body = ReadBody,
    responses(
        (status = 200, body = ChannelListView),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn read(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let body: ReadBody = call.json(payload).await?;
    check::count("channels", body.channels.len(), MAX_CHANNELS)?;
    body.channels
        .keys()
        .try_for_each(|name| check::name("channels", name))?;
    let wait = check::wait(body.wait_seconds, call.context().max_wait)?;
    let limit = body.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(check::invalid("limit", format!("must be 1 to {MAX_LIMIT}")));
    }
    let pages = heard(&call, body.channels, limit, wait).await?;
    ok(&ChannelListView {
        channels: pages
            .into_iter()
            .map(|(name, page)| (name, page.into()))
            .collect(),
    })
}

/// Also when the server stops: then without a wait.
async fn heard<Q>(
    call: &Call<ProduceOrWork, ResultsState, Q>,
    channels: BTreeMap<String, Option<i64>>,
    limit: usize,
    wait: Duration,
) -> Result<BTreeMap<String, ChannelPage>, Problem> {
    let stopping = call.context().stopping.clone();
    call.run(move |state| async move {
        tokio::select! {
            heard = state.results.listen(&channels, limit, wait) => heard,
            () = stopping.cancelled(), if !wait.is_zero() => {
                state.results.listen(&channels, limit, Duration::ZERO).await
            }
        }
    })
    .await
}
