//! Finds where RESP frames end in a byte stream that arrives in pieces, without keeping the bytes.

/// What kind of frame has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A command, or a reply to one.
    Ordinary,
    /// A RESP3 push: sent by the server unasked, the reply to nothing.
    Push,
}

/// Incremental: feed it every byte once, in order.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Commands may also be given inline, as a bare line.
    inline_allowed: bool,
    /// Elements still missing from the current frame; 0 between frames.
    missing: u64,
    /// Bytes of a bulk string (and its line end) still to pass over.
    skip: u64,
    /// The current header line so far, without its line end.
    line: Vec<u8>,
    frame: Frame,
}

impl Scanner {
    /// For the direction from client to server.
    pub(crate) fn commands() -> Self {
        Self {
            inline_allowed: true,
            ..Self::replies()
        }
    }

    /// For the direction from server to client.
    pub(crate) fn replies() -> Self {
        Self {
            inline_allowed: false,
            missing: 0,
            skip: 0,
            line: Vec::new(),
            frame: Frame::Ordinary,
        }
    }

    /// Scans `bytes` up to the end of the current frame: its length in `bytes`, or None if all of them belong
    /// to a frame that goes on.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Option<(usize, Frame)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip > 0 {
                let passed = self.skip.min((bytes.len() - at) as u64);
                self.skip -= passed;
                at += passed as usize;
                if self.skip == 0 {
                    self.missing -= 1;
                }
            } else {
                let byte = bytes[at];
                at += 1;
                if byte == b'\n' {
                    self.header_ended();
                } else {
                    self.line.push(byte);
                    continue;
                }
            }
            if self.missing == 0 && self.skip == 0 {
                return Some((at, std::mem::replace(&mut self.frame, Frame::Ordinary)));
            }
        }
        None
    }

    /// Accounts for one complete header line.
    fn header_ended(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let (kind, count) = match line.split_first() {
            Some((kind, rest)) => (
                *kind,
                std::str::from_utf8(rest)
                    .ok()
                    .and_then(|rest| rest.parse::<i64>().ok()),
            ),
            None => (b' ', None),
        };
        if self.missing == 0 {
            self.missing = 1;
            if kind == b'>' {
                self.frame = Frame::Push;
            }
            if self.inline_allowed && kind != b'*' {
                self.missing = 0;
                return;
            }
        }
        let count = count.map_or(0, |count| count.max(0) as u64);
        match kind {
            b'$' | b'=' | b'!' if line.get(1) != Some(&b'-') => self.skip = count + 2,
            b'*' | b'~' | b'>' => self.missing = self.missing - 1 + count,
            b'%' => self.missing = self.missing - 1 + 2 * count,
            // An attribute precedes the element it describes, so it does not count as one.
            b'|' => self.missing += 2 * count,
            _ => self.missing -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames' lengths, fed in pieces of `step` bytes.
    fn lengths(mut scanner: Scanner, bytes: &[u8], step: usize) -> Vec<(usize, Frame)> {
        let (mut found, mut length) = (Vec::new(), 0);
        for mut piece in bytes.chunks(step) {
            while let Some((end, frame)) = scanner.scan(piece) {
                found.push((length + end, frame));
                length = 0;
                piece = &piece[end..];
            }
            length += piece.len();
        }
        found
    }

    #[test]
    fn finds_every_frame_however_the_bytes_arrive() {
        let frames: [(&[u8], Frame); 6] = [
            (b"+OK\r\n", Frame::Ordinary),
            (
                b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n",
                Frame::Ordinary,
            ),
            (b">2\r\n+message\r\n:1\r\n", Frame::Push),
            (b"*2\r\n*1\r\n$-1\r\n%1\r\n+a\r\n:2\r\n", Frame::Ordinary),
            (b"*0\r\n", Frame::Ordinary),
            (b"|1\r\n+ttl\r\n:9\r\n:7\r\n", Frame::Ordinary),
        ];
        let stream: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
        let expected: Vec<(usize, Frame)> = frames
            .iter()
            .map(|(bytes, frame)| (bytes.len(), *frame))
            .collect();
        for step in 1..=stream.len() {
            assert_eq!(
                lengths(Scanner::replies(), &stream, step),
                expected,
                "in pieces of {step}"
            );
        }
    }

    #[test]
    fn an_inline_command_is_a_frame_only_for_commands() {
        let expected = vec![(6, Frame::Ordinary), (14, Frame::Ordinary)];
        assert_eq!(
            lengths(Scanner::commands(), b"PING\r\n*1\r\n$4\r\nPING\r\n", 3),
            expected
        );
    }
}
