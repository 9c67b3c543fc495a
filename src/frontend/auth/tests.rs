use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use proptest::prelude::*;

use super::*;
use crate::config::{Environment, parse};
use crate::credential::scram::{Derivation, Verifier};

struct NoVariables;

impl Environment for NoVariables {
    fn value_of(&self, _: &str) -> Option<String> {
        None
    }
}

fn config(method: &str, users: &str) -> Config {
    let text = format!(
        "clusters:\n  main:\n    nodes: [{{ name: a, host: h, port: 1 }}]\n    \
         monitor: {{ user: m, password: p, database: postgres }}\n\
         users: [{users}]\nauth: {{ method: {method} }}\n"
    );
    parse(&text, "test.yaml", &NoVariables).unwrap()
}

fn authenticator(method: &str, users: &str) -> Authenticator {
    Authenticator::new(&config(method, users), Hashing::start().unwrap())
}

fn claiming<'a>(user: &'a str, channel: &'a Channel<'a>) -> Applicant<'a> {
    Applicant {
        user,
        channel,
        source: None,
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

const APP: &str = "{ name: app, password: secret }";

/// What the client's `answer` (made from the salt) to an MD5 challenge leads to.
async fn md5(user: &str, answer: impl FnOnce([u8; 4]) -> String) -> Result<(), ProxyError> {
    let authenticator = authenticator("md5", APP);
    let Progress::Ask { request, exchange } =
        authenticator.begin(claiming(user, &Channel::default()))?
    else {
        panic!("nothing was asked");
    };
    let salt = *request.last_chunk::<4>().unwrap();
    let body = format!("{}\0", answer(salt));
    match exchange.answer(body.as_bytes()).await? {
        Progress::Proved { .. } => Ok(()),
        Progress::Ask { .. } => panic!("asked again"),
    }
}

#[tokio::test]
async fn md5_takes_the_hash_of_the_right_password_and_this_salt_only() {
    let failed = |user: &str| {
        let user = user.to_owned();
        Err(ProxyError::AuthenticationFailed { user })
    };
    let hash = |user: &'static str, password: &'static str| {
        move |salt| md5_hash(user.as_bytes(), password.as_bytes(), salt)
    };
    assert_eq!(md5("app", hash("app", "secret")).await, Ok(()));
    assert_eq!(md5("app", hash("app", "wrong")).await, failed("app"));
    assert_eq!(
        md5("app", |_| md5_hash(b"app", b"secret", [1, 2, 3, 4])).await,
        failed("app")
    );
    assert_eq!(md5("app", |_| String::new()).await, failed("app"));
    assert_eq!(
        md5("nobody", hash("nobody", "secret")).await,
        failed("nobody")
    );
    assert_eq!(md5("nobody", hash("nobody", "")).await, failed("nobody"));
}

#[tokio::test]
async fn a_reload_keeps_the_verifiers_of_unchanged_passwords_only() {
    let two = "{ name: app, password: secret }, { name: web, password: one }";
    let old = authenticator("scram-sha-256", two);
    old.warm().await;
    let changed =
        "{ name: app, password: secret }, { name: web, password: two }, { name: new, password: x }";
    let new = old.reloaded(&config("scram-sha-256", changed));
    let kept = |name: &str| new.roles[name].verifier.get().cloned();
    assert!(Arc::ptr_eq(
        &kept("app").unwrap(),
        old.roles["app"].verifier.get().unwrap()
    ));
    assert!(kept("web").is_none());
    assert!(kept("new").is_none());
    let salt = |of: &Authenticator| of.rules.secrets.derivation("nobody");
    assert_eq!(salt(&old), salt(&new));
}

#[tokio::test]
async fn logins_at_the_same_time_derive_a_verifier_once() {
    let authenticator = authenticator("scram-sha-256", APP);
    let role = &authenticator.roles["app"];
    let secrets = &authenticator.rules.secrets;
    let (one, two) = tokio::join!(secrets.verifier(role), secrets.verifier(role));
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
}

/// What a password that takes a hash leads to while the only thread that could do it is busy.
#[tokio::test]
async fn who_waits_for_a_hash_when_the_time_is_over_is_told_that_too_many_log_in() {
    let hashing = Hashing::start().unwrap();
    let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let users = format!("{{ name: app, password: '{stored}' }}");
    let config = config("password, mode: passthrough", &users);
    let authenticator = Authenticator::new(&config, hashing.clone());
    let answer = async |user, password: &str, patience| {
        let channel = Channel::default();
        let claiming = Applicant {
            deadline: Instant::now() + patience,
            ..claiming(user, &channel)
        };
        let Progress::Ask { exchange, .. } = authenticator.begin(claiming).unwrap() else {
            panic!("nothing was asked");
        };
        let body = format!("{password}\0");
        exchange.answer(body.as_bytes()).await.map(|_| ())
    };
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(30));
    assert_eq!(answer("app", "pencil", long).await, Ok(()));
    let failed = |user: &str| {
        let user = user.to_owned();
        Err(ProxyError::AuthenticationFailed { user })
    };
    assert_eq!(answer("app", "Pencil", long).await, failed("app"));
    assert_eq!(answer("nobody", "pencil", long).await, failed("nobody"));
    let busy: Vec<_> = (0..64)
        .map(|_| {
            let (release, released) = std::sync::mpsc::channel::<()>();
            let hashing = hashing.clone();
            tokio::spawn(async move { hashing.run(move || released.recv().is_ok()).await });
            release
        })
        .collect();
    tokio::task::yield_now().await;
    for user in ["app", "nobody"] {
        let told = answer(user, "pencil", short).await;
        assert_eq!(told, Err(ProxyError::TooManyLogins), "{user}");
    }
    drop(busy);
    assert_eq!(answer("app", "pencil", long).await, Ok(()));
}

#[test]
fn no_secret_is_printed() {
    let authenticator = authenticator("password", APP);
    let progress = authenticator
        .begin(claiming("app", &Channel::default()))
        .unwrap();
    for shown in [format!("{authenticator:?}"), format!("{progress:?}")] {
        assert!(!shown.contains("secret"), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_client_message_makes_scram_panic_or_succeed(
        first in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "[nyp=,a-c\u{e9}]{0,12},n=[a,=]{0,4},r=[ -~]{0,20}".prop_map(String::into_bytes),
        ],
        last in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "c=(biws|eSws|[a-z=]{0,6}),r=[ -~]{0,20},p=[A-Za-z0-9+/=\u{e9}]{0,50}".prop_map(String::into_bytes),
        ],
        echo in any::<bool>(),
    ) {
        let derivation = Derivation { salt: [1; 16].into(), iterations: 4096 };
        let verifier = Arc::new(Verifier::mock(derivation));
        let Ok((server_first, challenge)) = ScramChallenge::new(&ScramServerAuth::new(), &first, verifier) else {
            return Ok(());
        };
        let nonce = server_first.split(',').next().unwrap();
        let echoed = format!("c=biws,{nonce},p={}=", "A".repeat(43));
        let last = if echo { echoed.into_bytes() } else { last };
        prop_assert!(!matches!(challenge.verify(&last), Ok(Some(_))));
    }
}
