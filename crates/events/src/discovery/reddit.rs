//! Reddit's API: application-only OAuth (client credentials), listings page by page, and its rate limit.
//!
//! A token is kept in memory for as long as it is good, and fetched anew once if Reddit refuses it. `X-Ratelimit-Remaining`
//! and `X-Ratelimit-Reset` are obeyed by the whole process: when nothing remains, no source asks before the reset.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::fetch::Failure;
use super::source::Definition;
use crate::RedditSettings;
use holdfast_outbound::{Answer, Call, Outbound};

/// Posts of a page: the most that Reddit gives.
const PAGE: &str = "100";

/// A token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(60);

/// Longest rest that the rate limit's reset is believed.
const MAX_REST: Duration = Duration::from_secs(3_600);

pub(super) struct Reddit {
    settings: RedditSettings,
    outbound: Outbound,
    token: Mutex<Option<(SecretString, Instant)>>,
    /// Nobody asks before.
    rest_until: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

impl Reddit {
    pub(super) fn new(settings: RedditSettings, outbound: Outbound) -> Self {
        Self {
            settings,
            outbound,
            token: Mutex::new(None),
            rest_until: Mutex::new(None),
        }
    }

    /// A page of a source's listing; `after` names it.
    pub(super) async fn page(
        &self,
        definition: &Definition,
        after: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        self.respect_rest().await?;
        let url = self.address(definition, after)?;
        for fresh in [false, true] {
            let token = self.token(fresh, timeout).await?;
            let answer = self.ask(url.clone(), &token, timeout).await?;
            self.obey(&answer.headers).await;
            match answer.status {
                StatusCode::OK => return Ok(answer),
                StatusCode::UNAUTHORIZED if !fresh => {}
                StatusCode::UNAUTHORIZED => break,
                _ => return Err(Self::refused(&answer)),
            }
        }
        Err(Failure::new(
            "Reddit refuses the token that it has just given (401)",
        ))
    }

    fn address(&self, definition: &Definition, after: Option<&str>) -> Result<Url, Failure> {
        let subreddit = definition.subreddit.as_deref().unwrap_or_default();
        let listing = definition.listing.unwrap_or_default().name();
        let text = format!(
            "{}/r/{subreddit}/{listing}",
            self.settings.api_url.trim_end_matches('/')
        );
        let mut url =
            Url::parse(&text).map_err(|error| Failure::new(format!("reddit.api_url is invalid: {error}")))?;
        url.query_pairs_mut()
            .append_pair("limit", PAGE)
            .append_pair("raw_json", "1");
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        Ok(url)
    }

    async fn ask(&self, url: Url, token: &SecretString, timeout: Duration) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer(token)?);
        let call = Call {
            method: Method::GET,
            url,
            headers,
            body: None,
            timeout,
            // Their headers count, too.
            accept: vec![
                StatusCode::OK,
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::NOT_FOUND,
            ],
        };
        let asked = self.outbound.send(call).await.map_err(Failure::from);
        if let Err(Failure { rest: Some(rest), .. }) = &asked {
            *self.rest_until.lock().await = Some(Instant::now() + *rest);
        }
        asked
    }

    fn refused(answer: &Answer) -> Failure {
        let reason = match answer.status {
            StatusCode::NOT_FOUND => "there is no such subreddit, or it is banned",
            _ => "the subreddit is private, or closed to applications",
        };
        Failure::new(format!("Reddit answered {}: {reason}", answer.status))
    }

    async fn token(&self, fresh: bool, timeout: Duration) -> Result<SecretString, Failure> {
        // Held while it is fetched: everybody waits for the same one.
        let mut kept = self.token.lock().await;
        if let Some((token, until)) = kept.as_ref()
            && !fresh
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        *kept = None;
        let answer = self.fetch_token(timeout).await?;
        let token = SecretString::from(answer.access_token);
        let life = Duration::from_secs(answer.expires_in).saturating_sub(MARGIN);
        *kept = Some((token.clone(), Instant::now() + life));
        Ok(token)
    }

    async fn fetch_token(&self, timeout: Duration) -> Result<TokenAnswer, Failure> {
        let (Some(id), Some(secret)) = (&self.settings.client_id, &self.settings.client_secret) else {
            return Err(Failure::new(
                "Reddit needs an application: set REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET",
            ));
        };
        let text = format!(
            "{}/api/v1/access_token",
            self.settings.auth_url.trim_end_matches('/')
        );
        let url = Url::parse(&text)
            .map_err(|error| Failure::new(format!("reddit.auth_url is invalid: {error}")))?;
        let credentials = BASE64.encode(format!("{}:{}", id.expose_secret(), secret.expose_secret()));
        let mut basic = HeaderValue::try_from(format!("Basic {credentials}"))
            .map_err(|error| Failure::new(error.to_string()))?;
        basic.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, basic);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let call = Call {
            method: Method::POST,
            url,
            headers,
            body: Some(Bytes::from_static(b"grant_type=client_credentials")),
            timeout,
            accept: vec![StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN],
        };
        let answer = self.outbound.send(call).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::new(format!(
                "Reddit refuses REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET ({})",
                answer.status
            )));
        }
        serde_json::from_slice(&answer.body).map_err(|_| Failure::new("Reddit's answer holds no token"))
    }

    async fn obey(&self, headers: &HeaderMap) {
        let number = |name: &str| -> Option<f64> { headers.get(name)?.to_str().ok()?.trim().parse().ok() };
        let (remaining, reset) = (number("x-ratelimit-remaining"), number("x-ratelimit-reset"));
        if let (Some(remaining), Some(reset)) = (remaining, reset)
            && remaining < 1.0
            && let Ok(rest) = Duration::try_from_secs_f64(reset)
        {
            *self.rest_until.lock().await = Some(Instant::now() + rest.min(MAX_REST));
        }
    }

    async fn respect_rest(&self) -> Result<(), Failure> {
        let until = *self.rest_until.lock().await;
        let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
        match rest.filter(|rest| !rest.is_zero()) {
            None => Ok(()),
            Some(rest) => Err(Failure {
                reason: format!("Reddit's rate limit is used up for {} s more", rest.as_secs() + 1),
                rest: Some(rest),
            }),
        }
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| Failure::new("Reddit's token cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}
