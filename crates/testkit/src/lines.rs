//! What a child has printed: kept, bounded, waited upon.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::watch;

/// The last lines that are kept.
const KEPT: usize = 20_000;
/// What is kept of one line.
const LINE_LIMIT: usize = 16 * 1024;

/// Where a line was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A log that grows while its readers run.
#[derive(Debug, Clone)]
pub(crate) struct LineLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<LineBuffer>,
    /// How many lines have come, and how many sources have not ended yet.
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct LineBuffer {
    /// In the order in which they were read, which between the streams is not that of printing.
    lines: VecDeque<(Stream, String)>,
    /// The number of the first line that is kept.
    first: usize,
}

#[derive(Debug, Clone, Copy)]
struct State {
    lines: usize,
    sources: usize,
}

impl LineLog {
    /// An empty log that `sources` readers will feed.
    pub(crate) fn new(sources: usize) -> Self {
        let state = watch::Sender::new(State { lines: 0, sources });
        Self(Arc::new(Inner {
            kept: Mutex::default(),
            state,
        }))
    }

    /// Reads lines from `source` on a thread of its own until it ends. Threads, so that a child can always
    /// print, whatever the test's runtime does.
    pub(crate) fn feed(
        &self,
        name: String,
        stream: Stream,
        source: impl Read + Send + 'static,
    ) -> Result<()> {
        let log = self.clone();
        std::thread::Builder::new().name(name).spawn(move || {
            log.read_all(stream, BufReader::new(source));
            log.0.state.send_modify(|state| state.sources -= 1);
        })?;
        Ok(())
    }

    /// How many lines have come so far: the position from which [`Self::wait_for`] looks at newer ones only.
    pub(crate) fn len(&self) -> usize {
        self.0.state.borrow().lines
    }

    /// All lines that are kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.select(|_| true)
    }

    /// The lines of one stream that are kept.
    pub(crate) fn lines_of(&self, stream: Stream) -> Vec<String> {
        self.select(|of| of == stream)
    }

    fn select(&self, is_wanted: impl Fn(Stream) -> bool) -> Vec<String> {
        let kept = self.0.kept.lock().unwrap();
        let wanted = kept.lines.iter().filter(|(stream, _)| is_wanted(*stream));
        wanted.map(|(_, line)| line.clone()).collect()
    }

    /// Waits until every source has ended.
    pub(crate) async fn wait_end(&self, deadline: Duration) -> Result<()> {
        let mut state = self.0.state.subscribe();
        let ended = tokio::time::timeout(deadline, state.wait_for(|state| state.sources == 0)).await;
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(anyhow!(
                "the output did not end in {deadline:?}; the last lines:\n{}",
                self.tail(40)
            )),
        }
    }

    /// The last `count` lines as one text.
    pub(crate) fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// The first value that `pick` finds in a line from number `from` on, those printed already included.
    pub(crate) async fn wait_for<T>(
        &self,
        from: usize,
        deadline: Duration,
        what: &str,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let mut state = self.0.state.subscribe();
        let mut next = from;
        let search = async {
            loop {
                let seen = *state.borrow_and_update();
                if let Some(found) = self.find(&mut next, &pick) {
                    return Ok(found);
                }
                if seen.sources == 0 {
                    return Err("the output ended");
                }
                if state.changed().await.is_err() {
                    return Err("the log ended");
                }
            }
        };
        let found = tokio::time::timeout(deadline, search)
            .await
            .unwrap_or(Err("the deadline passed"));
        found.map_err(|why| anyhow!("{why} without {what}; the last lines:\n{}", self.tail(40)))
    }

    fn find<T>(&self, next: &mut usize, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        let kept = self.0.kept.lock().unwrap();
        let skipped = next.saturating_sub(kept.first);
        let found = kept.lines.iter().skip(skipped).find_map(|(_, line)| pick(line));
        *next = kept.first + kept.lines.len();
        found
    }

    fn read_all(&self, stream: Stream, mut source: impl BufRead) {
        let mut line = Vec::new();
        loop {
            line.clear();
            // A pipe that breaks has ended.
            if read_line(&mut source, &mut line).unwrap_or(0) == 0 {
                return;
            }
            self.push(
                stream,
                String::from_utf8_lossy(line.trim_ascii_end()).into_owned(),
            );
        }
    }

    fn push(&self, stream: Stream, line: String) {
        let mut kept = self.0.kept.lock().unwrap();
        if kept.lines.len() == KEPT {
            kept.lines.pop_front();
            kept.first += 1;
        }
        kept.lines.push_back((stream, line));
        self.0.state.send_modify(|state| state.lines += 1);
    }
}

/// Reads a whole line but keeps only its beginning; returns its length, 0 at the end of the stream.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut length = 0;
    loop {
        let buffer = source.fill_buf()?;
        if buffer.is_empty() {
            return Ok(length);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let used = end.unwrap_or(buffer.len());
        let room = LINE_LIMIT.saturating_sub(line.len());
        line.extend_from_slice(&buffer[..used.min(room)]);
        source.consume(used);
        length += used;
        if end.is_some() {
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn fed(text: String) -> LineLog {
        let log = LineLog::new(1);
        log.feed("source".to_owned(), Stream::Stdout, std::io::Cursor::new(text))
            .unwrap();
        log
    }

    #[tokio::test]
    async fn finds_a_line_that_was_printed_before_or_after_the_wait_began() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let log = LineLog::new(1);
        log.feed("source".to_owned(), Stream::Stdout, reader).unwrap();
        let text = |line: &str| line.starts_with('b').then(|| line.to_owned());
        let later = tokio::spawn({
            let log = log.clone();
            async move { log.wait_for(0, SOON, "b", text).await }
        });
        std::io::Write::write_all(&mut writer, b"a\nb1\nb2\n").unwrap();
        assert_eq!(later.await.unwrap().unwrap(), "b1");
        assert_eq!(log.wait_for(2, SOON, "b", text).await.unwrap(), "b2");
    }

    #[tokio::test]
    async fn the_end_of_the_output_ends_a_wait_at_once() {
        let log = fed("only\n".to_owned());
        let error = log
            .wait_for(0, Duration::from_hours(1), "more", |_| None::<()>)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the output ended without more; the last lines:\nonly"
        );
    }

    #[tokio::test]
    async fn keeps_the_newest_lines_and_the_beginning_of_long_ones() {
        let long = "x".repeat(LINE_LIMIT + 1);
        let text: String = (0..=KEPT)
            .map(|number| format!("{number}\n"))
            .chain([long])
            .collect();
        let log = fed(text);
        let last = log
            .wait_for(0, SOON, "x", |line| line.starts_with('x').then_some(line.len()))
            .await
            .unwrap();
        assert_eq!((last, log.len()), (LINE_LIMIT, KEPT + 2));
        assert_eq!(log.lines()[0], "2");
    }
}
