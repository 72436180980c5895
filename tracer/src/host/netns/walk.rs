//! Finds the network namespaces of the host: the kernel has no list of them, so look at who keeps them.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Dir, FsWord, Mode, OFlags, fstat, fstatfs, openat, readlinkat_raw},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{Namespace, OwnedFd};

/// `NSFS_MAGIC` of the kernel's `linux/magic.h`.
const NSFS: FsWord = 0x6e73_6673;

pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// Every network namespace that a thread is in, a process has a descriptor of, or is bound to a path; that
/// of this thread comes first. Those that only a socket keeps are not found. An error means that more may be there.
pub fn all() -> io::Result<Vec<Namespace>> {
    let mut walk = Walk::begin()?;
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let name = process.file_name();
        if name.as_bytes().iter().all(u8::is_ascii_digit) {
            walk.process(&process.path())?;
        }
    }
    Ok(walk.end())
}

struct Walk {
    found: Vec<Namespace>,
    /// The inodes of `found`.
    seen: HashSet<u32>,
    /// Inodes of those that could not be opened where they were met; they may be met again.
    closed: BTreeMap<u32, io::Error>,
    /// Inodes of the mount namespaces whose mounts have been read.
    mounts: HashSet<u32>,
    /// The one whose paths we can open.
    own_mounts: Option<u32>,
}

impl Walk {
    fn begin() -> io::Result<Self> {
        let inode = inode_of(CWD, Path::new(OWN), "net").ok_or(io::ErrorKind::NotFound)?;
        let own = Namespace::at(Path::new(OWN), inode);
        Ok(Self {
            found: vec![own],
            seen: HashSet::from([inode]),
            closed: BTreeMap::new(),
            mounts: HashSet::new(),
            own_mounts: inode_of(CWD, Path::new("/proc/thread-self/ns/mnt"), "mnt"),
        })
    }

    fn process(&mut self, dir: &Path) -> io::Result<()> {
        self.links(&dir.join("task"), Some("ns/net"))?;
        // There may be a hundred thousand descriptors (2.5 µs each).
        self.links(&dir.join("fd"), None)?;
        self.mounts(dir)
    }

    /// The entries of a directory, or what is below each of them. Links are read without the way from the root.
    fn links(&mut self, dir: &Path, below: Option<&str>) -> io::Result<()> {
        let opened = open_anyway(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY);
        let Some(mut entries) = unless_gone(opened)?.map(Dir::new).transpose()? else {
            return Ok(());
        };
        while let Some(Ok(entry)) = entries.read() {
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            match below {
                Some(below) => self.link(entries.fd()?, dir, &name.join(below)),
                None => self.link(entries.fd()?, dir, name),
            }
        }
        Ok(())
    }

    /// A link in the directory `at` of /proc that may lead to a namespace.
    fn link(&mut self, dir: BorrowedFd, at: &Path, name: &Path) {
        if let Some(inode) = inode_of(dir, name, "net").filter(|inode| !self.seen.contains(inode)) {
            self.add(inode, &at.join(name), open_namespace(dir, name, inode));
        }
    }

    fn add(&mut self, inode: u32, place: &Path, file: io::Result<OwnedFd>) {
        match file {
            Ok(file) => {
                self.seen.insert(inode);
                self.found.push(Namespace {
                    inode,
                    place: place.into(),
                    file: Ok(file),
                });
            }
            // It was left meanwhile; whoever else is in it still shows it.
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                self.closed.insert(inode, error);
            }
        }
    }

    fn end(mut self) -> Vec<Namespace> {
        for (inode, error) in self.closed {
            if !self.seen.contains(&inode) {
                self.found.push(Namespace {
                    inode,
                    place: PathBuf::new(),
                    file: Err(error),
                });
            }
        }
        self.found
    }

    /// Namespaces that are bound to paths, as `ip netns` and container runtimes do.
    fn mounts(&mut self, dir: &Path) -> io::Result<()> {
        let mounts = inode_of(CWD, &dir.join("ns/mnt"), "mnt");
        let Some(mounts) = mounts.filter(|mounts| !self.mounts.contains(mounts)) else {
            return Ok(());
        };
        let Some(mountinfo) = unless_gone(fs::read(dir.join("mountinfo")))? else {
            return Ok(());
        };
        self.mounts.insert(mounts);
        for (inode, path) in bound(&mountinfo) {
            if !self.seen.contains(&inode) {
                let file = if Some(mounts) == self.own_mounts {
                    open_namespace(CWD, &path, inode)
                } else {
                    // A path of strangers may lead anywhere, to a server that never answers too.
                    let message = "it is only bound to a path in another mount namespace";
                    Err(io::Error::other(message))
                };
                self.add(inode, &path, file);
            }
        }
        Ok(())
    }
}

