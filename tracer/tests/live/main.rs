//! Live tests: the tracer on this machine's kernel, against real sockets in network namespaces.
//!
//! Every scenario runs once per backend; `tool::` trials are about the program itself. One tracer
//! per backend serves all scenarios of that backend, because a start costs seconds on an emulated
//! machine: a scenario has a network namespace of its own and looks at its lines only.
//!
//! Needs root. `TRACER_BIN` names another tracer than the one cargo built, `TRACER_LIVE_REPORT` a
//! file that gets one JSON line per trial, `TRACER_LIVE_REFUSED` how many refused connects the leak
//! test makes, `TRACER_LIVE_ROUNDS` how often the ledger is compared with the kernel in a random life,
//! `TRACER_LIVE_SEED` which life that is, `TRACER_LIVE_COUNT_INSTRUCTIONS` has them counted, `TRACER_PROMETHEUS` a directory with `prometheus` and `promtool`.

mod actor;
mod bpf;
mod dump;
mod lines;
#[path = "../loopback/mod.rs"]
mod loopback;
mod mix;
mod netns;
mod output;
mod random;
mod report;
mod rounds;
mod scenarios;
mod scene;
mod shared;
mod tool;
mod tracer;
mod truth;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use shared::Backend;

fn main() -> ExitCode {
    if let Some(code) = actor::run_if_asked() {
        return code;
    }
    let mut args = Arguments::from_args();
    // The trials share tracers, and some load the machine: side by side they would disturb another.
    args.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&args, trials());
    shared::stop_all();
    conclusion.exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        for scenario in scenarios::all() {
            trials.push(report::trial(backend.name(), scenario.name, move || {
                scene::play(backend, scenario)
            }));
        }
        for (name, run) in scenarios::ALONE {
            trials.push(report::trial(backend.name(), name, move || run(backend)));
        }
        // These two last: the first ends the shared tracer, which should not print the other's flood.
        trials.push(report::trial(backend.name(), "stream", move || {
            scenarios::stream::whole_run(backend)
        }));
        trials.push(report::trial(
            backend.name(),
            "million_refused",
            move || scenarios::leak::million_refused(backend),
        ));
    }
    for test in tool::all() {
        trials.push(report::trial("tool", test.name, test.run));
    }
    trials
}
