//! Causality across connections while replicas, and a proxy, suffer: `integration/causality` has the rest.

use std::time::Duration;

use tokio::task::JoinSet;

use super::family::{
    Acknowledged, Family, Findings, TABLES, Way, count_up, until_replicas_have_served,
};
use super::faults::{Fault, Faults, while_it_stops_now_and_then};
use super::sessions::Background;
use super::{servers, sized};
use crate::harness::{Proxy, eventually};

const FAMILIES: usize = 6;
/// What ends no connection: members of a family take an error for a failure.
const MENU: [Fault; 6] = [
    Fault::PausedReplay,
    Fault::ApplyDelay,
    Fault::CutOff,
    Fault::ReceiverStopped,
    Fault::StartupStopped,
    Fault::Vacuum,
];

/// Has families whose members are spread over the proxies write and read, the last proxy standing still
/// now and then.
async fn run(proxies: &[&Proxy], way: Way, counter: &Acknowledged) -> Findings {
    let mut families = JoinSet::new();
    for id in 0..FAMILIES {
        let family = Family::open(proxies, i64::try_from(id).unwrap(), way, counter).await;
        families.spawn(family.run(sized(80) / FAMILIES));
    }
    let last = proxies.last().expect("a proxy");
    let found = while_it_stops_now_and_then(last, families.join_all()).await;
    found.into_iter().sum()
}

#[tokio::test]
async fn members_of_a_key_miss_nothing_of_each_other_whatever_happens_to_replicas() {
    let (servers, _alone) = servers().await;
    let tables = format!("DROP TABLE IF EXISTS family, counter; {TABLES}");
    servers.sql(0, &tables).await.unwrap();
    let group = "causality: { secret: 'the same in every proxy of the group' }";
    let proxies = [
        Proxy::start(servers, group).await,
        Proxy::start(servers, group).await,
    ];
    for proxy in &proxies {
        let client = proxy.connect().await;
        eventually("a replica serves", async || {
            client.batch_execute("SELECT v FROM family").await.unwrap();
            let route = client.simple_query("SHOW pgweir.last_route").await.unwrap();
            format!("{route:?}").contains("role=replica")
        })
        .await;
    }
    let counter = Acknowledged::default();
    let _counting = Background(tokio::spawn(count_up(servers, counter.clone())));
    let [one, two] = [&proxies[..1], &proxies[..]].map(|some| some.iter().collect::<Vec<_>>());
    for (way, proxies) in [
        (Way::Set, &one),
        (Way::SetLocal, &one),
        (Way::Comment, &one),
        (Way::Token, &two),
    ] {
        let faults = Faults::begin(servers, &MENU);
        let some = || run(proxies, way, &counter);
        let found = until_replicas_have_served(sized(4), some).await;
        let struck = faults.end().await;
        println!(
            "{way:?}, {} proxies: {found:?}, {struck} faults",
            proxies.len()
        );
        assert_eq!((found.stale, found.backwards), (0, 0), "{way:?}: {found:?}");
    }
    // The control.
    let delay = Duration::from_millis(200);
    for replica in servers.replicas() {
        servers.set_apply_delay(replica, delay).await.unwrap();
    }
    let some = || run(&one, Way::Nothing, &counter);
    let found = until_replicas_have_served(40, some).await;
    println!("control, no key, replicas 200 ms behind: {found:?}");
    assert!(found.stale * 4 >= found.on_replicas, "void: {found:?}");
}
