//! What is remembered of roles, for how long, and how often the database is asked.

use tokio::sync::oneshot;

use super::*;
use crate::backend::login::Proof;
use crate::core::snapshot::RoutingSnapshot;
use crate::credential::scram::{Derivation, Verifier};
use crate::world::RoleQuestion;

fn source() -> RoleSource {
    let snapshot = RoutingSnapshot {
        generation: 0,
        primary: None,
        nodes: Vec::new(),
    };
    RoleSource {
        cluster: Arc::from("main"),
        world: Arc::new(ClusterWorld::new(snapshot, Instant::now())),
    }
}

fn stored() -> StoredPassword {
    let derivation = Derivation {
        salt: [1; 16].into(),
        iterations: 4096,
    };
    StoredPassword::Scram(Arc::new(Verifier::mock(derivation)))
}

/// The next name that is asked for; `None` if nobody asks.
async fn question(
    source: &RoleSource,
) -> Option<(Arc<str>, oneshot::Sender<Option<StoredPassword>>)> {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let asked = source.world.roles.inbox().await.try_recv();
    asked
        .ok()
        .map(|RoleQuestion { user, answer }| (user, answer))
}

/// Looks `user` up while the database answers `stored`; says whether it was asked.
async fn find(
    found: &FoundRoles,
    source: &RoleSource,
    user: &str,
    stored: Option<StoredPassword>,
) -> (Result<Found, Unanswered>, bool) {
    let answering = async {
        let asked = question(source).await;
        let was_asked = asked.is_some();
        if let Some((_, answer)) = asked {
            drop(answer.send(stored));
        }
        was_asked
    };
    tokio::join!(found.find(source, user), answering)
}

const LIFE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn many_logins_at_once_ask_once_and_hear_the_same() {
    let (found, source) = (FoundRoles::new(LIFE), source());
    let both = async { tokio::join!(found.find(&source, "app"), found.find(&source, "app")) };
    let answering = async {
        let (user, answer) = question(&source).await.unwrap();
        assert_eq!(&*user, "app");
        answer.send(Some(stored())).unwrap();
        assert!(question(&source).await.is_none());
    };
    let ((one, two), ()) = tokio::join!(both, answering);
    let (one, two) = (one.unwrap().role.unwrap(), two.unwrap().role.unwrap());
    assert!(Arc::ptr_eq(&one, &two));
}

#[tokio::test]
async fn whoever_gives_up_leaves_the_question_to_the_next() {
    let (found, source) = (FoundRoles::new(LIFE), source());
    let mut first = Box::pin(found.find(&source, "app"));
    let waits = std::future::poll_fn(|context| {
        std::task::Poll::Ready(first.as_mut().poll(context).is_pending())
    });
    assert!(waits.await);
    assert!(question(&source).await.is_some());
    drop(first);
    let (second, asked) = find(&found, &source, "app", Some(stored())).await;
    assert!(asked && second.unwrap().role.is_some());
}

#[tokio::test]
async fn what_is_remembered_is_not_asked_for_until_it_is_doubted() {
    let (found, source) = (FoundRoles::new(LIFE), source());
    for known in [Some(stored()), None] {
        let name = if known.is_some() { "app" } else { "nobody" };
        let (first, asked) = find(&found, &source, name, known.clone()).await;
        assert!(asked && first.unwrap().origin == Origin::Asked);
        let (again, asked) = find(&found, &source, name, None).await;
        let again = again.unwrap();
        assert!(!asked && again.origin == Origin::Remembered);
        assert_eq!(again.role.is_some(), known.is_some());
        // A wrong guess with what is remembered has the next login ask.
        found.note_failed(&again);
        let (after, asked) = find(&found, &source, name, known.clone()).await;
        assert!(asked, "{name}");
        // One with what was just found has not: guessing costs at most every second time a query.
        found.note_failed(&after.unwrap());
        assert!(!find(&found, &source, name, None).await.1, "{name}");
    }
}

#[tokio::test]
async fn a_role_that_nobody_has_proved_to_be_is_forgotten_as_soon_as_one_that_does_not_exist() {
    let later = Instant::now() + UNPROVED_ROLE_LIFE + Duration::from_secs(1);
    let (found, source) = (FoundRoles::new(LIFE), source());
    for (name, stored, proved) in [
        ("nobody", None, false),
        ("guessed", Some(stored()), false),
        ("app", Some(stored()), true),
    ] {
        let (entry, _) = find(&found, &source, name, stored).await;
        let entry = entry.unwrap();
        if proved {
            entry.note_proved();
        }
        assert!(entry.entry.is_usable(LIFE, Instant::now()), "{name}");
        assert_eq!(entry.entry.is_usable(LIFE, later), proved, "{name}");
        assert!(!entry.entry.is_usable(Duration::ZERO, later), "{name}");
    }
}

#[tokio::test]
async fn a_role_keeps_its_server_login_through_a_change_of_password() {
    let (found, source) = (FoundRoles::new(Duration::ZERO), source());
    let (first, second) = (stored(), stored());
    let look = async |stored: &StoredPassword| {
        let (role, _) = find(&found, &source, "app", Some(stored.clone())).await;
        role.unwrap().role.unwrap()
    };
    let one = look(&first).await;
    let same = look(&first).await;
    let other = look(&second).await;
    assert!(Arc::ptr_eq(&one, &same));
    assert!(!Arc::ptr_eq(&one, &other));
    assert!(Arc::ptr_eq(&one.user.login, &other.user.login));
    other.user.login.replace(Proof::Nothing);
}

#[tokio::test]
async fn a_question_without_an_answer_is_asked_again_by_the_next_login() {
    let (found, source) = (FoundRoles::new(LIFE), source());
    let unanswered = async { drop(question(&source).await.unwrap()) };
    let (first, ()) = tokio::join!(found.find(&source, "app"), unanswered);
    assert_eq!(first.unwrap_err(), Unanswered);
    let (second, asked) = find(&found, &source, "app", Some(stored())).await;
    assert!(asked && second.unwrap().role.is_some());
    let long = "x".repeat(NAME_BYTES + 1);
    let (none, asked) = find(&found, &source, &long, Some(stored())).await;
    assert!(!asked && none.unwrap().role.is_none());
}

#[tokio::test]
async fn no_more_names_are_remembered_than_there_is_room_for() {
    let (found, source) = (FoundRoles::new(LIFE), source());
    let (app, _) = find(&found, &source, "app", Some(stored())).await;
    app.unwrap().note_proved();
    let long = "x".repeat(NAME_BYTES);
    for at in 0..=ROLES_REMEMBERED {
        // Too long for a role: nobody has to answer.
        found.find(&source, &format!("{long}{at}")).await.unwrap();
        assert!(found.lock().entries.len() <= ROLES_REMEMBERED);
    }
    let (app, asked) = find(&found, &source, "app", None).await;
    assert!(!asked && app.unwrap().role.is_some());
}
