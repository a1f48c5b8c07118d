//! What the Railway CLI prints, as far as it is read: CLI 5.43. Anything more is ignored.

use serde::Deserialize;
use serde_json::Value;

/// Longest log line shown.
const SHOWN_LINE_CHARS: usize = 500;

/// A GraphQL connection, as the CLI passes it on.
#[derive(Debug, Deserialize)]
pub(crate) struct Edges<T> {
    edges: Vec<Edge<T>>,
}

#[derive(Debug, Deserialize)]
struct Edge<T> {
    node: T,
}

impl<T> Edges<T> {
    pub(crate) fn nodes(self) -> impl Iterator<Item = T> {
        self.edges.into_iter().map(|edge| edge.node)
    }
}

/// `railway status --json --environment …`
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) environments: Edges<Environment>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Environment {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) service_instances: Edges<Instance>,
}

/// A service in an environment.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) service_name: String,
    #[serde(default)]
    pub(crate) latest_deployment: Option<Deployment>,
    #[serde(default)]
    pub(crate) active_deployments: Vec<Deployment>,
    #[serde(default)]
    pub(crate) domains: Option<Domains>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Domains {
    pub(crate) custom_domains: Vec<Domain>,
    pub(crate) service_domains: Vec<Domain>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Domain {
    pub(crate) domain: String,
}

/// `railway deployment list --json`: newest first.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) status: String,
}

/// `railway up --detach --json`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StartedDeployment {
    pub(crate) deployment_id: String,
}

/// `railway config plan --json`
#[derive(Debug, Deserialize)]
pub(crate) struct ProjectPlan {
    #[serde(default, alias = "changeSet")]
    pub(crate) change_set: Option<Changes>,
    #[serde(default)]
    pub(crate) changes: Vec<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Changes {
    #[serde(default)]
    pub(crate) changes: Vec<Value>,
}

impl ProjectPlan {
    /// One line for each change, in Railway's own words, which name variables and never show their values.
    pub(crate) fn lines(&self) -> Vec<String> {
        let changes = self.change_set.as_ref().map_or(&self.changes, |set| &set.changes);
        changes.iter().map(line_of).collect()
    }
}

fn line_of(change: &Value) -> String {
    let word = |name: &str| change.get(name).and_then(Value::as_str).unwrap_or_default();
    let what = match word("summary") {
        "" => format!("{} {}", word("kind"), word("address")),
        summary => summary.to_owned(),
    };
    if word("severity") == "destructive" {
        return format!("{what} (DESTRUCTIVE)");
    }
    what
}

/// `railway api 'mutation … deploymentRollback'`
#[derive(Debug, Deserialize)]
pub(crate) struct RolledBack {
    pub(crate) data: RolledBackData,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RolledBackData {
    pub(crate) deployment_rollback: bool,
}

/// The last messages of `railway logs --json`, a JSON object a line; a line that is none is shown as it is.
pub(crate) fn log_lines(text: &str, most: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.len().saturating_sub(most);
    lines[last..].iter().map(|line| log_line(line)).collect()
}

fn log_line(line: &str) -> String {
    let parsed = serde_json::from_str::<Value>(line).ok();
    let field = |name: &str| parsed.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let text = match (field("level"), field("message")) {
        (Some(level), Some(message)) => format!("{level:<5} {message}"),
        (None, Some(message)) => message,
        _ => line.to_owned(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_LINE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_lines_are_shown_without_control_characters() {
        let text = "{\"message\":\"one\",\"level\":\"info\"}\n\n{\"message\":\"t\\u001bwo\"}\nplain\n";
        assert_eq!(log_lines(text, 2), ["t wo", "plain"]);
        assert_eq!(log_lines(text, 9)[0], "info  one");
    }
}
