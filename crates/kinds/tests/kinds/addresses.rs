//! What a job cannot reach: by address in any spelling, by name, or by redirect.

use holdfast_core::config::HttpRequestSettings;
use holdfast_outbound::{AddressPolicy, Outbound};
use serde_json::json;

use crate::{request_with, settings, told};
use holdfast_testkit::scripted_server::{Reply, Server};

fn closed() -> Outbound {
    Outbound::new(&settings()).unwrap()
}

#[tokio::test]
async fn every_spelling_of_a_private_address_is_refused_without_a_connection() {
    let v4 = Server::start(|_| Reply::new(200, &[], "")).await;
    let v6 = Server::start_on("[::1]:0", |_| Reply::new(200, &[], "")).await;
    let port = v4.address.port();
    let outbound = closed();
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f000001",
        "0X7F.0x0.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.0x1",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "user:password@127.0.0.1",
    ] {
        let port = if host == "[::1]" { v6.address.port() } else { port };
        let payload = json!({"url": format!("http://{host}:{port}/x?secret")});
        let (class, text) = told(request_with(outbound.clone(), payload).await);
        assert_eq!(class, "permanent", "{host}: {text}");
        assert!(
            text.ends_with(", which neither http_request.allow_hosts nor http_request.allow_private permits"),
            "{host}: {text}"
        );
        assert!(
            !text.contains("password") && !text.contains("secret"),
            "{host}: {text}"
        );
    }
    assert_eq!((v4.connections(), v6.connections()), (0, 0));
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_refused_without_a_connection() {
    let server = Server::start(|_| Reply::new(200, &[], "")).await;
    for host in ["localhost", "LOCALHOST"] {
        let url = format!("http://{host}:{}/", server.address.port());
        let (class, text) = told(request_with(closed(), json!({"url": url})).await);
        assert_eq!(class, "permanent", "{text}");
        assert!(
            text.ends_with("leads to a loopback address, which neither http_request.allow_hosts nor http_request.allow_private permits"),
            "{text}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_without_a_connection() {
    let inner = Server::start_on("[::1]:0", |_| Reply::new(200, &[], "")).await;
    let port = inner.address.port();
    // The first server stands for a public one.
    let policy = AddressPolicy::permitting(["127.0.0.1/32".parse().unwrap()]);
    let outbound = Outbound::with_policy(&settings(), policy).unwrap();
    for location in [
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://127.0.0.2/".to_owned(),
        "http://0x7f.2/".to_owned(),
        "//169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
    ] {
        let header = format!("location: {location}");
        let server = Server::start(move |_| Reply::new(302, &[&header], "")).await;
        let (class, text) = told(request_with(outbound.clone(), json!({"url": server.url("/")})).await);
        assert_eq!(class, "permanent", "{location}: {text}");
        assert!(
            text.ends_with(", which neither http_request.allow_hosts nor http_request.allow_private permits"),
            "{location}: {text}"
        );
        assert_eq!(server.seen().len(), 1);
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn allow_private_opens_addresses_names_and_ipv6() {
    let settings = HttpRequestSettings {
        allow_private: true,
        ..settings()
    };
    let outbound = Outbound::new(&settings).unwrap();
    let v4 = Server::start(|_| Reply::new(200, &[], "four")).await;
    let v6 = Server::start_on("[::1]:0", |_| Reply::new(200, &[], "six")).await;
    let by_name = format!("http://localhost:{}/", v4.address.port());
    for (url, body) in [(v4.url("/"), "four"), (v6.url("/"), "six"), (by_name, "four")] {
        let result = request_with(outbound.clone(), json!({"url": url})).await.unwrap();
        assert_eq!(result.body.as_deref(), Some(body), "{url}");
    }
}

#[tokio::test]
async fn allow_hosts_opens_what_it_lists_and_nothing_else() {
    let v4 = Server::start(|_| Reply::new(200, &[], "four")).await;
    let v6 = Server::start_on("[::1]:0", |_| Reply::new(200, &[], "six")).await;
    let with = |hosts: &[&str]| {
        let settings = HttpRequestSettings {
            allow_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..settings()
        };
        Outbound::new(&settings).unwrap()
    };
    let (by_address, by_name) = (v4.url("/"), format!("http://localhost:{}/", v4.address.port()));
    for (hosts, url, is_reached) in [
        (&["localhost"][..], &by_name, true),
        (&["localhost"], &by_address, false),
        (&["127.0.0.1"], &by_address, true),
        (&["127.0.0.0/8"], &by_name, true),
        (&["127.0.0.1"], &v6.url("/"), false),
        (&["::1"], &v6.url("/"), true),
        (&["*.localhost"], &by_name, false),
        (&["*.railway.internal"], &by_name, false),
    ] {
        let before = v4.connections() + v6.connections();
        let outcome = request_with(with(hosts), json!({"url": url})).await;
        assert_eq!(outcome.is_ok(), is_reached, "{hosts:?} {url}: {outcome:?}");
        assert_eq!(
            v4.connections() + v6.connections() > before,
            is_reached,
            "{hosts:?} {url}"
        );
    }
    // A redirect is checked as the first URL is.
    let location = format!("location: {}", v6.url("/"));
    let first = Server::start(move |_| Reply::new(302, &[&location], "")).await;
    let before = v6.connections();
    let (class, _) = told(request_with(with(&["127.0.0.1"]), json!({"url": first.url("/")})).await);
    assert_eq!((class, v6.connections()), ("permanent", before));
}
