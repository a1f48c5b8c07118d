//! The engine over HTTP: jobs, batches, queues, schedules, dead letters, workers, kinds and the audit log.
//!
//! Each module has its routes and their documents. The documents are the wire format, written and read by the same types, so that a
//! client in Rust (the command line) needs no others.
//!
//! # Invariants
//! A 202 is given after the job is committed (or taken by the broker), never before.

pub mod attempts;
pub mod audit;
pub mod batches;
mod bound;
pub mod bulk;
pub mod dead_letters;
pub mod declarations;
pub mod edit;
pub mod encryption;
pub mod enqueue;
pub mod failures;
pub mod fields;
pub mod job_list;
pub mod job_view;
pub mod jobs;
mod kind_schemas;
pub mod kinds;
pub mod limits;
mod overview;
pub mod pull;
mod queue_filter;
pub mod queue_keys;
pub mod queues;
pub mod scaling;
pub mod schedules;
pub mod standing;
mod state;
pub mod stats;
mod stream;
pub mod workers;

/// The documents of the routes, for clients in Rust.
pub mod wire {
    pub use crate::attempts::{AttemptView, AttemptsView, LogView, LoggedLineView};
    pub use crate::audit::{AuditPage, AuditView};
    pub use crate::batches::{BatchPage, BatchView, CallbackView, CancelledView, ProgressView};
    pub use crate::bulk::{BulkPreview, BulkView, CancelBody, CancelFilterBody, PurgeBody, PurgedView};
    pub use crate::dead_letters::{DeadLetterFilterBody, DeadLetterPage, DeleteBody, RedriveBody};
    pub use crate::declarations::{DeclaredQueue, ForgottenName, KindBody, QueueBody, RetryBody};
    pub use crate::edit::{EditBody, EditedJob};
    pub use crate::encryption::{EncryptionKeyView, EncryptionView, RotateBody, RotatedView, UnreadableView};
    pub use crate::enqueue::{AcceptedJob, JobBody};
    pub use crate::failures::{FailurePage, FailureView};
    pub use crate::fields::{Attempts, Urgency};
    pub use crate::job_list::{JobCount, JobCounts, JobListing, JobPage, JobSummaryPage, SummaryView};
    pub use crate::job_view::{ErrorView, JobView};
    pub use crate::jobs::SteeredJob;
    pub use crate::kinds::{KindList, KindView, PolicyView};
    pub use crate::limits::{LimitedQueue, LimitsBody, LimitsView, Places};
    pub use crate::overview::{
        EventStream, ModeView, OverviewProblem, OverviewQueue, OverviewView, OverviewWorkers, StreamEvent,
    };
    pub use crate::pull::{
        DrainedWorker, FinishBody, FinishedList, HeartbeatAnswer, HeartbeatBody, OutcomeBody, PullBody,
        PulledView, RegisteredWorker, RegistrationBody, WorkerClient,
    };
    pub use crate::queue_keys::{
        KeyOverrideBody, KeyOverrideView, OverriddenKey, QueueKeyView, QueueKeysView,
    };
    pub use crate::queues::{DepthView, QueueList, QueueView, RateView, SteeredQueue, WokenQueue};
    pub use crate::scaling::{FleetScaling, ScalingFigures, ScalingView};
    pub use crate::schedules::{
        BeatList, BeatView, DeletedSchedule, PreviewedTick, ScheduleBody, ScheduleList, SchedulePreview,
        SchedulePreviewRequest, ScheduleRun, ScheduleRuns, ScheduleView,
    };
    pub use crate::standing::{JobStanding, ReasonView, RerunBody};
    pub use crate::stats::{OutageView, PercentileSeries, PercentileView, SeriesView, StatsView, TotalView};
    pub use crate::workers::{WorkerDetail, WorkerJobView, WorkerList, WorkerQueueView, WorkerView};
}

pub use kind_schemas::coded_schemas;
pub use state::{ControlState, Redactor};

holdfast_http::routes! {
    /// The routes of this crate. Their state is [`ControlState`].
    pub ROUTES:
    "/v1/jobs" => { GET job_list::list, POST enqueue::one }
    "/v1/jobs/cancel" => { POST bulk::cancel }
    "/v1/jobs/batch" => { POST enqueue::batch }
    "/v1/jobs/counts" => { GET job_list::counts }
    "/v1/jobs/{id}" => { GET jobs::show, PATCH edit::edit }
    "/v1/jobs/{id}/attempts" => { GET attempts::attempts }
    "/v1/jobs/{id}/log" => { GET attempts::log }
    "/v1/jobs/{id}/cancel" => { POST jobs::cancel }
    "/v1/jobs/{id}/retry" => { POST jobs::retry }
    "/v1/jobs/{id}/rerun" => { POST standing::rerun }
    "/v1/jobs/{id}/why" => { GET standing::why }
    "/v1/batches" => { GET batches::list, POST batches::create }
    "/v1/batches/{id}" => { GET batches::show }
    "/v1/batches/{id}/cancel" => { POST batches::cancel }
    "/v1/kinds" => { GET kinds::list }
    "/v1/kinds/{name}" => { GET declarations::show_kind, PUT declarations::put_kind, DELETE declarations::delete_kind }
    "/v1/queues" => { GET queues::list }
    "/v1/queues/{name}" => { GET queues::show, PUT declarations::put_queue, DELETE declarations::delete_queue }
    "/v1/queues/{name}/pause" => { POST queues::pause }
    "/v1/queues/{name}/resume" => { POST queues::resume }
    "/v1/queues/{name}/ring" => { POST queues::ring }
    "/v1/queues/{name}/purge" => { POST bulk::purge }
    "/v1/queues/{name}/keys" => { GET queue_keys::list }
    "/v1/queues/{name}/keys/{key}" => { PUT queue_keys::put, DELETE queue_keys::delete }
    "/v1/queues/{name}/limits" => { PUT limits::set, DELETE limits::unset }
    "/v1/scaling" => { GET scaling::show }
    "/v1/stats" => { GET stats::show }
    "/v1/stream" => { GET stream::follow }
    "/v1/workers" => { GET workers::list, POST pull::register }
    "/v1/workers/{id}" => { GET workers::show, DELETE pull::delete }
    "/v1/workers/{id}/pull" => { POST pull::pull }
    "/v1/workers/{id}/finish" => { POST pull::finish }
    "/v1/workers/{id}/heartbeat" => { POST pull::heartbeat }
    "/v1/workers/{id}/drain" => { POST pull::drain }
    "/v1/dead-letters" => { GET dead_letters::list }
    "/v1/dead-letters/redrive" => { POST dead_letters::redrive }
    "/v1/dead-letters/delete" => { POST dead_letters::delete }
    "/v1/dead-letters/{id}" => { GET dead_letters::show }
    "/v1/failures" => { GET failures::list }
    "/v1/failures/{fingerprint}" => { GET failures::show }
    "/v1/encryption" => { GET encryption::show }
    "/v1/encryption/rotate" => { POST encryption::rotate }
    "/v1/audit" => { GET audit::list }
    "/v1/schedules" => { GET schedules::list, POST schedules::create }
    "/v1/beats" => { GET schedules::beats }
    "/v1/schedules/preview" => { POST schedules::preview }
    "/v1/schedules/{name}/runs" => { GET schedules::runs }
    "/v1/schedules/{name}" => { GET schedules::show, PUT schedules::put, DELETE schedules::delete }
    "/v1/schedules/{name}/run" => { POST schedules::run }
    "/v1/schedules/{name}/enable" => { POST schedules::enable }
    "/v1/schedules/{name}/disable" => { POST schedules::disable }
}
