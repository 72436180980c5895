//! What the page must do.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use serde_json::json;
use tracer::report::{Report, model::Pool};

use crate::{
    Check, Desk,
    browser::Tab,
    given::{HOSTILE_SHOWN, empty, hostile, incident},
    keep, picture,
};

pub(crate) const ALL: &[(&str, Check)] = &[
    ("charts_have_every_point", charts_have_every_point),
    (
        "heights_are_those_of_the_report",
        heights_are_those_of_the_report,
    ),
    ("a_click_picks_a_moment", a_click_picks_a_moment),
    ("keys_move_the_moment", keys_move_the_moment),
    ("a_drag_zooms", a_drag_zooms),
    ("processes_are_switched_off", processes_are_switched_off),
    ("pools_are_chosen", pools_are_chosen),
    ("names_of_others_do_not_run", names_of_others_do_not_run),
    ("nothing_can_be_asked_for", nothing_can_be_asked_for),
    ("dark_and_light", dark_and_light),
    (
        "a_phone_need_not_scroll_sideways",
        a_phone_need_not_scroll_sideways,
    ),
    ("it_prints", it_prints),
    (
        "times_are_those_of_the_reader",
        times_are_those_of_the_reader,
    ),
    ("few_bins_are_drawn", few_bins_are_drawn),
    ("recorded_reports_are_drawn", recorded_reports_are_drawn),
    ("an_empty_report_is_a_page", an_empty_report_is_a_page),
    (
        "a_long_report_is_a_small_page",
        a_long_report_is_a_small_page,
    ),
];

const BINS: usize = 120;
const WIDE: u32 = 1400;

/// How many horizontal strokes each path has: one for each bin and edge.
const STROKES: &str = r#"(selector) => [...document.querySelectorAll(selector)].map(path => path.getAttribute("d").split("H").length - 1)"#;