/// Processes end while we look, and some may be hidden from us: nothing is there then. Any other error, such
/// as too many open files, would hide namespaces that are there.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // `ESRCH`: the process has ended since its directory was opened. `EINVAL`: it is a zombie (mountinfo).
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::SRCH | Errno::INVAL)) || error.kind() == io::ErrorKind::NotFound
}

/// The number in a link of the form `net:[4026531840]`; other links may be longer than the buffer.
fn inode_of(dir: BorrowedFd, link: &Path, kind: &str) -> Option<u32> {
    let mut buffer = [0; 32];
    let length = readlinkat_raw(dir, link, &mut buffer).ok()?;
    number(buffer.get(..length)?, kind)
}

fn number(text: &[u8], kind: &str) -> Option<u32> {
    let rest = std::str::from_utf8(text).ok()?.strip_prefix(kind)?;
    rest.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

impl Namespace {
    /// That with this inode, if `place` leads to it.
    pub(super) fn at(place: &Path, inode: u32) -> Self {
        Self {
            inode,
            place: place.into(),
            file: open_namespace(CWD, place, inode),
        }
    }

    /// Whichever `place` leads to.
    pub(super) fn any_at(place: &Path) -> io::Result<Self> {
        let found = open_anyway(CWD, place, OFlags::PATH)?;
        if fstatfs(&found)?.f_type != NSFS {
            return Err(io::Error::other("that is no namespace"));
        }
        let inode = u32::try_from(fstat(&found)?.st_ino).map_err(io::Error::other)?;
        let file = open_namespace(CWD, place, inode)?;
        Ok(Self {
            inode,
            place: place.into(),
            file: Ok(file),
        })
    }
}

/// Opens the namespace with that inode. What lies at the path may have changed: a descriptor by now may
/// be a device that does something when it is opened. So it is looked at before.
fn open_namespace(dir: BorrowedFd, path: &Path, inode: u32) -> io::Result<OwnedFd> {
    let found = open_anyway(dir, path, OFlags::PATH)?;
    if fstatfs(&found)?.f_type != NSFS || fstat(&found)?.st_ino != u64::from(inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    open_anyway(CWD, Path::new(&path), OFlags::RDONLY)
}

/// Raises our limit on descriptors if it is in the way: the usual one is below the number of namespaces
/// of a large container host.
fn open_anyway(dir: BorrowedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut opened = openat(dir, path, flags, Mode::empty());
    if matches!(opened, Err(Errno::MFILE)) && raise_limit() {
        opened = openat(dir, path, flags, Mode::empty());
    }
    Ok(opened?)
}

/// Whether there was room below the hard limit.
fn raise_limit() -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    current != maximum && setrlimit(Resource::Nofile, raised).is_ok()
}

/// Network namespaces in a `mountinfo`, and the paths they are bound to.
fn bound(mountinfo: &[u8]) -> Vec<(u32, PathBuf)> {
    let line = |line: &[u8]| {
        // id, parent, device, root, mount point, ..., "-", type of the file system, ...
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(separator + 1)? != b"nsfs" {
            return None;
        }
        let inode = number(fields.get(3)?, "net")?;
        let path = unescaped(fields.get(4)?);
        Some((inode, PathBuf::from(OsStr::from_bytes(&path))))
    };
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// The kernel writes blanks and backslashes of paths as `\` and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let octal = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        u8::from_str_radix(digits, 8).ok()
    };
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(octal);
        path.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    path
}

