//! The kernels of the VM matrix: which ones, where they come from, where they are kept.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use crate::process::{say, target_directory};

/// A Debian suite stands for the kernel series it ships.
struct Series {
    name: &'static str,
    suite: &'static str,
}

const MATRIX: [Series; 4] = [
    Series {
        name: "5.10",
        suite: "bullseye",
    },
    Series {
        name: "6.1",
        suite: "bookworm",
    },
    Series {
        name: "6.12",
        suite: "trixie",
    },
    Series {
        name: "newest",
        suite: "sid",
    },
];

/// A bootable kernel on this machine's disk.
pub(crate) struct Kernel {
    /// What the summary calls it: its release where we know it.
    pub(super) name: String,
    pub(super) image: PathBuf,
    /// Holds `kernel/…/*.ko`, below it somewhere.
    pub(super) modules: Option<PathBuf>,
    /// Console log, initramfs and report of its runs.
    pub(super) directory: PathBuf,
    /// Keeps other runs out of that directory for as long as this one lives.
    _lock: File,
}

impl Kernel {
    /// One that the user brings along.
    pub(super) fn custom(image: &Path, modules: Option<&Path>) -> Result<Self> {
        if !image.is_file() {
            bail!("--kernel {}: there is no such file", image.display());
        }
        let name = image
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let directory = cache().join(&name);
        Ok(Self {
            _lock: lock(&directory)?,
            directory,
            image: image.to_path_buf(),
            modules: modules.map(Path::to_path_buf),
            name,
        })
    }
}

/// The Debian kernels of these series, all when none is named; downloaded the first time.
pub(super) fn debian(only: &[String]) -> Result<Vec<Kernel>> {
    if let Some(unknown) = only
        .iter()
        .find(|name| MATRIX.iter().all(|each| each.name != *name))
    {
        let known = MATRIX.map(|each| each.name).join(", ");
        bail!("--only {unknown}: no such kernel in the matrix ({known})");
    }
    let wanted = |series: &&Series| only.is_empty() || only.iter().any(|name| name == series.name);
    MATRIX.iter().filter(wanted).map(locate).collect()
}

fn locate(series: &Series) -> Result<Kernel> {
    let directory = cache().join(series.name);
    let lock = lock(&directory)?;
    let root = directory.join("root");
    if !root.is_dir() {
        download(series, &directory, &root)
            .with_context(|| format!("cannot get the {} kernel", series.name))?;
    }
    unpacked(&directory, &root, lock).with_context(|| {
        format!(
            "{} is incomplete: delete it to download it again",
            directory.display()
        )
    })
}

fn download(series: &Series, directory: &Path, root: &Path) -> Result<()> {
    let suite = series.suite;
    say(&format!(
        "downloading the {} kernel of Debian {suite} through apt",
        series.name
    ));
    // Whatever an interrupted download left is not to be mixed with this one.
    let (apt_root, partial) = (directory.join("apt"), directory.join("root.partial"));
    for leftover in [&apt_root, &partial] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)?;
        }
    }
    let apt = Apt::update(suite, &apt_root)?;
    let packages = apt.kernel_packages()?;
    say(&format!("  {}", packages.join(" ")));
    fs::create_dir_all(&partial)?;
    apt.unpack(&packages, &partial)?;
    fs::rename(&partial, root)?;
    // Package lists and packages are ten times the kernel and of no further use.
    fs::remove_dir_all(&apt_root).context("cannot clean up")
}

fn unpacked(directory: &Path, root: &Path, lock: File) -> Result<Kernel> {
    // Before usrmerge modules were below /lib.
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|path| only_entry(&root.join(path)))
        .context("it has no modules")?;
    let name = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // Since Linux 7 Debian keeps the image beside the modules.
    let image = [
        root.join("boot").join(format!("vmlinuz-{name}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|path| path.is_file())
    .context("it has no vmlinuz")?;
    Ok(Kernel {
        name,
        image,
        modules: Some(modules),
        directory: directory.to_path_buf(),
        _lock: lock,
    })
}

/// Takes the directory for this run, when another has it after that.
fn lock(directory: &Path) -> Result<File> {
    let cannot_lock = || format!("cannot lock {}", directory.display());
    fs::create_dir_all(directory).with_context(cannot_lock)?;
    let file = File::create(directory.join("lock")).with_context(cannot_lock)?;
    if file.try_lock().is_err() {
        say(&format!(
            "waiting for another run that uses {}",
            directory.display()
        ));
        file.lock().with_context(cannot_lock)?;
    }
    Ok(file)
}

fn only_entry(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?;
    Some(entries.next()?.ok()?.path())
}

pub(super) fn cache() -> PathBuf {
    target_directory().join("vm")
}
