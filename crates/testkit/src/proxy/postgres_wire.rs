//! Message boundaries of PostgreSQL's protocol 3, in both directions.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>. Encryption is not followed: the
//! test servers answer `N` to the request for it.

/// Codes in place of a protocol version in the first message.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// The bytes of a length field, which counts itself.
const LENGTH_FIELD: usize = 4;

/// What a complete message from the client means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The server will answer everything up to here with a `ReadyForQuery`.
    Request,
    /// The server will answer with a single byte.
    EncryptionRequest,
    Other,
}

/// Incremental: feed it every byte once, in order.
#[derive(Debug, Default)]
struct Splitter {
    header: Vec<u8>,
    body_left: usize,
}

impl Splitter {
    /// The length in `bytes` and the header of the message that ends there, the first `header_length` bytes
    /// being its header; None if it goes on.
    fn scan(&mut self, bytes: &[u8], header_length: usize) -> Option<(usize, Vec<u8>)> {
        let mut at = 0;
        if self.header.len() < header_length {
            at = (header_length - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..at]);
            if self.header.len() < header_length {
                return None;
            }
            // The length field follows the type byte, which the first message of a client has not.
            let offset = usize::from(header_length == 1 + LENGTH_FIELD);
            let length = big_endian(&self.header[offset..offset + LENGTH_FIELD]) as usize;
            self.body_left = (length + offset).saturating_sub(header_length);
        }
        let passed = self.body_left.min(bytes.len() - at);
        self.body_left -= passed;
        (self.body_left == 0).then(|| (at + passed, std::mem::take(&mut self.header)))
    }
}

/// From client to server.
#[derive(Debug, Default)]
pub(super) struct Frontend {
    splitter: Splitter,
    started: bool,
}

impl Frontend {
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<(usize, Message)> {
        if self.started {
            let (length, header) = self.splitter.scan(bytes, 1 + LENGTH_FIELD)?;
            // Query, Sync, FunctionCall.
            let is_request = matches!(header[0], b'Q' | b'S' | b'F');
            return Some((
                length,
                if is_request {
                    Message::Request
                } else {
                    Message::Other
                },
            ));
        }
        let (length, header) = self.splitter.scan(bytes, 2 * LENGTH_FIELD)?;
        let message = match big_endian(&header[LENGTH_FIELD..]) {
            SSL_REQUEST | GSS_REQUEST => Message::EncryptionRequest,
            CANCEL_REQUEST => Message::Other,
            _ => {
                self.started = true;
                Message::Request
            }
        };
        Some((length, message))
    }
}

/// From server to client.
#[derive(Debug, Default)]
pub(super) struct Backend {
    splitter: Splitter,
    single_bytes: usize,
}

impl Backend {
    pub(super) fn expect_encryption_answer(&mut self) {
        self.single_bytes += 1;
    }

    /// The length in `bytes` of the current message, and whether it is the `ReadyForQuery` that ends a reply.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        if self.single_bytes > 0 {
            self.single_bytes -= 1;
            return Some((1, false));
        }
        let (length, header) = self.splitter.scan(bytes, 1 + LENGTH_FIELD)?;
        Some((length, header[0] == b'Z'))
    }
}

fn big_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_session_byte_by_byte() {
        let mut session = Vec::new();
        session.extend_from_slice(&[0, 0, 0, 8, 4, 210, 22, 47]);
        session.extend_from_slice(&[0, 0, 0, 10, 0, 3, 0, 0, b'u', 0]);
        session.extend_from_slice(b"P\0\0\0\x06ab");
        session.extend_from_slice(b"S\0\0\0\x04");
        session.extend_from_slice(b"Q\0\0\0\x06x\0");
        let (mut frontend, mut messages) = (Frontend::default(), Vec::new());
        for byte in session {
            messages.extend(frontend.scan(&[byte]).map(|(_, message)| message));
        }
        let expected = [
            Message::EncryptionRequest,
            Message::Request,
            Message::Other,
            Message::Request,
            Message::Request,
        ];
        assert_eq!(messages, expected);
    }

    #[test]
    fn only_ready_for_query_ends_a_reply() {
        let mut backend = Backend::default();
        backend.expect_encryption_answer();
        let stream = b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        assert_eq!(backend.scan(stream), Some((1, false)));
        assert_eq!(backend.scan(&stream[1..]), Some((9, false)));
        assert_eq!(backend.scan(&stream[10..]), Some((6, true)));
    }
}
