//! The socket in the file system, and who may use it.
//!
//! It is made under another name, given its group and mode, and only then put in its place: at no
//! moment can anybody connect who may not. Whoever calls this holds healer's lock, so that what is
//! in that place is left over from a healer that is gone. Called by `daemon` and `server`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use crate::users;

use super::{GROUP, SOCKET};

/// The name under which the socket is made.
const UNDER_WAY: &str = "healer.sock.new";
/// Connections that are not accepted yet; more wait in connect(2).
const BACKLOG: i32 = 128;

/// A socket in its place, listening.
#[derive(Debug)]
pub struct Bound {
    /// Accepts connections; does not block.
    pub listener: UnixListener,
    /// Where it is, and for whom.
    pub place: Place,
}

/// Where a socket is, and for whom.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    identity: (u64, u64),
    group: Option<u32>,
    /// Why members of the group cannot use it, though there is one.
    pub withheld: Option<String>,
}

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct SocketError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Bound {
    /// Puts a socket into this directory, in the place of one that is there.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    pub fn in_directory(directory: &Path) -> Result<Self, SocketError> {
        let path = directory.join(SOCKET);
        let at = |what| {
            let path = path.clone();
            move |errno: Errno| SocketError { what, path, source: errno.into() }
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = rustix::fs::open(directory, flags, Mode::empty()).map_err(at("open"))?;
        let socket = listen(&inside).map_err(at("listen on"))?;
        let (group, withheld) = match users::listed_group(GROUP) {
            Ok(None) => (None, None),
            Ok(Some(group)) => match admit(inside.as_fd(), group) {
                Ok(()) => (Some(group), None),
                Err(errno) => (None, Some(format!("the socket cannot be given to it: {errno}"))),
            },
            Err(error) => (None, Some(error.to_string())),
        };
        let identity = identity(inside.as_fd(), UNDER_WAY).map_err(at("look at"))?;
        rustix::fs::renameat_with(&inside, UNDER_WAY, &inside, SOCKET, RenameFlags::empty())
            .map_err(at("put into its place"))?;
        let place = Place { path, identity, group, withheld };
        Ok(Self { listener: socket.into(), place })
    }
}

impl Place {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the socket is still there.
    pub fn holds(&self) -> bool {
        identity(rustix::fs::CWD, &self.path).is_ok_and(|found| found == self.identity)
    }

    /// Whether whoever is at the other end may use it: root, healer's own user, a member of the
    /// group. The mode of the file says the same, as long as nobody changes it.
    pub fn admits(&self, peer: &Peer) -> bool {
        let member = |group| peer.gid == group || peer.groups.contains(&group);
        let own = rustix::process::geteuid().as_raw();
        peer.uid == 0 || peer.uid == own || self.group.is_some_and(member)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.holds() {
            // Left behind it would do no harm: nobody listens.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Makes the socket under its other name: nobody but its owner can connect.
fn listen(inside: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives a bound socket the mode that it has unbound.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::unlinkat(inside, UNDER_WAY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    // Through the descriptor: the path itself may be longer than an address can be.
    let address = format!("/proc/self/fd/{}/{UNDER_WAY}", inside.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(address)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Lets the members of a group in.
fn admit(inside: BorrowedFd<'_>, group: u32) -> rustix::io::Result<()> {
    let group = Some(Gid::from_raw(group));
    rustix::fs::chownat(inside, UNDER_WAY, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    rustix::fs::chmodat(inside, UNDER_WAY, mode, AtFlags::empty())
}

fn identity(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<(u64, u64)> {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((found.st_dev, found.st_ino))
}

/// Who is at the other end, as the kernel knows since the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective user.
    pub uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// What getsockopt(2) reports.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = stream.peer_cred()?;
        let groups = groups_of_peer(stream.as_fd())?;
        Ok(Self { uid: found.uid(), gid: found.gid(), groups })
    }

    /// Its user by name, as `/etc/passwd` has it, or by number.
    pub fn name(&self) -> String {
        match users::listed_user(self.uid) {
            Ok(Some(name)) => name,
            _ => format!("uid {}", self.uid),
        }
    }
}

/// The supplementary groups of the peer, `SO_PEERGROUPS` of unix(7).
fn groups_of_peer(stream: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "no crate has this option")]
        // SAFETY: the kernel writes at most `length` bytes to `groups`, which has so many, and says
        // in `length` how many those are, or would be.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let error = io::Error::last_os_error();
        let count = length as usize / size_of::<u32>();
        match result {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            _ if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            _ => return Err(error),
        }
    }
}

/// Connects to the socket at this path, however long it is. Blocks while the other side has too
/// many connections.
///
/// # Errors
///
/// What connect(2) reports.
pub fn connect(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let inside = rustix::fs::open(parent, flags, Mode::empty())?;
            let name = path.file_name().unwrap_or_default();
            let through = Path::new("/proc/self/fd").join(inside.as_raw_fd().to_string());
            let address = SocketAddrUnix::new(through.join(name))?;
            rustix::net::connect(&socket, &address)?;
            return Ok(socket.into());
        }
        address => address?,
    };
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn place(group: Option<u32>) -> Place {
        Place { path: PathBuf::from("/nowhere"), identity: (0, 0), group, withheld: None }
    }

    #[test]
    fn a_socket_is_its_owners_alone_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let inside = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        let _socket = listen(&inside).unwrap();
        assert_eq!(mode(&directory.path().join(UNDER_WAY)) & !0o600, 0, "from its first moment");
    }

