//! Which bytes are which request's reply: what a cut needs to know.
//!
//! Both directions of a connection report here, in the order of the bytes; a request is always seen here
//! before it is forwarded, so its reply cannot come first. Requests and replies are numbered, and the n-th
//! reply answers the n-th request.

use std::sync::Mutex;

use super::Protocol;
use super::postgres_wire::{Backend, Frontend, Message};
use crate::resp::{Frame, Scanner};

/// A request is remembered for the predicates up to this size; what exceeds it is not shown to them.
const REQUEST_LIMIT: usize = 16 * 1024 * 1024;

type Predicate = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Cut the replies to requests that match, so many times.
pub(super) struct CutRule {
    predicate: Predicate,
    left: u64,
}

impl CutRule {
    pub(super) fn new(predicate: Predicate, times: u64) -> Self {
        Self {
            predicate,
            left: times,
        }
    }
}

/// What to do with bytes from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How many of them to deliver; the rest is dropped.
    pub(super) deliver: usize,
    /// The reply to be cut is here, so its request was applied: close the connection once the rest is
    /// delivered.
    pub(super) cut: bool,
}

pub(super) struct Dialogue<'a> {
    rules: &'a Mutex<Vec<CutRule>>,
    state: Mutex<State>,
}

struct State {
    wire: Wire,
    /// The bytes of the request that is being sent.
    request: Vec<u8>,
    requests: u64,
    replies: u64,
    /// The number of the request whose reply is to be cut.
    cut_at: Option<u64>,
}

enum Wire {
    Raw,
    Resp { commands: Scanner, replies: Scanner },
    Postgres { frontend: Frontend, backend: Backend },
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(protocol: Protocol, rules: &'a Mutex<Vec<CutRule>>) -> Self {
        let wire = match protocol {
            Protocol::Raw => Wire::Raw,
            Protocol::Resp => Wire::Resp {
                commands: Scanner::commands(),
                replies: Scanner::replies(),
            },
            Protocol::Postgres => Wire::Postgres {
                frontend: Frontend::default(),
                backend: Backend::default(),
            },
        };
        let state = State {
            wire,
            request: Vec::new(),
            requests: 0,
            replies: 0,
            cut_at: None,
        };
        Self {
            rules,
            state: Mutex::new(state),
        }
    }

    /// Takes note of bytes that are about to be forwarded to the server.
    pub(super) fn client_sent(&self, mut bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        while !bytes.is_empty() {
            let (length, complete) = state.scan_request(bytes);
            let room = REQUEST_LIMIT.saturating_sub(state.request.len());
            state.request.extend_from_slice(&bytes[..length.min(room)]);
            bytes = &bytes[length..];
            if complete {
                let request = std::mem::take(&mut state.request);
                if state.cut_at.is_none() && self.rule_matches(&request) {
                    state.cut_at = Some(state.requests);
                }
                state.requests += 1;
            }
        }
    }

    /// Judges bytes that came from the server.
    pub(super) fn server_sent(&self, bytes: &[u8]) -> Verdict {
        let mut state = self.state.lock().unwrap();
        if matches!(state.wire, Wire::Raw) {
            let cut = state.cut_at.is_some();
            return Verdict {
                deliver: if cut { 0 } else { bytes.len() },
                cut,
            };
        }
        let (mut at, mut deliver) = (0, 0);
        while at < bytes.len() {
            let condemned = state.cut_at == Some(state.replies);
            let (length, is_reply) = state.scan_reply(&bytes[at..]);
            at += length;
            if !condemned {
                deliver = at;
            } else if is_reply {
                return Verdict { deliver, cut: true };
            }
            state.replies += u64::from(is_reply);
        }
        Verdict { deliver, cut: false }
    }

    /// Uses up one cut of the first rule that matches.
    fn rule_matches(&self, request: &[u8]) -> bool {
        let mut rules = self.rules.lock().unwrap();
        let Some(rule) = rules
            .iter_mut()
            .find(|rule| rule.left > 0 && (rule.predicate)(request))
        else {
            return false;
        };
        rule.left -= 1;
        true
    }
}

