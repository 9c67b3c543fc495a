//! `clusters`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::policies::Layer;
use super::users::{Auth, User, secret};
use super::{ANY_TIME, count, listen, tls};
use crate::config::limits::{CLUSTERS, NAME_BYTES, NODES_PER_CLUSTER};
use crate::config::raw::{Faults, Field, Misfit, Section};
use crate::config::{
    ClusterConfig, DatabasePattern, MOVING_ENDPOINT, MonitorConfig, NodeConfig, OptionNames,
    PoolConfig, PoolMode, RoleLookup, Secret, SequenceNumbers, UserPassword,
};

/// The longest host name (RFC 1035, section 2.3.4), in bytes.
const HOST_BYTES: usize = 255;

/// In the name of every endpoint of Amazon's services.
const AMAZON: &str = ".rds.amazonaws.com";

/// `clusters:`.
pub(super) fn clusters(
    field: &Field<'_>,
    top: &Layer,
    (users, auth): (&[User], &Auth),
    faults: &Faults<'_>,
) -> Vec<Arc<ClusterConfig>> {
    let named = field.named();
    if field.is_empty_collection() {
        field.refuse(Misfit::new("names no cluster"));
    }
    if named.len() > CLUSTERS {
        field.refuse(Misfit::new(format!("has more than {CLUSTERS} clusters")));
    }
    let mut claimed = Vec::new();
    let reader = Reader {
        top,
        users,
        auth,
        faults,
    };
    named
        .iter()
        .filter_map(|(name, field)| reader.cluster(name, field, &mut claimed))
        .map(Arc::new)
        .collect()
}

/// What every cluster is read with.
struct Reader<'a> {
    top: &'a Layer,
    users: &'a [User],
    auth: &'a Auth,
    faults: &'a Faults<'a>,
}

impl Reader<'_> {
    fn cluster(
        &self,
        name: &str,
        field: &Field<'_>,
        claimed: &mut Vec<DatabasePattern>,
    ) -> Option<ClusterConfig> {
        if !is_label(name) {
            self.faults.note(field.path(), label_misfit());
        }
        let section = field.section()?;
        let zone = label(&section.field("zone"));
        let layer = Layer::read(&section).over(self.top);
        let monitor = self.monitor(&section.field("monitor"), field);
        let cluster = ClusterConfig {
            name: Arc::from(name),
            databases: databases(&section.field("databases"), field, claimed),
            nodes: nodes(section.field("nodes")),
            role_lookup: self.role_lookup(&monitor),
            monitor,
            pool: pool(&section.field("pool")),
            server_tls: tls::server(&section.field("server_tls")),
            user_policies: self.user_policies(&layer, zone.as_ref()),
            policies: Arc::new(layer.resolve(zone, self.faults)),
        };
        section.field("discover").only("false");
        section.finish();
        Some(cluster)
    }

    /// The first user unless the file says otherwise.
    fn monitor(&self, field: &Field<'_>, cluster: &Field<'_>) -> MonitorConfig {
        const DATABASE: &str = "postgres";

        let users = self.users;
        let section = field.section();
        let read = |key| section.as_ref()?.field(key).text(NAME_BYTES);
        let named = read("user");
        let user = named.or_else(|| Some(users.first()?.name.clone()));
        let database = read("database").unwrap_or_else(|| DATABASE.to_owned());
        if user.is_none() && self.auth.lookup.is_some() {
            cluster.refuse(
                Misfit::new(
                    "has no `monitor` and there are no `users`, the first of whom it could be",
                )
                .hint("write monitor: { user: ..., password: ... }"),
            );
        }
        let user = user.unwrap_or_default();
        let password = section
            .as_ref()
            .and_then(|section| monitor_password(section, &user, users));
        let password = password.or_else(|| password_of(&user, users));
        if section.is_none() && password.is_none() && has_verifier(&user, users) {
            cluster.refuse(
                Misfit::new("has no `monitor`, and the first user has no password it could use")
                    .hint("write monitor: { user: ..., password: ... }"),
            );
        }
        if let Some(section) = section {
            section.finish();
        }
        MonitorConfig {
            user,
            password: password.unwrap_or_else(|| Secret::new("")),
            database,
        }
    }

    /// What `auth` leaves open is as for the monitor. The password of a role that is named is its
    /// own, which may also stand under `users`.
    fn role_lookup(&self, monitor: &MonitorConfig) -> Option<RoleLookup> {
        let lookup = self.auth.lookup.as_ref()?;
        let user = lookup.user.as_ref().unwrap_or(&monitor.user);
        let own = lookup.password.clone();
        let known = if *user == monitor.user {
            Some(monitor.password.clone())
        } else {
            password_of(user, self.users)
        };
        Some(RoleLookup {
            user: user.clone(),
            password: own.or(known).unwrap_or_else(|| Secret::new("")),
            database: lookup
                .database
                .as_ref()
                .unwrap_or(&monitor.database)
                .clone(),
            query: lookup.query.clone(),
        })
    }

    fn user_policies(
        &self,
        cluster: &Layer,
        zone: Option<&Arc<str>>,
    ) -> HashMap<String, Arc<crate::config::Policies>> {
        let overriding = self.users.iter().filter_map(|user| {
            let layer = user.overrides.as_ref()?.over(cluster);
            let policies = layer.resolve(zone.cloned(), self.faults);
            Some((user.name.clone(), Arc::new(policies)))
        });
        overriding.collect()
    }
}