    #[test]
    fn a_socket_replaces_what_a_dead_healer_left_and_is_removed_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET);
        // Left over, the second in the middle of its making.
        drop(UnixListener::bind(&path).unwrap());
        fs::write(directory.path().join(UNDER_WAY), "").unwrap();
        let bound = Bound::in_directory(directory.path()).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert!(bound.place.holds());
        connect(&path).unwrap();
        drop(bound);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_place_that_another_took_is_left_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Bound::in_directory(directory.path()).unwrap();
        let second = Bound::in_directory(directory.path()).unwrap();
        assert!(!first.place.holds());
        drop(first);
        assert!(second.place.holds());
    }

    #[test]
    fn the_longest_path_has_its_socket_too() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("d".repeat(200));
        fs::create_dir(&directory).unwrap();
        let bound = Bound::in_directory(&directory).unwrap();
        connect(bound.place.path()).unwrap();
    }

    #[test]
    fn no_directory_is_an_error_that_names_the_socket() {
        let error = Bound::in_directory(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/healer.sock");
    }

    #[test]
    fn root_healers_user_and_members_of_the_group_are_admitted_and_nobody_else() {
        let own = rustix::process::geteuid().as_raw();
        let peer = |uid, gid, groups: &[u32]| Peer { uid, gid, groups: groups.to_vec() };
        let stranger = own + 4_000;
        for group in [None, Some(77)] {
            assert!(place(group).admits(&peer(0, 1, &[])));
            assert!(place(group).admits(&peer(own, 1, &[])));
            assert!(!place(group).admits(&peer(stranger, 1, &[2, 3])));
            assert_eq!(place(group).admits(&peer(stranger, 77, &[])), group.is_some());
            assert_eq!(place(group).admits(&peer(stranger, 1, &[5, 77])), group.is_some());
        }
    }

    #[tokio::test]
    async fn a_peer_is_who_the_kernel_says() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        let mut expected: Vec<u32> =
            nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        let mut groups = peer.groups.clone();
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn a_socket_is_for_the_group_only_where_it_was_given_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let bound = Bound::in_directory(directory.path()).unwrap();
        let found = fs::symlink_metadata(bound.place.path()).unwrap();
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
        let group = users::listed_group(GROUP).unwrap();
        let expected = if group.is_some_and(|group| group == found.gid()) { 0o660 } else { 0o600 };
        assert_eq!(mode(bound.place.path()), expected);
    }
}
