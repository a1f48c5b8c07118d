//! The one form under which an address is stored, compared and counted.
//!
//! The normal form is NFC in lower case, with the domain as ASCII (IDNA, UTS #46): `gone@bücher.example`, its decomposed
//! spelling and `gone@xn--bcher-kva.example` are one address. The local part keeps its letters: only the receiver's server knows
//! what else they mean.
//!
//! Rows that were written before there was a normal form hold other spellings. Whoever looks for an address looks for all of
//! its [`spellings`].

use lettre::Address;
use lettre::message::Mailbox;
use unicode_normalization::UnicodeNormalization as _;

/// Longest address with its display name, in bytes.
pub const MAX_ADDRESS: usize = 512;

/// Reads an address, or one with a display name, in whichever way its letters are composed.
///
/// # Errors
/// As the type's own parser.
pub fn composed<T: std::str::FromStr>(text: &str) -> Result<T, T::Err> {
    text.nfc().collect::<String>().parse()
}

/// The normal form.
pub fn normalised(address: &Address) -> String {
    let user: String = address.user().nfc().collect::<String>().to_lowercase();
    let domain: String = address.domain().nfc().collect::<String>().to_lowercase();
    let ascii = idna::domain_to_ascii(&domain).unwrap_or(domain);
    // Lower case may decompose (İ).
    let user: String = user.nfc().collect();
    format!("{user}@{ascii}")
}

/// The same mailbox with its domain as ASCII (IDNA), which every mail server takes. A local part outside ASCII stays: only a server with
/// SMTPUTF8 takes it.
pub fn with_ascii_domain(mailbox: Mailbox) -> Mailbox {
    if mailbox.email.domain().is_ascii() {
        return mailbox;
    }
    let domain = idna::domain_to_ascii(mailbox.email.domain()).ok();
    let email = domain.and_then(|domain| Address::new(mailbox.email.user(), domain).ok());
    Mailbox {
        email: email.unwrap_or(mailbox.email),
        name: mailbox.name,
    }
}

/// The normal form first, then the others under which a row may be stored: with the domain in Unicode, and as it was given.
pub fn spellings(address: &Address) -> [String; 3] {
    let normal = normalised(address);
    let (user, domain) = normal.rsplit_once('@').unwrap_or((&normal, ""));
    let (unicode, _) = idna::domain_to_unicode(domain);
    let as_given: &str = address.as_ref();
    [
        normal.clone(),
        format!("{user}@{unicode}"),
        as_given.to_lowercase(),
    ]
}

/// One address, perhaps with a display name.
///
/// # Errors
/// Why no mail could be sent to it.
pub fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.len() > MAX_ADDRESS {
        return Err(format!("is longer than {MAX_ADDRESS} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("holds a line break or another control character".to_owned());
    }
    composed(text)
        .map_err(|error: lettre::address::AddressError| format!("is not a single mail address: {error}"))
}

/// Whether a mail could be sent to it: one address, `ada@example.com` or `Ada <ada@example.com>`.
///
/// # Errors
/// Why not.
pub fn check_address(text: &str) -> Result<(), String> {
    mailbox(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_normal_form() {
        for (spelling, normal) in [
            ("Gone@Bücher.example", "gone@xn--bcher-kva.example"),
            ("gone@bu\u{308}cher.example", "gone@xn--bcher-kva.example"),
            ("gone@XN--BCHER-KVA.example", "gone@xn--bcher-kva.example"),
            ("Re\u{301}ne@example.com", "réne@example.com"),
            ("RÉNE@EXAMPLE.com", "réne@example.com"),
            ("ada@[127.0.0.1]", "ada@[127.0.0.1]"),
        ] {
            assert_eq!(normalised(&composed(spelling).unwrap()), normal, "{spelling:?}");
        }
    }

    #[test]
    fn rows_of_before_are_found_under_their_spellings() {
        let address = "gone@xn--bcher-kva.example".parse().unwrap();
        assert!(spellings(&address).contains(&"gone@bücher.example".to_owned()));
    }
}
