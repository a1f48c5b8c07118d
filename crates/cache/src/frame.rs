//! What stands on Redis under a key.
//!
//! ```text
//! byte  0      format, 1
//!       1      bits 0-3 codec; bit 6 compressed; bit 7 tombstone
//!       2..10  stamp: random, another with every write
//!      10..18  generation of the namespace
//!      18..26  when it was made, milliseconds since the Unix epoch by the server's clock
//!      26..34  fresh for so many milliseconds from then
//!      34..    the value; if compressed, an LZ4 block behind its length (32 bits, little-endian)
//! ```
//!
//! Numbers are big-endian. A tombstone ends after the stamp. The first ten bytes tell one write from any other: a
//! fill names the ones it has seen, and is refused if others stand there by then.
//!
//! Compression is LZ4 (`lz4_flex`, safe Rust): it halves JSON at more than a GB/s, so a compressed read stays a matter
//! of microseconds. zstd would save another third, at several times the work and with a C library.

use std::time::Duration;

use bytes::Bytes;

const FORMAT: u8 = 1;
const CODEC: u8 = 0x0f;
const COMPRESSED: u8 = 0x40;
const TOMBSTONE: u8 = 0x80;
pub(crate) const STAMPED: usize = 10;
const HEAD: usize = 34;

/// The first bytes under a key, or none where nothing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredStamp(Option<[u8; STAMPED]>);

impl StoredStamp {
    pub(crate) const NOTHING: Self = Self(None);

    pub(crate) fn of(raw: &[u8]) -> Self {
        // Shorter than a head: not ours, and whatever replaces it is longer. It is matched by nothing.
        Self(raw.first_chunk().copied())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes.as_slice())
    }
}

/// A value, as it stands on Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) codec: u8,
    pub(crate) generation: u64,
    pub(crate) made_ms: u64,
    pub(crate) fresh: Duration,
    pub(crate) payload: Bytes,
}

/// What was found under a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Value(Frame),
    Tombstone,
    /// Of another format, or damaged.
    Unknown,
}

impl Frame {
    /// The bytes to write, and the stamp that they carry.
    pub(crate) fn encode(&self, compress_above: usize) -> (Vec<u8>, StoredStamp) {
        let compressed = self.compressed(compress_above);
        let flags = self.codec | if compressed.is_some() { COMPRESSED } else { 0 };
        let payload = compressed.as_deref().unwrap_or(&self.payload);
        let mut raw = Vec::with_capacity(HEAD + payload.len());
        raw.extend_from_slice(&stamped(flags));
        raw.extend_from_slice(&self.generation.to_be_bytes());
        raw.extend_from_slice(&self.made_ms.to_be_bytes());
        raw.extend_from_slice(&millis(self.fresh).to_be_bytes());
        raw.extend_from_slice(payload);
        let seen = StoredStamp::of(&raw);
        (raw, seen)
    }

    fn compressed(&self, above: usize) -> Option<Vec<u8>> {
        if self.payload.len() <= above {
            return None;
        }
        let block = lz4_flex::block::compress_prepend_size(&self.payload);
        (block.len() < self.payload.len()).then_some(block)
    }

    fn decode(raw: &Bytes, max_bytes: usize) -> Option<Self> {
        let flags = *raw.get(1)?;
        let stored = raw.get(HEAD..).map(|_| raw.slice(HEAD..))?;
        let payload = if flags & COMPRESSED == 0 {
            stored
        } else {
            decompress(&stored, max_bytes)?
        };
        Some(Self {
            codec: flags & CODEC,
            generation: number(raw, 10)?,
            made_ms: number(raw, 18)?,
            fresh: Duration::from_millis(number(raw, 26)?),
            payload,
        })
    }
}

/// What stands here. `max_bytes` bounds what a block may claim to hold.
pub(crate) fn read(raw: &Bytes, max_bytes: usize) -> Content {
    match raw.first_chunk() {
        Some([FORMAT, flags]) if flags & TOMBSTONE != 0 => Content::Tombstone,
        Some([FORMAT, _]) => Frame::decode(raw, max_bytes).map_or(Content::Unknown, Content::Value),
        _ => Content::Unknown,
    }
}

/// What a deletion leaves behind.
pub(crate) fn tombstone() -> [u8; STAMPED] {
    stamped(TOMBSTONE)
}

fn stamped(flags: u8) -> [u8; STAMPED] {
    let mut bytes = [0; STAMPED];
    bytes[0] = FORMAT;
    bytes[1] = flags;
    bytes[2..].copy_from_slice(&rand::random::<u64>().to_be_bytes());
    bytes
}

fn decompress(block: &[u8], max_bytes: usize) -> Option<Bytes> {
    let claimed = u32::from_le_bytes(*block.first_chunk()?) as usize;
    if claimed > max_bytes {
        return None;
    }
    lz4_flex::block::decompress_size_prepended(block)
        .ok()
        .map(Bytes::from)
}

fn number(raw: &[u8], at: usize) -> Option<u64> {
    raw.get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn frame(payload: impl Into<Bytes>) -> Frame {
        Frame {
            codec: 1,
            generation: 7,
            made_ms: 1_700_000_000_000,
            fresh: Duration::from_secs(300),
            payload: payload.into(),
        }
    }

    #[test]
    fn large_values_are_compressed_and_come_back() {
        let value = frame("abcdefgh".repeat(2_000));
        let (raw, seen) = value.encode(4_096);
        assert!(raw.len() < 1_000, "{}", raw.len());
        assert_eq!(seen.as_bytes(), &raw[..STAMPED]);
        assert_eq!(read(&raw.into(), MAX), Content::Value(value));
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let noise: Vec<u8> = (0..8_192).map(|_| rand::random()).collect();
        let value = frame(noise);
        let (raw, _) = value.encode(4_096);
        assert_eq!(raw.len(), HEAD + 8_192);
        assert_eq!(read(&raw.into(), MAX), Content::Value(value));
    }

    #[test]
    fn two_writes_of_one_value_differ_in_their_stamp() {
        let value = frame("x");
        assert_ne!(value.encode(MAX).1, value.encode(MAX).1);
        assert_ne!(tombstone(), tombstone());
    }

    #[test]
    fn a_block_that_claims_too_much_is_not_unpacked() {
        let (raw, _) = frame("a".repeat(100_000)).encode(64);
        assert_eq!(read(&raw.into(), 99_999), Content::Unknown);
    }

    #[test]
    fn a_tombstone_is_told_from_a_value() {
        assert_eq!(
            read(&Bytes::copy_from_slice(&tombstone()), MAX),
            Content::Tombstone
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_without_harm(raw: Vec<u8>) {
            read(&Bytes::from(raw), MAX);
        }

        #[test]
        fn a_damaged_block_is_unknown_or_a_value(cut in 0usize..200, at in 34usize..60, byte: u8) {
            let (mut raw, _) = frame("abc".repeat(1_000)).encode(64);
            let at = at.min(raw.len() - 1);
            raw[at] = byte;
            raw.truncate(raw.len().saturating_sub(cut));
            read(&Bytes::from(raw), MAX);
        }
    }
}
