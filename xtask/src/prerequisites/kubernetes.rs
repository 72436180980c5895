//! The validator of Kubernetes' own schema, for the test of the DaemonSet that is shipped: a Python package, in a
//! directory of its own.

use std::process::Command;

use anyhow::Result;

use crate::process::{run, say, target_directory};

/// It brings the schemas along. kubeconform and kubectl need a network or a cluster for that.
const PACKAGE: &str = "kubernetes-validate";
const VERSION: &str = "1.34.1";

/// Without it its test is skipped, so a failure is told and no more.
pub(super) fn install() {
    if let Err(error) = try_install() {
        say(&format!("{error:#}: the test of the DaemonSet is skipped"));
    }
}

fn try_install() -> Result<()> {
    let place = target_directory().join("tools").join(PACKAGE);
    // It is left there once all is installed.
    let mark = place.join(VERSION);
    if mark.exists() {
        return Ok(());
    }
    say(&format!(
        "installing {PACKAGE} {VERSION} with pip into {} (it checks the DaemonSet)",
        place.display()
    ));
    let mut python = Command::new("python3");
    run(python.args(["-m", "venv", "--clear"]).arg(&place))?;
    let mut pip = Command::new(place.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet"]);
    run(pip.arg(format!("{PACKAGE}=={VERSION}")))?;
    Ok(std::fs::write(mark, "")?)
}
