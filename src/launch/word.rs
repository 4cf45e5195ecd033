//! The word `go`, which brings the stage all that it has to know: the specification and where the
//! program's output goes.
//!
//! One message on the socket of `launch` and `stage`. A specification that is too long for it comes
//! as a descriptor of sealed memory. Said by `staged`, heard by `stage`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::{Errno, pread, retry_on_intr, write};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

/// What goes into the message itself. The kernel takes up to 200 KiB at once, if nobody has
/// lowered `net.core.wmem_default`; few specifications come to a tenth of this.
const SHORT: usize = 32 * 1024;
/// stdout, stderr, and a long specification.
const DESCRIPTORS: usize = 3;

/// What healer says.
#[derive(Debug)]
pub(super) enum Word {
    /// The specification.
    Short(Vec<u8>),
    /// Memory that holds it, and that nobody can change any more.
    Long(OwnedFd),
}

/// What the stage heard.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) spec: Vec<u8>,
    pub(super) output: [OwnedFd; 2],
}

impl Word {
    pub(super) fn of(spec: Vec<u8>) -> io::Result<Self> {
        if spec.len() <= SHORT { Ok(Self::Short(spec)) } else { sealed(&spec).map(Self::Long) }
    }

    /// Says it, at once or not at all.
    pub(super) fn say(&self, socket: impl AsFd, output: &[OwnedFd; 2]) -> Result<(), Errno> {
        let (spec, memory): (&[u8], _) = match self {
            Self::Short(spec) => (spec, None),
            Self::Long(memory) => (&[], Some(memory.as_fd())),
        };
        let descriptors: Vec<_> = output.iter().map(AsFd::as_fd).chain(memory).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space was made for so many descriptors");
        // A message without a byte would be taken for the end.
        let word = [io::IoSlice::new(b"g"), io::IoSlice::new(spec)];
        sendmsg(socket, &word, &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Waits until it is said; `None` where healer has gone instead, or was never there.
    pub(super) fn hear(socket: BorrowedFd<'_>) -> Result<Option<Heard>, Errno> {
        let look = RecvFlags::PEEK | RecvFlags::TRUNC;
        let looked = retry_on_intr(|| recv(socket, &mut [0; 1], look));
        let length = looked.map_or(0, |(_, length)| length);
        let Some(length) = length.checked_sub(1) else { return Ok(None) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (mut word, mut spec) = ([0], vec![0; length]);
        let mut parts = [io::IoSliceMut::new(&mut word), io::IoSliceMut::new(&mut spec)];
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let mut descriptors = descriptors.flatten();
        let (Some(stdout), Some(stderr)) = (descriptors.next(), descriptors.next()) else {
            return Err(Errno::BADF);
        };
        if let Some(memory) = descriptors.next() {
            spec = read_to_end(&memory)?;
        }
        Ok(Some(Heard { spec, output: [stdout, stderr] }))
    }
}

/// The specification in memory that nobody can change any more.
fn sealed(spec: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create(c"healer-stage", flags)?;
    let mut rest = spec;
    while !rest.is_empty() {
        let written = write(&memory, rest)?;
        rest = &rest[written..];
    }
    fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(memory)
}

fn read_to_end(memory: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let size = usize::try_from(fstat(memory)?.st_size).map_err(|_| Errno::FBIG)?;
    let mut bytes = vec![0; size];
    let mut have = 0;
    while have < size {
        match pread(memory, &mut bytes[have..], have as u64)? {
            0 => return Err(Errno::IO),
            more => have += more,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn sockets() -> (OwnedFd, OwnedFd) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Where the program's output goes: two ends of one pipe, to tell them apart.
    fn output() -> [OwnedFd; 2] {
        rustix::pipe::pipe().unwrap().into()
    }

    #[rstest]
    #[case::nothing(0)]
    #[case::short(700)]
    #[case::just_short(SHORT)]
    #[case::just_long(SHORT + 1)]
    #[case::as_long_as_an_exec_takes(6 * 1024 * 1024)]
    fn word_brings_the_specification_and_both_descriptors(#[case] length: usize) {
        let ((healer, stage), output) = (sockets(), output());
        let spec: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        Word::of(spec.clone()).unwrap().say(&healer, &output).unwrap();
        let heard = Word::hear(stage.as_fd()).unwrap().unwrap();
        assert!(heard.spec == spec, "{length} bytes");
        let inode = |fd: &OwnedFd| fstat(fd).unwrap().st_ino;
        assert_eq!(heard.output.each_ref().map(inode), output.each_ref().map(inode));
        for fd in &heard.output {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn long_specification_cannot_be_changed() {
        let Word::Long(memory) = Word::of(vec![0; SHORT + 1]).unwrap() else { panic!("short") };
        assert_eq!(write(&memory, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::io::pwrite(&memory, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&memory, 0), Err(Errno::PERM));
    }

    #[test]
    fn end_of_healer_is_no_word() {
        let (healer, stage) = sockets();
        drop(healer);
        assert!(Word::hear(stage.as_fd()).unwrap().is_none());
    }

    #[test]
    fn word_without_descriptors_is_refused() {
        let (healer, stage) = sockets();
        rustix::net::send(&healer, b"g", SendFlags::NOSIGNAL).unwrap();
        assert_eq!(Word::hear(stage.as_fd()).unwrap_err(), Errno::BADF);
    }
}