impl State {
    /// How many of `bytes` belong to the current request, and whether they complete one that will be replied
    /// to.
    fn scan_request(&mut self, bytes: &[u8]) -> (usize, bool) {
        match &mut self.wire {
            Wire::Raw => (bytes.len(), true),
            Wire::Resp { commands, .. } => match commands.scan(bytes) {
                Some((length, _)) => (length, true),
                None => (bytes.len(), false),
            },
            Wire::Postgres { frontend, backend } => match frontend.scan(bytes) {
                Some((length, Message::Request)) => (length, true),
                Some((length, Message::EncryptionRequest)) => {
                    backend.expect_encryption_answer();
                    (length, false)
                }
                Some((length, Message::Other)) => (length, false),
                None => (bytes.len(), false),
            },
        }
    }

    /// How many of `bytes` belong to the current message from the server, and whether they complete a reply.
    fn scan_reply(&mut self, bytes: &[u8]) -> (usize, bool) {
        match &mut self.wire {
            Wire::Raw => (bytes.len(), true),
            Wire::Resp { replies, .. } => match replies.scan(bytes) {
                Some((length, frame)) => (length, frame == Frame::Ordinary),
                None => (bytes.len(), false),
            },
            Wire::Postgres { backend, .. } => match backend.scan(bytes) {
                Some((length, is_reply)) => (length, is_reply),
                None => (bytes.len(), false),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(needle: &'static [u8], times: u64) -> Mutex<Vec<CutRule>> {
        let predicate = Box::new(move |request: &[u8]| crate::bytes_contain(request, needle));
        Mutex::new(vec![CutRule::new(predicate, times)])
    }

    #[test]
    fn in_a_pipeline_only_the_matching_commands_reply_is_cut() {
        let rules = rules(b"SECOND", 1);
        let dialogue = Dialogue::new(Protocol::Resp, &rules);
        dialogue.client_sent(b"*1\r\n$5\r\nFIRST\r\n*1\r\n$6\r\nSEC");
        dialogue.client_sent(b"OND\r\n*1\r\n$5\r\nTHIRD\r\n");
        assert_eq!(
            dialogue.server_sent(b"+1\r\n+"),
            Verdict {
                deliver: 4,
                cut: false
            }
        );
        assert_eq!(
            dialogue.server_sent(b"2\r\n+3\r\n"),
            Verdict {
                deliver: 0,
                cut: true
            }
        );
    }

    #[test]
    fn replies_in_one_packet_with_the_cut_one_are_delivered() {
        let rules = rules(b"SECOND", 1);
        let dialogue = Dialogue::new(Protocol::Resp, &rules);
        dialogue.client_sent(b"*1\r\n$5\r\nFIRST\r\n*1\r\n$6\r\nSECOND\r\n");
        assert_eq!(
            dialogue.server_sent(b"+1\r\n+2\r\n"),
            Verdict {
                deliver: 4,
                cut: true
            }
        );
    }

    #[test]
    fn a_push_message_is_no_reply() {
        let rules = rules(b"GET", 1);
        let dialogue = Dialogue::new(Protocol::Resp, &rules);
        dialogue.client_sent(b"*1\r\n$4\r\nPING\r\n*1\r\n$3\r\nGET\r\n");
        assert_eq!(
            dialogue.server_sent(b">1\r\n+hi\r\n+PONG\r\n"),
            Verdict {
                deliver: 16,
                cut: false
            }
        );
        assert!(dialogue.server_sent(b"$-1\r\n").cut);
    }

    #[test]
    fn a_rule_is_used_up() {
        let rules = rules(b"x", 1);
        for expected in [true, false] {
            let dialogue = Dialogue::new(Protocol::Raw, &rules);
            dialogue.client_sent(b"x");
            assert_eq!(dialogue.server_sent(b"y").cut, expected);
        }
    }
}