fn layers(pool: &Pool) -> usize {
    pool.stacks.iter().map(|stack| stack.states.len()).sum()
}
fn marks(failed: &[u64]) -> usize {
    failed.iter().filter(|count| **count > 0).count()
}
/// As the page writes it: `28,232`.
fn shown(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

fn charts_have_every_point(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    let pool = &report.pools[0];
    let areas = tab.eval(&format!(r##"({STROKES})("#main-chart .layers path")"##))?;
    ensure!(
        areas == json!(vec![2 * BINS; layers(pool)]),
        "areas of the main chart: {areas}"
    );
    let limit = tab.eval(&format!(r##"({STROKES})("#main-chart .limit")"##))?;
    ensure!(limit == json!([BINS]), "limit: {limit}");
    let curves = tab.eval(&format!(
        r##"({STROKES})("#rate-chart .curve, #wait-chart .curve")"##
    ))?;
    ensure!(curves == json!(vec![BINS; 4]), "curves: {curves}");
    let failed = tab.number(r##"document.querySelectorAll("#main-chart .failed").length"##)?;
    ensure!(
        failed == marks(&pool.failed) as f64,
        "{failed} marks of failures"
    );
    let small = tab.eval(r##"[...document.querySelectorAll("#multiples figure")].map(one => one.querySelectorAll(".failed").length)"##)?;
    let expected: Vec<usize> = report
        .destinations
        .iter()
        .map(|each| marks(&each.failed))
        .collect();
    ensure!(
        small == json!(expected),
        "marks of the destinations: {small}"
    );
    let flags = tab.number(r##"document.querySelectorAll("#main-chart .flag").length"##)?;
    ensure!(
        flags == (report.timeline.len() + report.causes.len()) as f64,
        "{flags} flags"
    );
    picture(&mut tab, "light.png")?;
    tab.is_quiet(&url)
}

/// The top of the pile, in pixels, is turned back into ports by the numbers of the axis.
fn heights_are_those_of_the_report(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    let heights = tab.eval(
        r##"(() => {
            const ticks = [...document.querySelectorAll("#main-chart .values text")]
                .map(tick => [Number(tick.textContent.replaceAll(",", "")), Number(tick.getAttribute("y")) - 4]);
            const [[low, zero], [high, top]] = [ticks[0], ticks[ticks.length - 1]];
            const edges = document.querySelectorAll("#main-chart .edges path");
            const ys = [...edges[edges.length - 1].getAttribute("d").matchAll(/(?:M[\d.]+ |V)([\d.]+)H/g)];
            return ys.map(([, y]) => low + (zero - Number(y)) * (high - low) / (zero - top));
        })()"##,
    )?;
    let heights: Vec<f64> = serde_json::from_value(heights)?;
    let ports: Vec<u32> = report.pools[0].ports.iter().flatten().copied().collect();
    ensure!(heights.len() == ports.len(), "{} heights", heights.len());
    for (bin, (height, ports)) in heights.iter().zip(&ports).enumerate() {
        // A tenth of a pixel is some 20 ports.
        ensure!(
            (height - f64::from(*ports)).abs() < 60.0,
            "bin {bin}: drawn {height}, {ports} in the report"
        );
    }
    tab.is_quiet(&url)
}

/// The middle of a bin in the main chart, in the window.
fn point(tab: &mut Tab<'_>, bin: usize) -> Result<(f64, f64)> {
    let place = tab.eval(
        r##"(() => {
            document.querySelector("#main-chart").scrollIntoView({ block: "center", behavior: "instant" });
            const plot = document.querySelector("#main-chart .grid.base").getBoundingClientRect();
            return [plot.left, plot.width, plot.top - 40];
        })()"##,
    )?;
    let [left, width, y]: [f64; 3] = serde_json::from_value(place)?;
    Ok((left + (bin as f64 + 0.5) / BINS as f64 * width, y))
}

/// Numbers of the table of holders: a sum and its states, for each process that has ports then.
fn expected_holders(report: &Report, bin: usize) -> Vec<Vec<String>> {
    let mut stacks: Vec<Vec<u32>> = report.pools[0]
        .stacks
        .iter()
        .map(|stack| {
            stack
                .states
                .values()
                .map(|values| values[bin])
                .filter(|ports| *ports > 0)
                .collect()
        })
        .filter(|states: &Vec<u32>| !states.is_empty())
        .collect();
    stacks.sort_by_key(|states| std::cmp::Reverse(states.iter().sum::<u32>()));
    let rows = stacks.iter().map(|states| {
        let mut numbers = vec![states.iter().sum()];
        let mut states = states.clone();
        states.sort_unstable();
        numbers.extend(states);
        numbers.into_iter().map(shown).collect()
    });
    rows.collect()
}
/// As in the page; states in the order of their numbers.
const HOLDERS: &str = r##"[...document.querySelectorAll("#holders tbody")].map(body => {
    const [sum, ...states] = [...body.rows].map(row => row.cells[1].textContent);
    const value = text => Number(text.replaceAll(",", ""));
    return [sum, ...states.sort((a, b) => value(a) - value(b))];
})"##;

fn shows_moment(tab: &mut Tab<'_>, report: &Report, bin: usize) -> Result<()> {
    let holders = tab.eval(HOLDERS)?;
    ensure!(
        holders == json!(expected_holders(report, bin)),
        "holders in bin {bin}: {holders}"
    );
    let at =
        tab.text(r##"document.querySelector("#main-chart svg").getAttribute("aria-valuenow")"##)?;
    ensure!(
        at == bin.to_string(),
        "the slider is at {at} instead of {bin}"
    );
    let pool = &report.pools[0];
    let about = tab.text(r##"document.querySelector("#moment .facts").textContent"##)?;
    let ports = pool.ports[bin].context("no ports")?;
    ensure!(
        about.starts_with(&format!("{} ports taken", shown(ports))),
        "{about}"
    );
    let limit = pool.limit[bin].context("no limit")?;
    ensure!(
        about.contains(&format!("One destination can have {}.", shown(limit))),
        "{about}"
    );
    Ok(())
}

fn a_click_picks_a_moment(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    let first = report.pools[0]
        .failed
        .iter()
        .position(|count| *count > 0)
        .context("no failure")?;
    shows_moment(&mut tab, &report, first)?;
    for bin in [0, 20, 95, BINS - 1] {
        let place = point(&mut tab, bin)?;
        tab.drag(&[place])?;
        shows_moment(&mut tab, &report, bin)?;
    }
    tab.is_quiet(&url)
}

fn keys_move_the_moment(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    tab.eval(r##"document.querySelector("#main-chart svg").focus()"##)?;
    tab.key("Home")?;
    shows_moment(&mut tab, &report, 0)?;
    tab.key("ArrowLeft")?;
    shows_moment(&mut tab, &report, 0)?;
    tab.key("ArrowRight")?;
    tab.key("ArrowRight")?;
    shows_moment(&mut tab, &report, 2)?;
    tab.key("PageUp")?;
    shows_moment(&mut tab, &report, 2 + BINS / 10)?;
    tab.key("End")?;
    shows_moment(&mut tab, &report, BINS - 1)?;
    // The buttons do the same, and keep the focus.
    tab.eval(r##"document.querySelector("#steps button").focus()"##)?;
    for bin in [BINS - 2, BINS - 3] {
        tab.eval("document.activeElement.click()")?;
        shows_moment(&mut tab, &report, bin)?;
    }
    tab.is_quiet(&url)
}

const LAYER_STROKES: &str = r##"document.querySelector("#main-chart .layers path").getAttribute("d").split("H").length - 1"##;

fn a_drag_zooms(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    let (from, to) = (point(&mut tab, 30)?, point(&mut tab, 59)?);
    tab.drag(&[from, ((from.0 + to.0) / 2.0, from.1), to])?;
    ensure!(tab.number(LAYER_STROKES)? == 60.0, "30 bins are in view");
    picture(&mut tab, "zoomed.png")?;
    tab.eval(r##"document.querySelector("#unzoom").click()"##)?;
    ensure!(
        tab.number(LAYER_STROKES)? == 2.0 * BINS as f64,
        "all bins are in view"
    );
    tab.is_quiet(&url)
}

fn processes_are_switched_off(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    tab.eval(r##"document.querySelector("#legend button").click()"##)?;
    let left = tab.number(r##"document.querySelectorAll("#main-chart .layers path").length"##)?;
    let pool = &report.pools[0];
    ensure!(
        left == (layers(pool) - pool.stacks[0].states.len()) as f64,
        "{left} layers are left"
    );
    let pressed = tab.text(r##"document.activeElement.getAttribute("aria-pressed")"##)?;
    ensure!(
        pressed == "false",
        "the button keeps the focus, and says that it is off: {pressed}"
    );
    tab.eval(r##"document.querySelector("#legend button").click()"##)?;
    let back = tab.number(r##"document.querySelectorAll("#main-chart .layers path").length"##)?;
    ensure!(back == layers(pool) as f64, "{back} layers");
    tab.is_quiet(&url)
}

fn pools_are_chosen(desk: &mut Desk) -> Result<()> {
    let report = incident(BINS);
    let (mut tab, url) = desk.open("incident", &report, WIDE)?;
    tab.eval(r##"(() => { const pool = document.querySelector("#pool"); pool.value = "1"; pool.dispatchEvent(new Event("change")); })()"##)?;
    let pool = &report.pools[1];
    let drawn = tab.number(r##"document.querySelectorAll("#main-chart .layers path").length"##)?;
    ensure!(drawn == layers(pool) as f64, "{drawn} layers");
    let blanks = tab.number(r##"document.querySelectorAll("#main-chart .unknown").length"##)?;
    ensure!(
        blanks == 1.0,
        "a stretch that is not known is marked: {blanks}"
    );
    let said =
        tab.text(r##"document.querySelector("#main-chart svg").getAttribute("aria-label")"##)?;
    ensure!(said.contains("postgres (77)"), "{said}");
    picture(&mut tab, "other-pool.png")?;
    tab.is_quiet(&url)
}

fn names_of_others_do_not_run(desk: &mut Desk) -> Result<()> {
    let (mut tab, url) = desk.open("hostile", &hostile(BINS), WIDE)?;
    let made = tab.number(r##"document.querySelectorAll("img, iframe, object, script:not(#report):not(body > script:last-child)").length"##)?;
    ensure!(made == 0.0, "{made} elements came from names");
    let legend = tab.text(r##"document.querySelector("#legend .who").textContent"##)?;
    ensure!(
        legend.starts_with(HOSTILE_SHOWN),
        "the name is shown as it is: {legend}"
    );
    let verdict = tab.text(r##"document.querySelector("#verdict .second").textContent"##)?;
    ensure!(
        verdict.contains(r"\u{a}\u{202e}gpj.\u{0}\u{2028}&lt;"),
        "what is not seen is shown as its code: {verdict}"
    );
    tab.is_quiet(&url)
}

/// Even if something ran, its requests would go nowhere.
fn nothing_can_be_asked_for(desk: &mut Desk) -> Result<()> {
    let (mut tab, _) = desk.open("incident", &incident(BINS), WIDE)?;
    let answers = tab.eval(
        r##"(async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/";
            const script = document.createElement("script");
            try { script.textContent = "window.ran = 1"; } catch { refused.push("trusted types"); }
            document.body.append(image, script);
            await new Promise(done => setTimeout(done, 200));
            return [refused.includes("connect-src"), refused.includes("img-src"), refused.includes("trusted types"), window.ran === undefined];
        })()"##,
    )?;
    ensure!(answers == json!(vec![true; 4]), "refused: {answers}");
    Ok(())
}

const GROUND: &str = "getComputedStyle(document.body).backgroundColor";

fn dark_and_light(desk: &mut Desk) -> Result<()> {
    let (mut tab, url) = desk.open("incident", &incident(BINS), WIDE)?;
    tab.prefer("light")?;
    let light = tab.text(GROUND)?;
    tab.prefer("dark")?;
    let dark = tab.text(GROUND)?;
    ensure!(light != dark, "{light} for both");
    picture(&mut tab, "dark.png")?;
    tab.eval(r##"document.querySelector("#theme").click()"##)?;
    ensure!(tab.text(GROUND)? == light, "the button makes it light");
    tab.eval(r##"document.querySelector("#theme").click()"##)?;
    ensure!(tab.text(GROUND)? == dark, "the button makes it dark");
    tab.is_quiet(&url)
}

fn a_phone_need_not_scroll_sideways(desk: &mut Desk) -> Result<()> {
    let reports = [
        ("incident", incident(BINS)),
        ("hostile", hostile(BINS)),
        ("empty", empty()),
    ];
    for (name, report) in reports {
        for width in [390, 360] {
            let (mut tab, url) = desk.open(name, &report, width)?;
            let needed = tab.number("document.documentElement.scrollWidth")?;
            ensure!(
                needed <= f64::from(width),
                "{name} is {needed} wide on {width}"
            );
            let cut = tab.number(
                r##"[...document.querySelectorAll(".tables .scroll")].filter(one => one.scrollWidth > one.clientWidth).length"##,
            )?;
            ensure!(cut == 0.0, "{name}: {cut} tables are cut on {width}");
            picture(&mut tab, &format!("{name}-{width}.png"))?;
            tab.is_quiet(&url)?;
        }
    }
    Ok(())
}

fn it_prints(desk: &mut Desk) -> Result<()> {
    let (mut tab, url) = desk.open("incident", &incident(BINS), WIDE)?;
    tab.prefer("dark")?;
    let pdf = BASE64.decode(tab.pdf()?.as_bytes())?;
    ensure!(pdf.starts_with(b"%PDF-"), "no PDF");
    if let Some(directory) = keep() {
        fs::write(directory.join("paper.pdf"), &pdf)?;
    }
    let text = String::from_utf8_lossy(&pdf);
    let pages = text.matches("/Type /Page\n").count();
    ensure!((2..=8).contains(&pages), "{pages} pages");
    // A4, in points.
    ensure!(
        text.contains("/MediaBox [0 0 594.9") && text.contains(" 841.9"),
        "another paper"
    );
    tab.is_quiet(&url)
}

/// 14:03:05 in UTC, five and a half hours later in Kolkata.
fn times_are_those_of_the_reader(desk: &mut Desk) -> Result<()> {
    let (mut tab, url) = desk.open("incident", &incident(BINS), WIDE)?;
    let heading = r##"document.querySelector("#moment h3").textContent"##;
    ensure!(tab.text(heading)? == "At 14:03:05 UTC");
    ensure!(
        tab.eval(r##"document.querySelector("#zone").hidden"##)? == true,
        "UTC is the reader's zone"
    );
    tab.call(
        "Emulation.setTimezoneOverride",
        &json!({ "timezoneId": "Asia/Kolkata" }),
    )?;
    tab.reload()?;
    ensure!(tab.text(heading)? == "At 14:03:05 UTC");
    tab.eval(r##"document.querySelector("#zone").click()"##)?;
    let local = tab.text(heading)?;
    ensure!(local.starts_with("At 19:33:05 Asia/"), "{local}");
    let ticks = tab.text(r##"document.querySelector("#main-chart .times").textContent"##)?;
    ensure!(
        ticks.contains("19:35") && !ticks.contains("14:0"),
        "{ticks}"
    );
    tab.is_quiet(&url)
}

/// What a script writes that did not mean it.
const ODD: &str = r#"(/.{30}(NaN|Infinity|undefined|null|false[^"])/.exec(document.querySelector("main").outerHTML) ?? [""])[0]"#;

fn few_bins_are_drawn(desk: &mut Desk) -> Result<()> {
    for bins in [1, 2] {
        let mut report = incident(bins);
        // One host: nothing needs to say which.
        report.pools.truncate(1);
        report.destinations.truncate(2);
        report.runs.truncate(1);
        let (mut tab, url) = desk.open("few", &report, WIDE)?;
        let areas = tab.eval(&format!(r##"({STROKES})("#main-chart .layers path")"##))?;
        ensure!(
            areas == json!(vec![2 * bins; layers(&report.pools[0])]),
            "{bins} bins: {areas}"
        );
        let odd = tab.text(ODD)?;
        ensure!(odd.is_empty(), "{bins} bins: {odd}");
        picture(&mut tab, &format!("few-{bins}.png"))?;
        tab.is_quiet(&url)?;
    }
    Ok(())
}

/// Reports of real traces, as `tests/report.rs` expects them.
fn recorded_reports_are_drawn(desk: &mut Desk) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report");
    for name in ["time_wait", "bind", "tuple", "nginx", "healthy"] {
        let json = fs::read(directory.join(format!("{name}.json"))).context(name)?;
        let report: Report = serde_json::from_slice(&json).context(name)?;
        let (mut tab, url) = desk.open(name, &report, WIDE)?;
        let (pool, bins) = (report.pools.first().context("no pool")?, report.axis.bins);
        let areas = tab.eval(&format!(r##"({STROKES})("#main-chart .layers path")"##))?;
        ensure!(
            areas == json!(vec![2 * bins; layers(pool)]),
            "{name}: {areas}"
        );
        let failed = tab.number(r##"document.querySelectorAll("#main-chart .failed").length"##)?;
        ensure!(
            failed == marks(&pool.failed) as f64,
            "{name}: {failed} marks of failures"
        );
        let advice = tab.number(r##"document.querySelectorAll("#advice > li").length"##)?;
        ensure!(
            advice == report.advice.len() as f64,
            "{name}: {advice} pieces of advice"
        );
        let odd = tab.text(ODD)?;
        ensure!(odd.is_empty(), "{name}: {odd}");
        picture(&mut tab, &format!("{name}.png"))?;
        tab.is_quiet(&url)?;
    }
    Ok(())
}

fn an_empty_report_is_a_page(desk: &mut Desk) -> Result<()> {
    let report = empty();
    let (mut tab, url) = desk.open("empty", &report, WIDE)?;
    ensure!(tab.text(r#"document.querySelector("h1").textContent"#)? == report.verdict[0]);
    ensure!(
        tab.number(r#"document.querySelectorAll(".chart svg").length"#)? == 0.0,
        "no charts of nothing"
    );
    tab.is_quiet(&url)
}

/// As many bins as there are at most.
fn a_long_report_is_a_small_page(desk: &mut Desk) -> Result<()> {
    let report = incident(600);
    let (mut tab, url) = desk.open("long", &report, WIDE)?;
    let bytes = tab.number("new TextEncoder().encode(document.documentElement.outerHTML.replace(/<main>.*<.main>/s, '')).length")?;
    ensure!(bytes < 150_000.0, "{bytes} bytes");
    picture(&mut tab, "long.png")?;
    tab.is_quiet(&url)
}
