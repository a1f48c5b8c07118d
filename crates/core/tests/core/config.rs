//! What users of the configuration rely on: the layers, their order, and faults that explain themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::config::{
    Additions, ConfigFault, ConfigFaults, Durability, Environment, LogFormat, Settings, Sources, load_from,
    load_from_with, settings_table,
};
use secrecy::ExposeSecret;

const SECOND: Duration = Duration::from_secs(1);

fn sources(file: &str, env: &[(&str, &str)]) -> Sources {
    let env: BTreeMap<String, String> = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let file = (!file.is_empty()).then(|| (PathBuf::from("holdfast.toml"), file.to_owned()));
    Sources { env, file }
}

fn loaded(file: &str, env: &[(&str, &str)]) -> Settings {
    load_from(sources(file, env)).unwrap()
}

fn refused(file: &str, env: &[(&str, &str)]) -> ConfigFaults {
    load_from(sources(file, env)).unwrap_err()
}

fn only_fault(file: &str, env: &[(&str, &str)]) -> ConfigFault {
    let faults = refused(file, env);
    assert_eq!(faults.faults().len(), 1, "{faults}");
    faults.faults()[0].clone()
}

#[test]
fn nothing_needs_to_be_set() {
    let settings = loaded("", &[]);
    assert_eq!(settings.environment, Environment::Development);
    assert_eq!(
        settings.database.url.expose_secret(),
        "sqlite://.holdfast/holdfast.db"
    );
    assert_eq!(
        settings.embedded_path(),
        Some(PathBuf::from(".holdfast/holdfast.db"))
    );
    assert!(settings.database.direct_url.is_none());
    assert!(settings.redis.queue.is_none() && settings.redis.cache.is_none());
    assert!(settings.server.api_key.is_none());
    assert_eq!(
        (settings.server.host.as_str(), settings.server.port),
        ("[::]", 8080)
    );
    assert_eq!(settings.server.max_body_bytes, 16 * 1024 * 1024);
    assert_eq!(settings.redis.command_timeout, Duration::from_millis(250));
    assert_eq!(settings.worker.heartbeat, 5 * SECOND);
    assert_eq!(settings.worker.degraded_poll_max, Duration::from_millis(250));
    assert_eq!(settings.jobs.retry.max_attempts, 4);
    assert_eq!(settings.jobs.retain_discarded, 30 * 24 * 3600 * SECOND);
    assert_eq!(settings.log.format, LogFormat::Pretty);
    let queues: Vec<&str> = settings.queues.keys().map(String::as_str).collect();
    assert_eq!(queues, ["default", "events", "ml", "notifications"]);
    assert!(
        settings
            .queues
            .values()
            .all(|q| q.durability == Durability::Ledger && q.concurrency == 50)
    );
    assert_eq!(settings.served_queues().count(), 4);
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "[worker]\nheartbeat_seconds = 3\nbatch_size = 100\n";
    let settings = loaded(file, &[("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "0.5")]);
    assert_eq!(settings.worker.heartbeat, SECOND / 2);
    assert_eq!(settings.worker.batch_size, 100);
    assert_eq!(settings.worker.lost_after, 15 * SECOND);
}

#[test]
fn the_explicit_name_wins_over_the_conventional_one() {
    let settings = loaded("", &[("PORT", "1000"), ("HOLDFAST__SERVER__PORT", "2000")]);
    assert_eq!(settings.server.port, 2000);
}

#[test]
fn conventional_variables_reach_their_settings() {
    let settings = loaded(
        "",
        &[
            ("HOLDFAST_ENV", "production"),
            ("HOLDFAST_API_KEY", "k3y"),
            ("PORT", "0"),
            ("DATABASE_URL", " postgres://u:p@db/app\n"),
            ("DATABASE_UNPOOLED_URL", "postgres://u:p@direct/app"),
            ("DATABASE_DIRECT_URL", "postgres://u:p@second/app"),
            ("REDIS_URL", "rediss://:p@redis:6380/1"),
            ("REDIS_CACHE_URL", "redis://cache"),
            ("REDIS_MAX_CONNECTIONS", "3"),
            ("LOG_LEVEL", "debug,sqlx=warn"),
        ],
    );
    assert!(settings.is_production());
    assert_eq!(settings.server.api_key.unwrap().expose_secret(), "k3y");
    assert_eq!(settings.server.port, 0);
    assert_eq!(settings.database.url.expose_secret(), "postgres://u:p@db/app");
    assert_eq!(
        settings.database.direct_url.unwrap().expose_secret(),
        "postgres://u:p@direct/app"
    );
    assert_eq!(
        settings.redis.queue.unwrap().url.expose_secret(),
        "rediss://:p@redis:6380/1"
    );
    assert_eq!(settings.redis.cache.unwrap().url.expose_secret(), "redis://cache");
    assert_eq!(settings.redis.max_connections, 3);
    assert_eq!(settings.log.level, "debug,sqlx=warn");
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn the_cache_shares_the_queues_redis_unless_it_has_its_own() {
    let settings = loaded("", &[("REDIS_URL", "redis://one")]);
    assert_eq!(settings.redis.cache.unwrap().url.expose_secret(), "redis://one");
    let settings = loaded("", &[("REDIS_CACHE_URL", "redis://two")]);
    assert!(settings.redis.queue.is_none());
    assert_eq!(settings.redis.cache.unwrap().url.expose_secret(), "redis://two");
}

#[test]
fn railways_pieces_make_urls_and_production() {
    let settings = loaded(
        "",
        &[
            ("RAILWAY_ENVIRONMENT_NAME", "staging"),
            ("REDISHOST", "redis.railway.internal"),
            ("REDISPORT", "6379"),
            ("REDISUSER", "default"),
            ("REDIS_PASSWORD", "p@ss/word"),
            ("PGHOST", "fd12::7"),
            ("PGPORT", "5433"),
            ("PGUSER", "postgres"),
            ("PGPASSWORD", "a:b"),
            ("PGDATABASE", "railway"),
        ],
    );
    assert!(settings.is_production());
    let redis = settings.redis.queue.unwrap();
    assert_eq!(
        redis.url.expose_secret(),
        "redis://default:p%40ss%2Fword@redis.railway.internal:6379"
    );
    assert_eq!(
        settings.database.url.expose_secret(),
        "postgres://postgres:a%3Ab@[fd12::7]:5433/railway"
    );
}

#[test]
fn pieces_of_the_platform_yield_to_whatever_somebody_wrote() {
    let env = [
        ("RAILWAY_ENVIRONMENT_NAME", "pr-1"),
        ("PGHOST", "elsewhere"),
        ("PGDATABASE", "other"),
        ("REDISHOST", "elsewhere"),
        ("REDIS_URL", "redis://mine"),
    ];
    let file = "environment = \"development\"\n[database]\nurl = \"sqlite://jobs.db\"\n";
    let settings = loaded(file, &env);
    assert!(!settings.is_production());
    assert_eq!(settings.database.url.expose_secret(), "sqlite://jobs.db");
    assert_eq!(settings.redis.queue.unwrap().url.expose_secret(), "redis://mine");
}

#[test]
fn a_lone_pghost_is_no_database_of_ours() {
    assert_eq!(
        loaded("", &[("PGHOST", "db")]).database.url.expose_secret(),
        "sqlite://.holdfast/holdfast.db"
    );
}

#[test]
fn an_empty_variable_is_not_set() {
    let settings = loaded(
        "",
        &[
            ("REDIS_URL", ""),
            ("PORT", "  "),
            ("HOLDFAST__WORKER__BATCH_SIZE", ""),
        ],
    );
    assert!(settings.redis.queue.is_none());
    assert_eq!(settings.server.port, 8080);
}

#[test]
fn a_new_queue_needs_only_its_name() {
    let file =
        "[queue_defaults]\nconcurrency = 7\n[queues.reports]\n[queues.bulk-2]\ndurability = \"redis\"\n";
    let settings = loaded(file, &[("HOLDFAST__QUEUES__EVENTS__CONCURRENCY", "9")]);
    assert_eq!(settings.queues.len(), 6);
    assert_eq!(settings.queues["reports"].concurrency, 7);
    assert_eq!(settings.queues["bulk-2"].durability, Durability::Redis);
    assert_eq!(settings.queues["bulk-2"].concurrency, 7);
    assert_eq!(settings.queues["events"].concurrency, 9);
}

#[test]
fn a_worker_may_serve_some_queues() {
    let settings = loaded("", &[("HOLDFAST__WORKER__QUEUES", "ml, events")]);
    assert_eq!(settings.worker.queues, ["ml", "events"]);
    let served: Vec<&str> = settings.served_queues().map(|(name, _)| name.as_str()).collect();
    assert_eq!(served, ["events", "ml"]);
}

#[test]
fn every_fault_is_told_at_once_with_its_place_and_its_cure() {
    let file = "\
[worker]
hartbeat_seconds = 5
batch_size = 0
[redis]
command_timeout_ms = \"fast\"
[wroker]
[queues.Bad]
[queues.default]
durability = \"disk\"
";
    let env = [
        ("PORT", "80800"),
        ("HOLDFAST__LOG__LEVEL", "loud"),
        ("HOLDFAST__JOBS__RETRIES", "3"),
    ];
    let faults = refused(file, &env);
    let expected = "\
the configuration has 9 faults
  HOLDFAST__JOBS__RETRIES (from the environment): this variable sets nothing
    fix: unset it, or name a setting: HOLDFAST__SECTION__KEY
  log.level (from HOLDFAST__LOG__LEVEL): \"loud\" is not a level
    fix: give a level (trace, debug, info, warn, error, off) and target=level pairs, with commas
  queues.Bad (from holdfast.toml): \"Bad\" is not a queue name
    fix: use a lower-case letter, then up to 62 of a-z, 0-9, _ and -
  queues.default.durability (from holdfast.toml): \"disk\" is not a choice
    fix: give \"ledger\" or \"redis\"
  redis.command_timeout_ms (from holdfast.toml): \"fast\" is not a whole number
    fix: give a whole number of milliseconds from 10 to 60000
  server.port (from PORT): 80800 is out of range
    fix: give a whole number from 0 to 65535
  worker.batch_size (from holdfast.toml): 0 is out of range
    fix: give a whole number from 1 to 10000
  worker.hartbeat_seconds (from holdfast.toml): there is no such setting
    fix: did you mean worker.heartbeat_seconds?
  wroker (from holdfast.toml): there is no such setting
    fix: did you mean worker?";
    assert_eq!(faults.to_string(), expected);
    assert_eq!(faults.exit_code(), 64);
}

#[test]
fn settings_are_held_against_each_other() {
    let cases = [
        ("[worker]\nheartbeat_seconds = 10\n", "worker.lost_after_seconds"),
        ("[worker]\nwatchdog_seconds = 15\n", "worker.watchdog_seconds"),
        (
            "[worker]\ndegraded_poll_min_ms = 300\n",
            "worker.degraded_poll_min_ms",
        ),
        ("[jobs.retry]\ncap_seconds = 30\n", "jobs.retry.cap_seconds"),
        ("[jobs]\nmax_payload_bytes = 20000000\n", "jobs.max_payload_bytes"),
        (
            "[redis]\ncommand_timeout_ms = 10000\n",
            "redis.command_timeout_ms",
        ),
        (
            "[database]\nacquire_timeout_seconds = 10\n",
            "database.acquire_timeout_seconds",
        ),
        ("[database]\nmin_connections = 11\n", "database.min_connections"),
        ("[worker]\nqueues = [\"defualt\"]\n", "worker.queues"),
    ];
    for (file, setting) in cases {
        assert_eq!(only_fault(file, &[]).setting, setting, "{file}");
    }
}

#[test]
fn a_conflict_names_both_settings_and_both_places() {
    let fault = only_fault("[worker]\nheartbeat_seconds = 10\n", &[]);
    assert_eq!(fault.source, "defaults");
    assert_eq!(
        fault.problem,
        "15 is less than twice worker.heartbeat_seconds (10, from holdfast.toml)"
    );
}

#[test]
fn a_setting_at_fault_is_not_held_against_others() {
    let fault = only_fault("[worker]\nheartbeat_seconds = 1000\n", &[]);
    assert_eq!(fault.setting, "worker.heartbeat_seconds");
}

#[test]
fn a_fault_in_the_template_of_queues_is_told_once() {
    assert_eq!(
        only_fault("[queue_defaults]\nconcurrency = 0\n", &[]).setting,
        "queue_defaults.concurrency"
    );
}

#[test]
fn urls_of_another_kind_are_refused() {
    for (variable, url) in [
        ("DATABASE_URL", "mysql://u:hunter2@host/db"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "sqlite::memory:"),
        ("DATABASE_URL", "postgres://u:hunter2@host:port/db"),
        ("DATABASE_UNPOOLED_URL", "http://u:hunter2@host"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("REDIS_URL", "redis://:hunter2@host/zero"),
        ("REDIS_URL", "redis:hunter2"),
        ("REDIS_URL", "hunter2@host:6379"),
        ("REDIS_CACHE_URL", "rediss://"),
    ] {
        let fault = only_fault("", &[(variable, url)]);
        assert_eq!(fault.source, variable);
        assert!(!format!("{fault} {fault:?}").contains("hunter2"), "{fault}");
    }
}

#[test]
fn an_authority_is_a_pem_text_or_the_path_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let (good, empty) = (
        directory.path().join("good.pem"),
        directory.path().join("empty.pem"),
    );
    let pem = holdfast_testkit::Authority::new().unwrap().pem();
    std::fs::write(&good, &pem).unwrap();
    std::fs::write(&empty, "nothing\n").unwrap();
    let read = |value: &str| {
        let env = [("HOLDFAST__REDIS__CA_CERTIFICATE", value)];
        load_from(sources("", &env)).map(|settings| settings.redis.ca_certificate)
    };
    for value in [good.to_str().unwrap(), pem.as_str()] {
        assert_eq!(read(value).unwrap().unwrap().trim(), pem.trim());
    }
    assert!(read("").unwrap().is_none());
    let cut = &pem[..pem.len() / 2];
    for (value, problem) in [
        ("/no/such/file.pem", "cannot be read"),
        (empty.to_str().unwrap(), "no certificate"),
        (cut, "not PEM"),
    ] {
        let faults = read(value).unwrap_err();
        let [fault] = faults.faults() else {
            panic!("{faults}");
        };
        assert_eq!(fault.setting, "redis.ca_certificate");
        assert!(fault.problem.contains(problem), "{fault:?}");
        assert!(fault.fix.contains("PEM"), "{fault:?}");
    }
}

#[test]
fn no_secret_is_shown_by_faults_debug_or_sources() {
    let env = [
        ("DATABASE_URL", "postgres://u:hunter2@host/db"),
        ("REDIS_URL", "redis://:hunter2@host"),
        ("HOLDFAST_API_KEY", "hunter2"),
    ];
    let shown = format!(
        "{:?} {:?}",
        loaded("", &env),
        sources("[redis]\nurl = \"hunter2\"", &env)
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    let file = "[server]\napi_key = [\"hunter2\"]\n[redis]\nurl = 7\nhunter = \"hunter2\"\n[database]\nurl = \"hunter2";
    assert!(!refused(file, &[]).to_string().contains("hunter2"));
    let file = "[server]\napi_key = [\"hunter2\"]\n[redis]\nurl = { a = \"hunter2\" }\ncache_url = 7\n";
    let faults = refused(file, &[]);
    assert_eq!(faults.faults().len(), 3, "{faults}");
    assert!(!faults.to_string().contains("hunter2"));
}

#[test]
fn production_must_be_told_where_its_jobs_are_kept() {
    let fault = only_fault("", &[("HOLDFAST_ENV", "production")]);
    assert_eq!(
        (fault.setting.as_str(), fault.source.as_str()),
        ("database.url", "defaults")
    );
    assert!(fault.fix.contains("DATABASE_URL"));
    loaded(
        "",
        &[
            ("HOLDFAST_ENV", "production"),
            ("DATABASE_URL", "sqlite:///data/jobs.db"),
        ],
    );
}

#[test]
fn a_name_that_is_nearly_ours_is_a_fault_and_a_strangers_is_not() {
    let fault = only_fault("", &[("HOLDFAST_APIKEY", "k")]);
    assert_eq!(fault.fix, "did you mean HOLDFAST_API_KEY?");
    let fault = only_fault("", &[("HOLDFAST_WORKER_BATCH_SIZE", "1")]);
    assert_eq!(fault.fix, "did you mean HOLDFAST__WORKER__BATCH_SIZE?");
    loaded(
        "",
        &[
            ("HOLDFAST_DEPLOY_TARGET", "x"),
            ("HOLDFAST_CONFIG", "holdfast.toml"),
            ("PGHOSTADDR", "x"),
        ],
    );
}

#[test]
fn sections_and_settings_are_not_mistaken_for_each_other() {
    let faults = refused(
        "worker = 5\n[server.port]\nnumber = 1\n[queues]\nreports = 3\n",
        &[],
    );
    let told: Vec<(&str, &str)> = faults
        .faults()
        .iter()
        .map(|f| (f.setting.as_str(), f.problem.as_str()))
        .collect();
    assert!(
        told.contains(&("worker", "this is a section, not a setting")),
        "{faults}"
    );
    assert!(
        told.contains(&("server.port", "this is a setting, not a section")),
        "{faults}"
    );
    assert!(
        told.contains(&("queues.reports", "this is a section, not a setting")),
        "{faults}"
    );
    assert_eq!(told.len(), 3, "{faults}");
}

#[test]
fn a_file_that_is_not_toml_is_one_fault() {
    let fault = only_fault("[worker\n", &[]);
    assert_eq!(
        (fault.setting.as_str(), fault.source.as_str()),
        ("the file", "holdfast.toml")
    );
    assert!(fault.problem.contains("line 1"), "{fault}");
}

#[test]
fn every_default_can_be_repeated_in_the_environment() {
    for doc in settings_table(&[]) {
        let value = doc.default.trim_matches(|c| matches!(c, '"' | '[' | ']'));
        if value.is_empty() || doc.key.starts_with("queues.NAME.") {
            continue;
        }
        load_from(sources("", &[(doc.env.as_str(), value)]))
            .unwrap_or_else(|faults| panic!("{}: {faults}", doc.env));
    }
}

#[test]
fn a_secret_that_could_be_searched_for_is_refused_and_not_repeated() {
    let fault = only_fault("", &[("JWT_SECRET_KEY", "hunter2-hunter2-hunter2")]);
    assert_eq!(fault.setting, "auth.jwt_secret");
    assert!(fault.fix.contains("openssl rand -hex 32"), "{}", fault.fix);
    let text = refused("", &[("JWT_SECRET_KEY", "hunter2-hunter2-hunter2")]).to_string();
    assert!(
        text.contains("JWT_SECRET_KEY") && !text.contains("hunter2"),
        "{text}"
    );
    let long = "hunter2-".repeat(4);
    let settings = loaded("", &[("JWT_SECRET_KEY", &long)]);
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn behind_railways_edge_one_proxy_is_trusted_unless_told_otherwise() {
    assert_eq!(loaded("", &[]).server.trusted_proxies, 0);
    let railway = [
        ("RAILWAY_ENVIRONMENT_NAME", "production"),
        ("DATABASE_URL", "postgres://h/d"),
    ];
    assert_eq!(loaded("", &railway).server.trusted_proxies, 1);
    let told = [&railway[..], &[("HOLDFAST__SERVER__TRUSTED_PROXIES", "2")]].concat();
    assert_eq!(loaded("", &told).server.trusted_proxies, 2);
}

#[test]
fn a_queue_that_only_a_kind_names_exists_with_the_defaults_and_can_be_set_and_served() {
    let load = |file: &str, env: &[(&str, &str)]| {
        let additions = Additions {
            queues: &["reports", "bulk-2", "default"],
            ..Additions::default()
        };
        load_from_with(sources(file, env), additions).unwrap()
    };
    let settings = load("[queue_defaults]\nconcurrency = 7\n", &[]);
    let names: Vec<&str> = settings.queues.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["bulk-2", "default", "events", "ml", "notifications", "reports"]
    );
    assert_eq!(settings.queues["reports"].concurrency, 7);
    let settings = load(
        "[queues.bulk-2]\ndurability = \"redis\"\n",
        &[
            ("HOLDFAST__QUEUES__REPORTS__CONCURRENCY", "3"),
            ("HOLDFAST__WORKER__QUEUES", "reports"),
        ],
    );
    assert_eq!(settings.queues["reports"].concurrency, 3);
    assert_eq!(settings.queues["bulk-2"].durability, Durability::Redis);
    let served: Vec<&String> = settings.served_queues().map(|(name, _)| name).collect();
    assert_eq!(served, ["reports"]);
}

#[test]
fn the_role_of_a_process_is_no_setting_and_a_misspelt_one_is_found() {
    loaded("", &[("HOLDFAST_ROLE", "worker")]);
    let fault = only_fault("", &[("HOLDFAST_ROLL", "worker")]);
    assert_eq!(fault.fix, "did you mean HOLDFAST_ROLE?");
}