#[cfg(test)]
mod tests {
    use rustix::{
        mount::{MountPropagationFlags, mount_bind, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;
    use crate::host::netns::tests::{elsewhere, here};

    fn has(found: &[Namespace], inode: u32) -> bool {
        let is_it = |each: &&Namespace| each.inode == inode;
        found
            .iter()
            .find(is_it)
            .is_some_and(|each| each.file.is_ok())
    }

    #[test]
    fn our_own_comes_first_and_each_only_once() {
        let found = all().unwrap();
        assert_eq!(found[0].inode, here());
        assert!(found[0].file.is_ok());
        let unique: HashSet<u32> = found.iter().map(|each| each.inode).collect();
        assert_eq!(unique.len(), found.len());
    }

    #[test]
    fn finds_that_of_a_thread_and_that_of_a_descriptor() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let found = all().unwrap();
        assert!(has(&found, inode));
        drop(leave);
        thread.join().unwrap();
        // Now only the descriptor that we hold in `found` keeps it.
        assert!(has(&all().unwrap(), inode));
    }

    #[test]
    fn finds_one_that_is_bound_to_a_path() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: binding a network namespace needs root");
        }
        let place = std::env::temp_dir().join(format!("tracer netns {}", std::process::id()));
        fs::write(&place, "").unwrap();
        let path = place.clone();
        // In a mount namespace of its own, so that nothing of the host changes.
        let bind = move || {
            // SAFETY: the thread is alone in its file system context then; no descriptor table is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let before = here();
            let process = Path::new("/proc/thread-self");
            // SAFETY: `NEWNET` touches no descriptor table.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let inode = here();
            mount_bind(OWN, &path).unwrap();
            assert_eq!(Namespace::any_at(&path).unwrap().inode, inode);
            super::super::tests::enter(before);
            let mut walk = Walk::begin().unwrap();
            walk.mounts(process).unwrap();
            assert!(has(&walk.end(), inode));
            // Met in a mount namespace that is not ours, it is known, but can't be opened.
            let mut walk = Walk::begin().unwrap();
            walk.own_mounts = None;
            walk.mounts(process).unwrap();
            let found = walk.end();
            assert!(found.iter().any(|each| each.inode == inode) && !has(&found, inode));
        };
        std::thread::spawn(bind).join().unwrap();
        fs::remove_file(&place).unwrap();
    }

    #[test]
    fn one_that_was_closed_at_first_may_be_opened_elsewhere() {
        let mut walk = Walk::begin().unwrap();
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        for inode in [1, 2] {
            walk.add(inode, Path::new("/1"), denied());
        }
        walk.add(
            1,
            Path::new("/2"),
            Ok(openat(CWD, "/dev/null", OFlags::RDONLY, Mode::empty()).unwrap()),
        );
        walk.add(3, Path::new("/3"), Err(io::ErrorKind::NotFound.into()));
        let found = walk.end();
        let inodes: Vec<u32> = found[1..].iter().map(|each| each.inode).collect();
        assert_eq!(inodes, [1, 2]);
        assert!(has(&found, 1) && !has(&found, 2));
        assert!(found.iter().any(|each| each.place == Path::new("/2")));
    }

    #[test]
    fn reads_mountinfo() {
        let text = br"22 1 0:21 / /proc rw shared:5 - proc proc rw
30 22 0:4 net:[4026532177] /run/netns/a\040b rw shared:9 master:1 - nsfs nsfs rw
31 22 0:4 mnt:[4026532178] /run/x rw - nsfs nsfs rw
32 22 0:5 net:[7] /not/nsfs rw - tmpfs none rw
short
";
        let expected = (4_026_532_177, PathBuf::from("/run/netns/a b"));
        assert_eq!(bound(text), [expected]);
        assert_eq!(unescaped(br"a\134\1\999\0"), br"a\\1\999\0");
    }

    #[test]
    fn opens_nothing_but_the_namespace_that_was_seen() {
        let not_it = open_namespace(CWD, Path::new(OWN), 1).unwrap_err();
        assert_eq!(not_it.kind(), io::ErrorKind::NotFound);
        let no_namespace = open_namespace(CWD, Path::new("/dev/null"), here()).unwrap_err();
        assert_eq!(no_namespace.kind(), io::ErrorKind::NotFound);
        let no_namespace = Namespace::any_at(Path::new("/dev/null")).unwrap_err();
        assert_eq!(no_namespace.to_string(), "that is no namespace");
    }
}
