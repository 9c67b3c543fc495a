//! `listen` and `http`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::raw::{Field, Misfit};
use crate::config::{ListenAddress, socket_path};

/// The port where PgBouncer listens too.
const DEFAULT_PORT: u16 = 6432;

/// Where clients connect if the file is silent.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    DEFAULT_PORT,
);

/// The longest path of a Unix socket (`sun_path` of unix(7), less its NUL), in bytes.
const SOCKET_PATH_BYTES: usize = 107;

/// `listen:`. A Unix socket has the port of the first other entry.
pub(super) fn listen(field: Field<'_>) -> Vec<ListenAddress> {
    if !field.is_present() {
        return vec![ListenAddress::Tcp(DEFAULT_LISTEN)];
    }
    let entries = field.one_or_list();
    let written: Vec<Written<'_>> = entries
        .iter()
        .filter_map(|entry| {
            let place = entry.parsed(place)?;
            Some(Written { entry, place })
        })
        .collect();
    let mut ports = written.iter().filter_map(|written| match &written.place {
        Place::Address(address) if address.port() != 0 => Some(address.port()),
        Place::Address(_) | Place::Directory(_) => None,
    });
    let port = ports.next().unwrap_or(DEFAULT_PORT);
    let mut found: Vec<ListenAddress> = Vec::new();
    for Written { entry, place } in written {
        let address = match place {
            Place::Address(address) => ListenAddress::Tcp(address),
            Place::Directory(directory) => {
                if let Err(misfit) = fits(&directory, port) {
                    entry.refuse(misfit);
                    continue;
                }
                ListenAddress::Unix { directory, port }
            }
        };
        match found.iter().find(|other| clash(&address, other)) {
            Some(other) => entry.refuse(Misfit::new(format!("clashes with {other}"))),
            None => found.push(address),
        }
    }
    found
}

struct Written<'a> {
    entry: &'a Field<'a>,
    place: Place,
}

enum Place {
    Address(SocketAddr),
    Directory(PathBuf),
}

fn place(text: &str) -> Result<Place, Misfit> {
    if text.starts_with('/') {
        return Ok(Place::Directory(PathBuf::from(text)));
    }
    address(text).map(Place::Address).map_err(|_| {
        Misfit::new("is not an IP address with a port")
            .hint("write it as 127.0.0.1:6432, 0.0.0.0:6432 or [::1]:6432, or as a directory for a Unix socket")
    })
}

/// Whether the socket of `port` in `directory` has a name that the system takes.
pub(super) fn fits(directory: &Path, port: u16) -> Result<(), Misfit> {
    let path = socket_path(directory, port);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok(());
    }
    Err(Misfit::new("is too long for a Unix socket")
        .hint("the path of the socket has at most 107 bytes"))
}

/// `http:`.
pub(super) fn http(field: &Field<'_>, listen: &[ListenAddress]) -> Option<SocketAddr> {
    let http = field.parsed(address)?;
    let wanted = ListenAddress::Tcp(http);
    if let Some(other) = listen.iter().find(|other| clash(&wanted, other)) {
        field.refuse(
            Misfit::new(format!("clashes with {other} in listen")).hint("choose another port"),
        );
    }
    Some(http)
}

fn address(text: &str) -> Result<SocketAddr, Misfit> {
    text.parse().map_err(|_| {
        Misfit::new("is not an IP address with a port")
            .hint("write it as 127.0.0.1:6432, 0.0.0.0:6432 or [::1]:6432")
    })
}

/// Whether two sockets cannot both listen. Port 0 is chosen by the kernel and never clashes.
fn clash(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let same_family = a.is_ipv4() == b.is_ipv4();
            let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0 && a.port() == b.port() && same_family && overlap
        }
        (ListenAddress::Unix { .. }, ListenAddress::Unix { .. }) => a == b,
        (ListenAddress::Tcp(_), ListenAddress::Unix { .. })
        | (ListenAddress::Unix { .. }, ListenAddress::Tcp(_)) => false,
    }
}
