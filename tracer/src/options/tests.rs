use std::collections::BTreeSet;

use super::{file::settings, *};

/// A value for each option, not its default.
const VALUES: &[(&str, &str)] = &[
    ("backend", "\"kprobe\""),
    ("max-sockets", "1000"),
    ("ring-size", "\"64K\""),
    ("warn", "50"),
    ("critical", "95"),
    ("coalesce-failures", "true"),
    ("interval", "3"),
    ("emit", "[\"state\", \"usage\"]"),
    ("pid", "[1, 2]"),
    ("comm", "\"nginx*\""),
    ("cgroup", "[\"/system.slice\"]"),
    ("container", "\"4b82\""),
    ("uid", "33"),
    ("netns", "[4026531840, \"blue\"]"),
    ("port", "[80, \"8000-8010\"]"),
    ("peer", "[\"10.0.0.0/8\", \"::1\"]"),
    ("role", "\"client\""),
    ("state", "\"TIME_WAIT\""),
    ("sample", "10"),
    ("output", "[\"-\", \"/var/log/tracer.jsonl\"]"),
    ("label", "[\"site=fra1\"]"),
    ("buffer", "\"8M\""),
    ("drain-timeout", "\"5s\""),
    ("rotate-size", "\"1G\""),
    ("rotate-age", "\"24h\""),
    ("rotate-keep", "3"),
    ("compress", "\"zstd\""),
    ("fsync", "\"always\""),
    ("flight-recorder", "\"/var/lib/tracer\""),
    ("keep", "\"5m\""),
    ("replayable", "true"),
    ("user", "\"nobody\""),
    ("metrics", "9464"),
    ("metrics-top", "20"),
    ("stats", "60"),
    ("max-cpu", "50"),
];

/// What some of them are of no use without.
const WITH: &[(&str, &str)] = &[
    ("rotate-size", "output = \"/var/log/tracer.jsonl\"\n"),
    ("rotate-age", "output = \"/var/log/tracer.jsonl\"\n"),
    ("rotate-keep", "rotate-age = \"1h\"\n"),
    ("compress", "rotate-age = \"1h\"\n"),
    ("fsync", "output = \"/var/log/tracer.jsonl\"\n"),
    ("keep", "flight-recorder = \"/var/lib/tracer\"\n"),
    ("metrics-top", "metrics = 9464\n"),
];

