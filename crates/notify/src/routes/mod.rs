//! The routes of this crate.

mod confirm;
mod mail;
mod notifications;
mod preferences;
mod unsubscribe;
mod webhook_deliveries;
mod webhooks;

holdfast_http::routes! {
    /// Webhooks, notifications, mail and preferences. Their state is [`NotifyState`](crate::NotifyState).
    pub ROUTES:
    "/v1/users/{id}/preferences" => { GET preferences::show, PUT preferences::put }
    "/v1/webhooks" => { GET webhooks::list, POST webhooks::create }
    "/v1/webhooks/{id}" => { GET webhooks::show, PUT webhooks::put, DELETE webhooks::delete }
    "/v1/webhooks/{id}/rotate" => { POST webhooks::rotate }
    "/v1/webhooks/{id}/test" => { POST webhooks::test }
    "/v1/webhooks/{id}/deliveries" => { GET webhook_deliveries::list }
    "/v1/notifications" => { POST notifications::publish }
    "/v1/mail-templates" => { GET mail::list_templates }
    "/v1/mail-templates/{name}" => { GET mail::show_template, PUT mail::put_template, DELETE mail::delete_template }
    "/v1/mail-suppressions" => { GET mail::list_suppressions, POST mail::suppress }
    "/v1/mail-suppressions/release" => { POST mail::release }
    "/v1/confirm-address/{token}" => { GET confirm::ask, POST confirm::confirm }
    "/v1/unsubscribe/{token}" => { GET unsubscribe::ask, POST unsubscribe::unsubscribe }
}
