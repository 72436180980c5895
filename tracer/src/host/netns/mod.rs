//! Network namespaces: which there are, and what can be read only inside.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic,
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub mod host;
mod name;
mod settings;
mod source;
mod sysctl;
mod walk;
mod watch;

pub use name::{named, own};
pub use settings::{current, of_thread as settings_of_thread, settings};
pub use source::source_for;
pub use walk::all;
pub use watch::Watch;

/// A network namespace that was there when it was looked for, and stays as long as this is kept: the
/// kernel would dissolve it, and its TIME_WAIT sockets, only afterwards. So do not keep it for long.
#[derive(Debug)]
pub struct Namespace {
    pub inode: u32,
    /// A path that led to it.
    place: PathBuf,
    /// What to enter it by, or why that could not be opened.
    file: io::Result<OwnedFd>,
}

impl Namespace {
    /// Moves this thread.
    fn enter(&self) -> io::Result<()> {
        let file = self.file.as_ref().map_err(again)?;
        Ok(move_into_link_name_space(
            file.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }
}

/// Runs `body` in each namespace in turn, in one thread made for it: namespaces belong to threads, and that
/// of the caller does not change. The answers come in the order of the namespaces; an error names its
/// namespace. An error of the whole: the thread can't be made.
pub fn in_each<T: Send>(
    namespaces: &[Namespace],
    mut body: impl FnMut(&Namespace) -> io::Result<T> + Send,
) -> io::Result<Vec<io::Result<T>>> {
    let mut here = settings::inode_of_thread();
    let mut visit = |namespace: &Namespace| {
        // Where one is already takes no privilege.
        if here != namespace.inode {
            namespace
                .enter()
                .map_err(|error| failed(namespace, "entered", &error))?;
            here = namespace.inode;
        }
        body(namespace).map_err(|error| failed(namespace, "read", &error))
    };
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || namespaces.iter().map(&mut visit).collect())?;
        Ok(visitor
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause)))
    })
}

fn failed(namespace: &Namespace, done: &str, error: &io::Error) -> io::Error {
    let inode = namespace.inode;
    let text = format!("network namespace {inode} can't be {done}: {error}");
    io::Error::new(error.kind(), text)
}

/// `io::Error` can't be cloned.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::MetadataExt,
        sync::mpsc::{Sender, channel},
        thread::JoinHandle,
    };

    use rustix::{
        process::geteuid,
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;

    pub(super) const THREAD: &str = "/proc/thread-self/ns/net";

    pub(super) fn here() -> u32 {
        fs::metadata(THREAD).unwrap().ino() as u32
    }

    /// A thread in a new network namespace, until its sender is dropped. `None`: not root.
    pub(super) fn elsewhere() -> Option<(u32, Sender<()>, JoinHandle<()>)> {
        if !geteuid().is_root() {
            eprintln!("skipped: making a network namespace needs root");
            return None;
        }
        let (entered, entry) = channel();
        let (leave, left) = channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: `NEWNET` touches no descriptor table.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            entered.send(here()).unwrap();
            let _ = left.recv();
        });
        Some((entry.recv().unwrap(), leave, thread))
    }

    /// Moves this thread.
    pub(super) fn enter(inode: u32) {
        let found = all().unwrap();
        let namespace = found.iter().find(|each| each.inode == inode).unwrap();
        namespace.enter().unwrap();
    }

    #[test]
    fn visits_each_and_stays_where_it_was() {
        let Some((inode, leave, thread)) = elsewhere() else {
            return;
        };
        let before = here();
        let namespaces = all().unwrap();
        let at = namespaces.iter().position(|each| each.inode == inode);
        let visited = in_each(&namespaces, |_| Ok(here())).unwrap();
        assert_eq!(*visited[0].as_ref().unwrap(), before);
        assert_eq!(*visited[at.unwrap()].as_ref().unwrap(), inode);
        assert_eq!(here(), before);
        drop(leave);
        thread.join().unwrap();
    }

    #[test]
    fn an_error_names_its_namespace() {
        let namespace = Namespace {
            inode: 42,
            place: PathBuf::new(),
            file: Err(io::Error::from_raw_os_error(13)),
        };
        let visited = in_each(&[namespace], |_| Ok(())).unwrap();
        let error = visited[0].as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "network namespace 42 can't be entered: Permission denied (os error 13)"
        );
    }
}