/// A file that is removed with it.
struct Written(std::path::PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("tracer-{name}-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn all() -> String {
    VALUES
        .iter()
        .map(|(option, value)| format!("{option} = {value}\n"))
        .collect()
}

fn parsed(file: &str, text: &str, arguments: &[&str]) -> Result<Cli, Refused> {
    let file = Written::new(file, text);
    let config = [
        "tracer".into(),
        "--config".into(),
        file.0.clone().into_os_string(),
    ];
    parse(
        config
            .into_iter()
            .chain(arguments.iter().map(OsString::from)),
    )
}

#[test]
fn a_file_can_have_every_option() {
    let command = command_without_env();
    let options: BTreeSet<&str> = options(&command).collect();
    let tried: BTreeSet<&str> = VALUES.iter().map(|(option, _)| *option).collect();
    assert_eq!(options, tried, "an option without a value to try");
    let shown = |mut cli: Cli| {
        cli.trace.config = None;
        format!("{:?}", cli.trace)
    };
    for (option, value) in VALUES {
        let with = WITH.iter().find(|(of, _)| of == option);
        let with = with.map_or("", |(_, with)| with);
        let default = shown(parsed("none", with, &[]).unwrap());
        let cli = parsed("one", &format!("{option} = {value}\n{with}"), &[]).unwrap();
        assert_ne!(shown(cli), default, "{option} has no effect");
    }
}

#[test]
fn the_command_line_goes_before_the_file() {
    let text = "interval = 3\nwarn = 40\npid = [1, 2]\ncoalesce-failures = true\n";
    let arguments = ["--interval", "5", "--pid", "7", "--coalesce-failures=false"];
    let trace = parsed("before", text, &arguments).unwrap().trace;
    assert_eq!((trace.interval, trace.warn, trace.critical), (5, 40, 90));
    assert_eq!(trace.select.pid, [7], "a list is taken as a whole");
    assert!(!trace.coalesce_failures);
    let trace = parsed("after", text, &["--coalesce-failures"])
        .unwrap()
        .trace;
    assert_eq!((trace.interval, trace.coalesce_failures), (3, true));
}

#[test]
fn every_mistake_has_its_line() {
    let text = "\
# comment
interval = 10
intervall = 10
ring_size = 1

warn = \"many\"
critical = true
coalesce-failures = 1
pid = []
emit = [
  \"usage\",
  \"nothing\",
]
interval.x = 1.5
backend = [\"kprobe\"]
something-else = 1
config = \"x\"
uid = 99999999999
sample = 0x10
port = [80, 1.5]
";
    let found = settings(&text.replace("interval.x = 1.5\n", "peer = 1979-05-27\n")).unwrap_err();
    let expected = [
        (3, "there is no option intervall: is interval meant?"),
        (4, "there is no option ring_size: is ring-size meant?"),
        (
            6,
            "invalid value 'many' for '--warn <PERCENT>': invalid digit found in string",
        ),
        (
            7,
            "critical is true or false: give one whole number or string",
        ),
        (
            8,
            "coalesce-failures is a number: give true or false, without quotes",
        ),
        (
            9,
            "pid is an empty list: give a value, or leave the line out",
        ),
        (
            10,
            "invalid value 'nothing' for '--emit <TYPE>' [possible values: start,",
        ),
        (
            14,
            "peer is a date: give a whole number, a string, or a list of them",
        ),
        (15, "backend is a list: give one whole number or string"),
        (
            16,
            "there is no option something-else: `tracer --help` lists all",
        ),
        (17, "there is no option config"),
        (
            18,
            "invalid value '99999999999' for '--uid <UID>': 99999999999 is not in",
        ),
        (
            20,
            "port is a list: give a whole number, a string, or a list of them",
        ),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, said), (expected_line, start)) in found.iter().zip(expected) {
        assert!(
            *line == expected_line && said.starts_with(start),
            "{line}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn what_is_not_toml_has_its_line() {
    for (text, line) in [
        ("a = 1\nb = \n", 2),
        ("warn = 1\nwarn = 2\n", 2),
        ("[a\n", 1),
        ("\n\nx", 3),
    ] {
        let found = settings(text).unwrap_err();
        assert!(
            found.len() == 1 && found[0].0 == line && found[0].1.starts_with("this is not TOML: "),
            "{text:?}: {found:?}"
        );
    }
    assert_eq!(settings("").unwrap().len(), 0);
}

#[test]
fn a_contradiction_has_the_line_of_the_file_that_is_part_of_it() {
    let place = |text: &str, arguments: &[&str]| {
        let file = Written::new("contradiction", text);
        let config = [
            "tracer".into(),
            "--config".into(),
            file.0.clone().into_os_string(),
        ];
        let arguments = config
            .into_iter()
            .chain(arguments.iter().map(OsString::from));
        match parse(arguments) {
            Err(Refused::Bad(sentences)) => {
                sentences[0].replace(&file.0.display().to_string(), "FILE")
            }
            other => panic!("{other:?}"),
        }
    };
    let said = "warn is 95, above critical, which is 90: give a smaller one, or the same";
    assert_eq!(place("\nwarn = 95\n", &[]), format!("FILE:2: {said}"));
    assert_eq!(
        place("critical = 90\n\nwarn = 95\n", &[]),
        format!("FILE:3: {said}")
    );
    assert_eq!(
        place("critical = 90\n", &["--warn", "95"]),
        format!("FILE:1: {said}")
    );
    assert_eq!(place("", &["--warn", "95"]), said);
    assert!(place("emit = \"usage\"\n", &["--sample", "2"]).starts_with("FILE:1: sample is about"));
    assert!(place("", &["--emit", "usage", "--state", "LISTEN"]).starts_with("state is about"));
}

#[test]
fn what_would_have_no_effect_is_refused() {
    for (arguments, said) in [
        (
            &["--emit", "state,input"][..],
            "input lines are those of replayable",
        ),
        (
            &["--compress", "zstd"],
            "compress is about files that have been rotated",
        ),
        (
            &["--rotate-keep", "3"],
            "rotate-keep is about files that have been rotated",
        ),
        (&["--fsync", "always"], "fsync is about files"),
        (
            &["--fsync", "always", "--output", "tcp:192.0.2.1:5170"],
            "fsync is about files",
        ),
        (&["--keep", "5m"], "keep is about the flight recorder"),
        (&["--metrics-top", "20"], "metrics-top is about metrics"),
    ] {
        match parsed("idle", "", arguments) {
            Err(Refused::Bad(sentences)) => {
                assert!(sentences[0].starts_with(said), "{sentences:?}")
            }
            other => panic!("{arguments:?}: {other:?}"),
        }
    }
    let useful = ["--fsync", "always", "--output", "-", "--output", "/tmp/a"];
    assert!(parsed("useful", "", &useful).is_ok());
}

/// A path, and the value of a label, may have commas: several of them take several arguments, or a list in the file.
#[test]
fn all_lists_but_two_may_have_commas() {
    let command = command();
    let whole = command.get_arguments().filter(|arg| {
        matches!(arg.get_action(), ArgAction::Append) && arg.get_value_delimiter().is_none()
    });
    let whole: Vec<_> = whole.filter_map(|arg| arg.get_long()).collect();
    assert_eq!(whole, ["output", "label"]);
}

#[test]
fn the_whole_file_is_checked() {
    let without = all().replace("replayable = true\n", "");
    let good = Written::new("good", &without);
    assert_eq!(check(&good.0), Ok(VALUES.len() - 1));
    let whole = Written::new("whole", &all());
    let said = check(&whole.0).unwrap_err();
    assert!(said[0].contains("replayable is for runs"), "{said:?}");
    let bad = Written::new("bad", "warn = 95\n");
    let said = check(&bad.0).unwrap_err();
    assert!(
        said[0].contains(".toml:1: warn is 95, above critical"),
        "{said:?}"
    );
    let useless = Written::new("useless", "rotate-size = 1000\n");
    let said = check(&useless.0).unwrap_err();
    assert!(said[0].contains("only a file can be rotated"), "{said:?}");
    let said = check(Path::new("/nonexistent.toml")).unwrap_err();
    assert_eq!(
        said,
        [
            "the configuration file /nonexistent.toml can't be read: No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn each_option_has_its_variable() {
    let command = command();
    let mut count = 0;
    for arg in command.get_arguments() {
        let option = arg.get_long().unwrap();
        let expected = variable(option);
        assert_eq!(arg.get_env(), Some(expected.as_ref()), "{option}");
        count += 1;
    }
    assert_eq!(count, VALUES.len() + 1, "all, and --config");
    assert_eq!(variable("ring-size"), "TRACER_RING_SIZE");
}
