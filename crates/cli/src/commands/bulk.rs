//! Operations that may take several calls: asked for again, under one key, until they are finished.

use holdfast_jobs::JobId;
use holdfast_jobs::bulk::Done;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

/// What a call answers, as the API words it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) operation: Option<String>,
    pub(crate) affected: u64,
    #[serde(default)]
    pub(crate) skipped: u64,
    pub(crate) finished: bool,
}

impl From<&Done> for Answer {
    fn from(done: &Done) -> Self {
        Self {
            operation: done.operation.map(|id| id.to_string()),
            affected: done.affected,
            skipped: done.skipped,
            finished: done.finished,
        }
    }
}

/// A key that nobody else has.
pub(crate) fn fresh_key() -> String {
    format!("cli-{}", JobId::generate())
}

/// Repeats `call` under one key until it is finished.
pub(crate) async fn until_finished(
    mut call: impl AsyncFnMut(&str) -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    let key = fresh_key();
    loop {
        let answer = call(&key).await?;
        if answer.finished || answer.operation.is_none() {
            return Ok(answer);
        }
        eprintln!("{} so far", answer.affected);
    }
}

/// One call of an API.
pub(crate) async fn post(api: &Api, path: &[&str], body: &Value, key: &str) -> Result<Answer, Failure> {
    let answer = api.post_json(path, body, Some(key)).await?;
    Answer::deserialize(answer).map_err(|error| Failure::no(format!("the answer is of no use: {error}")))
}

/// One look of an API at what an operation would do.
pub(crate) async fn preview(api: &Api, path: &[&str], mut body: Value) -> Result<Value, Failure> {
    body["dry_run"] = json!(true);
    Ok(api.post_json(path, &body, None).await?)
}

pub(crate) fn print(answer: &Answer, done: &str, output: OutputArgs) -> Result<(), Failure> {
    output.print(answer, || match answer.skipped {
        0 => format!("{done} {}", answer.affected),
        skipped => format!("{done} {}, skipped {skipped}", answer.affected),
    })?;
    if answer.affected == 0 {
        return Err(Failure::no("nothing matches"));
    }
    Ok(())
}

pub(crate) fn print_preview(document: &Value, output: OutputArgs) -> Result<(), Failure> {
    output.print(document, || {
        format!("{} match; nothing was changed", document["matched"])
    })
}