fn databases(
    field: &Field<'_>,
    cluster: &Field<'_>,
    claimed: &mut Vec<DatabasePattern>,
) -> Vec<DatabasePattern> {
    if !field.is_present() {
        let all = DatabasePattern::AllOthers;
        if claimed.contains(&all) {
            cluster.refuse(
                Misfit::new("serves all databases, as another cluster does")
                    .hint("list its `databases`"),
            );
        }
        claimed.push(all.clone());
        return vec![all];
    }
    let entries = field.list();
    if field.is_empty_collection() {
        field.refuse(Misfit::new("lists no database"));
    }
    let mut found = Vec::new();
    for entry in &entries {
        let pattern = match entry.text(NAME_BYTES) {
            Some(name) if name == "*" => DatabasePattern::AllOthers,
            Some(name) => DatabasePattern::Name(name),
            None => continue,
        };
        if claimed.contains(&pattern) {
            entry.refuse(Misfit::new("is listed twice"));
        } else {
            claimed.push(pattern.clone());
            found.push(pattern);
        }
    }
    found
}

fn nodes(field: Field<'_>) -> Vec<NodeConfig> {
    let field = field.required("write nodes: [{ host: ..., port: 5432 }]");
    let entries = field.list();
    if field.is_empty_collection() {
        field.refuse(Misfit::new("lists no node"));
    }
    if entries.len() > NODES_PER_CLUSTER {
        field.refuse(Misfit::new(format!(
            "has more than {NODES_PER_CLUSTER} nodes"
        )));
    }
    let read: Vec<ReadNode<'_>> = entries.iter().filter_map(node).collect();
    for (place, node) in read.iter().enumerate() {
        let mut before = read.iter().take(place);
        if let Some(misfit) = before.find_map(|other| node.clash(other)) {
            node.site.refuse(misfit);
        }
        if read.len() > 1 && node.is_moving() {
            let misfit =
                "leads to changing instances: what is measured on one would be taken for another";
            let misfit = Misfit::new(misfit);
            node.site
                .refuse(misfit.hint("name the endpoint of each instance"));
        }
    }
    read.into_iter().filter_map(ReadNode::proved).collect()
}

/// What could be read of one entry of `nodes:`.
struct ReadNode<'a> {
    site: &'a Field<'a>,
    name: Option<Arc<str>>,
    host: Option<String>,
    port: Option<u16>,
    zone: Option<Arc<str>>,
    weight: u32,
}

impl ReadNode<'_> {
    /// Why it cannot stand beside `other`.
    fn clash(&self, other: &Self) -> Option<Misfit> {
        let name = self.name.as_ref()?;
        if self.name == other.name {
            let misfit = Misfit::new(format!("is the second node with the name {name}"));
            return Some(misfit.hint("give each node a `name` of its own"));
        }
        let (host, port) = (self.host.as_ref()?, self.port?);
        let is_same = (Some(host), Some(port)) == (other.host.as_ref(), other.port);
        is_same.then(|| Misfit::new(format!("is the second node at {host}:{port}")))
    }

    /// Whether it is Amazon's endpoint for whichever instance writes, or reads, at the moment.
    fn is_moving(&self) -> bool {
        let host = self.host.as_ref().map(|host| host.to_ascii_lowercase());
        host.is_some_and(|host| host.contains(MOVING_ENDPOINT) && host.contains(AMAZON))
    }

    /// The node, if nothing of it is missing.
    fn proved(self) -> Option<NodeConfig> {
        Some(NodeConfig {
            name: self.name?,
            host: self.host?,
            port: self.port?,
            zone: self.zone,
            weight: self.weight,
        })
    }
}

