//! A reader of well-formed JSON that knows where in the text each value is. It never recurses by itself.

/// A place in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn skip_space(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
            .count();
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Passes one byte, whatever it is.
    pub(super) fn pass(&mut self) {
        self.at += 1;
    }

    /// The string that begins here, with its quotation marks.
    pub(super) fn string(&mut self) -> &'t str {
        let (start, bytes) = (self.at, self.text.as_bytes());
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if *byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(bytes.len());
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Passes the value that begins here.
    pub(super) fn skip_value(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                None => return,
                Some(b'"') => {
                    self.string();
                }
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.pass();
                }
                Some(b'}' | b']') => {
                    depth = depth.saturating_sub(1);
                    self.pass();
                }
                Some(b',' | b':') => self.pass(),
                Some(_) => self.skip_scalar(),
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Passes a number, `true`, `false` or `null`; at least one byte.
    pub(super) fn skip_scalar(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| {
            matches!(
                byte,
                b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r' | b'"'
            )
        };
        self.at += rest.iter().position(ends).unwrap_or(rest.len()).max(1);
    }
}

/// What a string of JSON says; half a surrogate pair stays as it is written.
pub(super) fn said(token: &str) -> String {
    serde_json::from_str(token).unwrap_or_else(|_| token.trim_matches('"').to_owned())
}
