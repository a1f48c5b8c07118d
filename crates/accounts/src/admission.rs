//! Which clients a server may serve. With an API key in the database or the settings: clients that present one. Without a key: this
//! machine alone; in production the server does not start.

use holdfast_core::config::Settings;
use holdfast_http::server::Reach;
use secrecy::ExposeSecret;

use crate::keys::ApiKeys;

/// A bootstrap key below this length, in characters, can be guessed.
const SAFE_KEY: usize = 16;

/// Why a production server does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error(
        "a production server does not start without an API key: set HOLDFAST_API_KEY to a long random text \
         (openssl rand -hex 32), or make a key with `holdfast keys create`"
    )]
    NoKey,
    #[error(
        "HOLDFAST_API_KEY has fewer than {SAFE_KEY} characters, which can be guessed: set it to a long random text \
         (openssl rand -hex 32)"
    )]
    ShortKey,
}

/// Which clients a server may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Where it may listen.
    pub reach: Reach,
    /// There is no key: it serves this machine until there is one.
    pub is_keyless: bool,
}

/// Decides it. The database need not be available: in production every request is then refused until it is.
///
/// # Errors
/// In production: there is no key, or the bootstrap key is short.
pub async fn admit(settings: &Settings, keys: &ApiKeys) -> Result<Admission, AdmissionError> {
    refuse_short_key(settings)?;
    let reach = reach(settings, keys).await?;
    Ok(Admission {
        reach: narrowed_reach(settings, reach),
        is_keyless: reach == Reach::Loopback,
    })
}

fn refuse_short_key(settings: &Settings) -> Result<(), AdmissionError> {
    let key = settings.server.api_key.as_ref();
    let is_short = key.is_some_and(|key| key.expose_secret().chars().count() < SAFE_KEY);
    if is_short && settings.is_production() {
        return Err(AdmissionError::ShortKey);
    }
    Ok(())
}

/// Loopback alone, on a platform where the environment was not set: see `holdfast_core::config`.
fn narrowed_reach(settings: &Settings, reach: Reach) -> Reach {
    if settings.report_undeclared_platform() {
        Reach::Loopback
    } else {
        reach
    }
}

async fn reach(settings: &Settings, keys: &ApiKeys) -> Result<Reach, AdmissionError> {
    let any = keys.any().await;
    match (any, settings.is_production()) {
        (Ok(true), _) => Ok(Reach::Configured),
        (Ok(false), true) => Err(AdmissionError::NoKey),
        (Err(error), true) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "whether API keys exist cannot be read yet: until it can, every request is refused"
            );
            Ok(Reach::Configured)
        }
        (any, false) => {
            if let Err(error) = any {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "API keys cannot be read yet"
                );
            }
            tracing::warn!(
                "there is no API key: only this machine is served; set HOLDFAST_API_KEY, or make a key with \
                 `holdfast keys create` and start again, to serve others"
            );
            Ok(Reach::Loopback)
        }
    }
}
