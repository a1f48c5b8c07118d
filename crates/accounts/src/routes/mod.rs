//! The routes of this crate.

pub(crate) mod keys;
mod sessions;
pub(crate) mod users;

holdfast_http::routes! {
    /// API keys, sessions and users. Their state is [`AccountsState`](crate::AccountsState).
    pub ROUTES:
    "/v1/auth/login" => { POST sessions::login }
    "/v1/auth/refresh" => { POST sessions::refresh }
    "/v1/auth/logout" => { POST sessions::logout }
    "/v1/auth/me" => { GET sessions::me }
    "/v1/keys" => { GET keys::list, POST keys::create }
    "/v1/keys/{id}/rotate" => { POST keys::rotate }
    "/v1/keys/{id}/revoke" => { POST keys::revoke }
    "/v1/users" => { GET users::list, POST users::create }
    "/v1/users/{id}/password" => { PUT users::set_password }
    "/v1/users/{id}/role" => { PUT users::set_role }
    "/v1/users/{id}/enable" => { POST users::enable }
    "/v1/users/{id}/disable" => { POST users::disable }
}
