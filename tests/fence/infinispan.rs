//! Infinispan's REST API: against the stand-in, and against a real server on request:
//!
//! ```text
//! INFINISPAN_TEST_URL=https://USER:PASSWORD@HOST:PORT/BACKUP_SITE \
//!     cargo test --all-features --test fence a_real_server -- --ignored
//! ```
//! That takes the server's backup site offline and brings it online again. Its certificate is checked if
//! `INFINISPAN_CA_CERT` is set.

use crate::support;
use crate::support::tls::Tls;
use std::env;
use std::time::Duration;

use failover::remote::deadline::Deadline;
use failover::site_fence::config::Config;
use failover::site_fence::infinispan::{Infinispan, State};
use failover::site_fence::secrets::Secrets;
use failover::site_fence::site::Site;
use hyper::Uri;
use serde_json::json;

async fn goes_offline_and_comes_back(infinispan: &Infinispan, backup: &Site, password: &str) {
    let session = infinispan.with(password.to_owned());
    let here: Site = "here".parse().unwrap();
    let time = || Deadline::after(Duration::from_secs(20));
    let set = async |wanted| session.set(&here, backup, wanted, time()).await.unwrap();
    let state = async || session.state(&here, backup, time()).await.unwrap();
    set(State::Online).await;
    for (wanted, other) in [(State::Offline, State::Online), (State::Online, State::Offline)] {
        assert_eq!(state().await, other);
        assert!(set(wanted).await, "{wanted} is a change");
        assert_eq!(state().await, wanted);
        assert!(!set(wanted).await, "{wanted} again is none");
    }
    let wrong = infinispan.with("no such password".to_owned());
    let wrong = wrong.state(&here, backup, time()).await.unwrap_err().to_string();
    assert!(wrong.contains("HTTP 401"), "{wrong}");
    let unknown = session.state(&here, &"no-such-site".parse().unwrap(), time()).await;
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("it does not know the backup site no-such-site"), "{unknown}");
}

async fn infinispan(user: &str, endpoint: &str, trust: (&str, &str)) -> Infinispan {
    let endpoints = json!({ "here": endpoint, "there": "unasked" }).to_string();
    let variables = [
        ("INFINISPAN_USER", user),
        ("INFINISPAN_USER_SECRET", "unread"),
        ("INFINISPAN_SITE_ENDPOINTS", &endpoints),
        ("SECRETS_REGION", "us-east-1"),
        trust,
    ];
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let config = Config::read(&lookup).expect("they can be used");
    let secrets = Secrets::new(&support::aws::aws_at("http://127.0.0.1:9").await, "us-east-1");
    Infinispan::new(&config.infinispan.expect("it is named"), secrets)
}

#[tokio::test]
async fn the_stand_in_takes_a_site_offline_and_brings_it_back() {
    let server = support::infinispan::Infinispan::start("developer", "s3cret").await;
    server.put("site-b", &["sessions", "work"]);
    let infinispan =
        infinispan("developer", &server.authority(), ("INFINISPAN_CA_CERT", server.root())).await;
    goes_offline_and_comes_back(&infinispan, &"site-b".parse().unwrap(), "s3cret").await;
}

#[tokio::test]
async fn a_servers_own_certificate_is_trusted_if_it_is_named() {
    let site_b: Site = "site-b".parse().unwrap();
    let time = || Deadline::after(Duration::from_secs(1));
    for (tls, error) in [
        (Tls::self_signed("localhost", None), None),
        (Tls::self_signed("elsewhere.example.com", None), Some("Give Infinispan a certificate for the host")),
        (Tls::self_signed("localhost", Some(2020)), Some("Give Infinispan another certificate")),
    ] {
        let server = support::infinispan::Infinispan::start_with(tls, "developer", "s3cret").await;
        server.put("site-b", &["work"]);
        let named = infinispan("developer", &server.authority(), ("INFINISPAN_CA_CERT", server.root())).await;
        let state = named.with("s3cret".to_owned()).state(&"here".parse().unwrap(), &site_b, time()).await;
        match (state, error) {
            (Ok(state), None) => assert_eq!(state, State::Online),
            (Err(failure), Some(error)) => assert!(failure.to_string().contains(error), "{failure}"),
            (state, error) => panic!("{state:?}, not {error:?}"),
        }
        // Another server's certificate is none of its own.
        let other = Tls::self_signed("localhost", None);
        let named = infinispan("developer", &server.authority(), ("INFINISPAN_CA_CERT", &other.root)).await;
        assert!(
            named.with("s3cret".to_owned()).state(&"here".parse().unwrap(), &site_b, time()).await.is_err()
        );
    }
}

#[tokio::test]
#[ignore = "it needs a server, which INFINISPAN_TEST_URL names"]
async fn a_real_server_takes_a_site_offline_and_brings_it_back() {
    let url = env::var("INFINISPAN_TEST_URL").expect("INFINISPAN_TEST_URL names a server");
    let url: Uri = url.parse().expect("INFINISPAN_TEST_URL is a URL");
    let authority = url.authority().expect("it names a server").as_str();
    let (login, endpoint) = authority.rsplit_once('@').expect("it has USER:PASSWORD@");
    let (user, password) = login.split_once(':').expect("it has USER:PASSWORD@");
    let backup = url.path().trim_matches('/').parse().expect("its path is a backup site");
    let roots = env::var("INFINISPAN_CA_CERT");
    let trust = match &roots {
        Ok(roots) => ("INFINISPAN_CA_CERT", roots.as_str()),
        Err(_) => ("INFINISPAN_INSECURE_TLS", "true"),
    };
    goes_offline_and_comes_back(&infinispan(user, endpoint, trust).await, &backup, password).await;
}
