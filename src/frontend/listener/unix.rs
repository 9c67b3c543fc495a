//! A listening Unix socket with its lock file, as PostgreSQL has them
//! (`src/backend/utils/init/miscinit.c`, `CreateLockFile`).
//!
//! The first line of the lock file is our process id, which PostgreSQL looks at when it wants the
//! same port. Among processes of ours a lock on the open file decides, which ends with its holder
//! however that dies; whether another server is alive, its socket tells.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::config::socket_path;
use crate::limits::LISTEN_BACKLOG;

/// Who may connect: everybody, as with PostgreSQL's `unix_socket_permissions`.
const SOCKET_MODE: u32 = 0o777;

/// Who may read the lock file: its owner only, as with PostgreSQL's.
const LOCK_MODE: u32 = 0o600;

/// The files of a listening socket; dropping it removes them.
#[derive(Debug)]
pub(super) struct SocketFiles {
    socket: PathBuf,
    lock: PathBuf,
    /// Locked as long as it is open.
    _held: File,
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        // The socket first: whoever finds no lock file may bind at once. They may be gone already.
        drop(fs::remove_file(&self.socket));
        drop(fs::remove_file(&self.lock));
    }
}

/// Listens on the socket for `port` in `directory`. A socket whose server is gone is replaced.
///
/// # Errors
/// When a server is alive there, or the files cannot be made.
pub(super) fn bind(directory: &Path, port: u16) -> io::Result<(UnixListener, SocketFiles)> {
    let socket = socket_path(directory, port);
    let mut lock = socket.clone().into_os_string();
    lock.push(".lock");
    let lock = PathBuf::from(lock);
    let mut held = hold(&lock)?;
    clear(&socket)?;
    write_owner(&mut held, directory, port)?;
    let files = SocketFiles {
        socket,
        lock,
        _held: held,
    };
    let listening = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listening.set_nonblocking(true)?;
    listening.bind(&SockAddr::unix(&files.socket)?)?;
    fs::set_permissions(&files.socket, Permissions::from_mode(SOCKET_MODE))?;
    listening.listen(LISTEN_BACKLOG)?;
    Ok((UnixListener::from_std(listening.into())?, files))
}

/// Opens the lock file and locks it.
fn hold(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(LOCK_MODE)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use("another process holds its lock file")),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Its last holder may have removed it since it was opened.
    let (ours, there) = (file.metadata()?, fs::metadata(path)?);
    if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
        return Err(in_use("its lock file was just replaced"));
    }
    Ok(file)
}

/// Makes the place of the socket free, unless somebody listens there.
fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(in_use("something that is no socket lies there"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Also a full backlog: somebody owns it.
        Ok(()) | Err(_) => Err(in_use("a server listens there")),
    }
}

fn write_owner(lock: &mut File, directory: &Path, port: u16) -> io::Result<()> {
    let process = std::process::id();
    lock.set_len(0)?;
    lock.rewind()?;
    // Process, data directory, start, port, socket directory: `src/include/utils/pidfile.h`.
    writeln!(
        lock,
        "{process}\npgweir\n0\n{port}\n{}",
        directory.display()
    )
}

fn in_use(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    /// A directory of a test's own; removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let name = format!("pgweir-unix-{:016x}", rand::random::<u64>());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[tokio::test]
    async fn the_files_are_there_as_long_as_the_socket() {
        let directory = Directory::new();
        let bound = bind(&directory.0, 7).unwrap();
        assert_eq!(directory.names(), [".s.PGSQL.7", ".s.PGSQL.7.lock"]);
        let lock = fs::read_to_string(directory.0.join(".s.PGSQL.7.lock")).unwrap();
        let process = std::process::id().to_string();
        assert_eq!(lock.lines().next(), Some(process.as_str()));
        assert_eq!(lock.lines().nth(3), Some("7"));
        let mode = fs::metadata(directory.0.join(".s.PGSQL.7")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o777);
        net::UnixStream::connect(directory.0.join(".s.PGSQL.7")).unwrap();
        drop(bound);
        assert_eq!(directory.names(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = Directory::new();
        let path = directory.0.join(".s.PGSQL.7");
        // A server that dies leaves both files behind.
        drop(net::UnixListener::bind(&path).unwrap());
        fs::write(
            directory.0.join(".s.PGSQL.7.lock"),
            "999999\nlong\nlines\nof\nothers\n",
        )
        .unwrap();
        let bound = bind(&directory.0, 7).unwrap();
        let held = bind(&directory.0, 7).unwrap_err();
        assert_eq!(held.to_string(), "another process holds its lock file");
        drop(bound);

        let _foreign = net::UnixListener::bind(&path).unwrap();
        let live = bind(&directory.0, 7).unwrap_err();
        assert_eq!(live.to_string(), "a server listens there");
        assert!(path.exists());

        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        let file = bind(&directory.0, 7).unwrap_err();
        assert_eq!(file.to_string(), "something that is no socket lies there");
        assert!(bind(Path::new("/nonexistent"), 7).is_err());
    }
}
