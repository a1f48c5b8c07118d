//! JSON lines on stdout: `{"type": "sample", …}`, `{"type": "alert" | "reminder" | "recovery", …}`, at last
//! `{"type": "end", …}`.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use super::alerts::Notice;
use super::{Show, Watch};
use crate::failure::Failure;

#[derive(Debug)]
pub(super) struct Lines;

impl Show for Lines {
    fn show(&mut self, watch: &Watch, news: &[Notice]) -> Result<(), Failure> {
        if let Some(sample) = watch.history.last() {
            print(&tagged("sample", sample)?)?;
        }
        for notice in news {
            let mut line = serde_json::to_value(notice).map_err(io::Error::from)?;
            line["summary"] = Value::from(notice.summary());
            print(&line)?;
        }
        Ok(())
    }

    fn end(&mut self, watch: &Watch) -> Result<(), Failure> {
        let firing: Vec<&str> = watch.book.firing().map(|(rule, _)| rule.name.as_str()).collect();
        print(&json!({
            "type": "end",
            "samples": watch.history.samples().len(),
            "notices": watch.notices.len(),
            "firing": firing,
        }))
    }
}

fn tagged(word: &str, value: &impl Serialize) -> Result<Value, Failure> {
    let mut line = serde_json::to_value(value).map_err(io::Error::from)?;
    line["type"] = Value::from(word);
    Ok(line)
}

fn print(line: &Value) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