fn node<'a>(entry: &'a Field<'a>) -> Option<ReadNode<'a>> {
    let section = entry.section()?;
    let host = host(
        &section
            .field("host")
            .required("a host name or an IP address"),
    );
    let port = section
        .field("port")
        .required("usually 5432")
        .number(1..=u64::from(u16::MAX))
        .and_then(|port| u16::try_from(port).ok());
    let name = section.field("name");
    let name = if name.is_present() {
        label(&name)
    } else {
        let address = host.as_ref().zip(port);
        address.map(|(host, port)| Arc::from(format!("{host}:{port}")))
    };
    let zone = label(&section.field("zone"));
    let weight = section.field("weight").number(0..=1_000);
    section.finish();
    Some(ReadNode {
        site: entry,
        name,
        host,
        port,
        zone,
        weight: weight.and_then(|w| u32::try_from(w).ok()).unwrap_or(1),
    })
}

fn host(field: &Field<'_>) -> Option<String> {
    let host = field.text(HOST_BYTES)?;
    let is_part = |c: char| c.is_alphanumeric() || ".-_:%".contains(c);
    if host.starts_with('/') {
        match listen::fits(Path::new(&host), u16::MAX) {
            Ok(()) => Some(host),
            Err(misfit) => {
                field.refuse(misfit);
                None
            }
        }
    } else if host.chars().all(is_part) {
        Some(host)
    } else {
        field.refuse(
            Misfit::new("is not a host name or an IP address").hint("the port stands under `port`"),
        );
        None
    }
}

/// A name that stands in logs, metrics and `pgweir.last_route`.
fn label(field: &Field<'_>) -> Option<Arc<str>> {
    let text = field.text(NAME_BYTES)?;
    if is_label(&text) {
        return Some(Arc::from(text));
    }
    field.refuse(label_misfit());
    None
}

fn label_misfit() -> Misfit {
    Misfit::new("is not a name").hint("use letters, digits and . - _ : only")
}

fn is_label(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || ".-_:".contains(c);
    (1..=NAME_BYTES).contains(&text.len()) && text.chars().all(is_part)
}

fn monitor_password(section: &Section<'_>, user: &str, users: &[User]) -> Option<Secret> {
    let field = section.field("password");
    let listed = users.iter().any(|candidate| candidate.name == user);
    if field.is_present() || (listed && !has_verifier(user, users)) {
        return secret(&field);
    }
    secret(&field.required("it is known only for a name that stands under `users`"))
}

fn has_verifier(user: &str, users: &[User]) -> bool {
    let verifiers = |user: &User| {
        matches!(user.password, UserPassword::Verifier(_)) && user.server_password.is_none()
    };
    users
        .iter()
        .any(|found| found.name == user && verifiers(found))
}

fn password_of(user: &str, users: &[User]) -> Option<Secret> {
    let found = users.iter().find(|candidate| candidate.name == user);
    found.and_then(|user| user.server_password.clone())
}

fn pool(field: &Field<'_>) -> PoolConfig {
    let mut pool = PoolConfig {
        size: 20,
        mode: PoolMode::Transaction,
        idle_timeout: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(3_600),
        checkout_timeout: Duration::from_secs(5),
        option_names: OptionNames::Own,
        sequence_numbers: SequenceNumbers::OnceAsked,
    };
    let Some(section) = field.section() else {
        return pool;
    };
    if let Some(size) = count(&section.field("size"), 1..=10_000) {
        pool.size = size;
    }
    let modes = [
        ("transaction", PoolMode::Transaction),
        ("session", PoolMode::Session),
    ];
    if let Some(mode) = section.field("mode").word(&modes) {
        pool.mode = mode;
    }
    let time = |key, range: RangeInclusive<Duration>| section.field(key).duration(range);
    if let Some(timeout) = time("idle_timeout", ANY_TIME) {
        pool.idle_timeout = timeout;
    }
    if let Some(lifetime) = time("max_lifetime", Duration::from_secs(1)..=*ANY_TIME.end()) {
        pool.max_lifetime = lifetime;
    }
    if let Some(timeout) = time("checkout_timeout", ANY_TIME) {
        pool.checkout_timeout = timeout;
    }
    let names = [("own", OptionNames::Own), ("shared", OptionNames::Shared)];
    if let Some(names) = section.field("option_names").word(&names) {
        pool.option_names = names;
    }
    let numbers = [
        ("once_asked", SequenceNumbers::OnceAsked),
        ("always", SequenceNumbers::Always),
    ];
    if let Some(numbers) = section.field("sequence_numbers").word(&numbers) {
        pool.sequence_numbers = numbers;
    }
    section.finish();
    pool
}
