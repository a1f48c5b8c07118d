//! The types of problems of signing keys.

/// The types of problems of this product alone.
#[derive(Debug)]
pub struct SigningKeyProblem;

holdfast_http::problems!(SigningKeyProblem {
    SigningKeyNotFound = NOT_FOUND "signing-key-not-found", "There is no such signing key",
        "Create it first.";
    SigningKeyExists = CONFLICT "signing-key-exists", "The installation has a signing key",
        "Use the existing key, or rotate it.";
});
