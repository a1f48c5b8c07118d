//! The slots of a cluster: which keys share one, and the key that a command is about.

use redis::{Arg, Cmd};

/// Slots of every cluster.
pub(super) const SLOTS: usize = 16_384;

/// Commands that are about no key, among those that this workspace sends.
const KEYLESS: [&[u8]; 17] = [
    b"ACL", b"ASKING", b"CLIENT", b"CLUSTER", b"COMMAND", b"CONFIG", b"DBSIZE", b"ECHO", b"INFO", b"LATENCY",
    b"PING", b"PUBLISH", b"ROLE", b"SCAN", b"SCRIPT", b"TIME", b"WAIT",
];

/// Commands whose keys follow their number.
const COUNTED: [&[u8]; 4] = [b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO"];

/// The slot of a key: of what stands between its first braces, or else of all of it.
pub(super) fn slot_of_key(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS as u16
}

/// The slot of the first key of a command; `None` if it has none.
pub(super) fn slot_of(command: &Cmd) -> Option<u16> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => &b"0"[..],
    });
    let name = arguments.next()?;
    let named = |names: &[&[u8]]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if named(&KEYLESS) {
        return None;
    }
    if named(&COUNTED) {
        let count = arguments.nth(1)?;
        return (count != b"0").then(|| arguments.next().map(slot_of_key))?;
    }
    arguments.next().map(slot_of_key)
}

pub(super) fn is_named(command: &Cmd, name: &str) -> bool {
    let first = command.args_iter().next();
    matches!(first, Some(Arg::Simple(bytes)) if bytes.eq_ignore_ascii_case(name.as_bytes()))
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let from = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[from..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[from..from + length])
}

/// CRC-16/XMODEM, as the specification of Redis Cluster wants it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the specification, and of `CLUSTER KEYSLOT` of a real server.
    #[test]
    fn keys_have_the_slots_that_the_server_gives_them() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of_key(b"foo"), 12_182);
        assert_eq!(slot_of_key(b"bar"), 5_061);
        assert_eq!(slot_of_key(b"{foo}:anything{bar}"), 12_182);
        assert_eq!(slot_of_key(b"foo{}bar"), crc16(b"foo{}bar") % 16_384);
        assert_eq!(slot_of_key(b"foo{bar"), crc16(b"foo{bar") % 16_384);
        assert_eq!(slot_of_key(b"{{bar}}"), crc16(b"{bar") % 16_384);
    }

    #[test]
    fn a_command_has_the_slot_of_its_first_key() {
        let command = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            slot_of(&command)
        };
        assert_eq!(command(&["GET", "foo"]), Some(12_182));
        assert_eq!(command(&["BLPOP", "foo", "bar", "2"]), Some(12_182));
        assert_eq!(
            command(&["EVALSHA", "hash", "2", "foo", "bar", "x"]),
            Some(12_182)
        );
        assert_eq!(command(&["evalsha", "hash", "0", "foo"]), None);
        for keyless in [
            &["PUBLISH", "foo", "x"][..],
            &["ping"],
            &["CONFIG", "GET", "save"],
        ] {
            assert_eq!(command(keyless), None, "{keyless:?}");
        }
    }
}
