//! The example of the README.

use crate::application::Application;

#[tokio::test]
async fn the_application_of_the_readme_runs_a_job_of_its_kind() {
    let application = Application::example("send_invite");
    let running = application.start(&[], &[]).await;
    let (status, accepted) = running.invite("ada@example.org").await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(accepted["queue"], "invites");
    let job = running.finished(&accepted["id"]).await;
    assert_eq!(job["state"], "completed", "{job}");
    let log = running.stop().await;
    assert_eq!(log.matches("attempt 1 for ada@example.org").count(), 1, "{log}");
}
