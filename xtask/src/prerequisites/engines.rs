//! The engines that the queries under `docs/engines` are tried on: Python packages, in a directory of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::apt_install;
use crate::process::{find, run, say, target_directory, workspace};

/// The packages and their versions, from the root of the workspace.
const REQUIREMENTS: &str = "tracer/tests/engines/requirements.txt";

fn directory() -> PathBuf {
    target_directory().join("engines")
}

/// Without the engines the tests of the queries are skipped, so a failure is told and no more.
pub(super) fn install() {
    if let Err(error) = python() {
        say(&format!("{error:#}: the tests of the queries are skipped"));
    }
}

/// A Python that has the engines. If they are missing, or others are required now, they are installed, after saying so.
pub(crate) fn python() -> Result<PathBuf> {
    let directory = directory();
    if !is_installed(&directory)? {
        say(&format!(
            "installing chdb-core and duckdb with pip into {} (the queries under docs/engines are tried on them)",
            directory.display()
        ));
        install_into(&directory).context("the engines can't be installed")?;
    }
    Ok(directory.join("bin/python"))
}

/// Whether the directory has just what is required: the list is left there once all is installed.
fn is_installed(directory: &Path) -> Result<bool> {
    let path = workspace().join(REQUIREMENTS);
    let required = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let installed = fs::read(directory.join("requirements.txt"));
    Ok(installed.is_ok_and(|installed| installed == required))
}

fn install_into(directory: &Path) -> Result<()> {
    let requirements = workspace().join(REQUIREMENTS);
    let venv = || {
        let mut python = Command::new("python3");
        run(python.args(["-m", "venv", "--clear"]).arg(directory))
    };
    // Debian's python3 comes without it.
    if venv().is_err() && find("apt-get").is_some() {
        apt_install(&["python3-venv"])?;
        venv()?;
    }
    let mut pip = Command::new(directory.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
    run(pip.arg(&requirements))?;
    fs::copy(&requirements, directory.join("requirements.txt"))
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    Ok(())
}
