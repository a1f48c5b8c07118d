//! The routes of this crate.

mod keys;
mod sessions;

holdfast_http::routes! {
    /// API keys and sessions. Their state is [`AccountsState`](crate::AccountsState).
    pub ROUTES:
    "/v1/auth/login" => { POST sessions::login }
    "/v1/auth/refresh" => { POST sessions::refresh }
    "/v1/auth/logout" => { POST sessions::logout }
    "/v1/auth/me" => { GET sessions::me }
    "/v1/keys" => { GET keys::list, POST keys::create }
    "/v1/keys/{id}/rotate" => { POST keys::rotate }
    "/v1/keys/{id}/revoke" => { POST keys::revoke }
}
