//! Reading recordings needs no Linux: does tracer still compile for another Unix?

use std::process::Command;

use anyhow::Result;

use crate::{
    cargo::cargo,
    process::{find, run, say},
};

/// Of those that rustup has a standard library for, the one that differs most from Linux without wanting an SDK.
const TARGET: &str = "x86_64-unknown-freebsd";

/// Type-checks tracer for it. Skipped, with the reason, where its standard library can't be had.
pub(crate) fn check() -> Result<()> {
    let Some(rustup) = find("rustup") else {
        say(&format!(
            "skipped the check for {TARGET}: rustup, which installs its standard library, is not installed"
        ));
        return Ok(());
    };
    if let Err(error) = run(Command::new(rustup).args(["target", "add", TARGET])) {
        say(&format!(
            "skipped the check for {TARGET}: its standard library can't be had: {error:#}"
        ));
        return Ok(());
    }
    // Libraries in C are compiled for this machine: nothing is linked, so nobody sees the difference.
    run(cargo()
        .args(["check", "--package", "tracer", "--lib", "--bins"])
        .args(["--target", TARGET])
        .env("CC_x86_64_unknown_freebsd", "cc")
        .env("AR_x86_64_unknown_freebsd", "ar")
        .env("RUSTFLAGS", "-D warnings"))
}
