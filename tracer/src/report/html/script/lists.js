// What is text: the verdict, what happened, what to change, failures, holes, sources.

const show = (id, seen) => {
  byId(id).hidden = !seen;
};

/** Dates do not break at their hyphens. */
const unbroken = (text) =>
  text.split(/(\d{4}-\d\d-\d\d)/).map((part, index) => (index % 2 ? html("span", { class: "whole" }, part) : part));
function drawVerdict() {
  const [first, ...rest] = report.verdict;
  document.title = `${short(first ?? "tracer report", 90)}`;
  byId("verdict").replaceChildren(
    html("h1", {}, unbroken(first ?? "Nothing is known.")),
    rest.length ? html("p", { class: "second" }, unbroken(rest.join(" "))) : "",
    html(
      "dl",
      { class: "tiles" },
      tiles().map(([label, value, about, kind]) =>
        html(
          "div",
          { class: kind },
          html("dt", {}, label),
          html("dd", { class: "big" }, value),
          html("dd", {}, about),
        ),
      ),
    ),
    html("p", { class: "meta" }, metaLine()),
    warnings(),
  );
}
/** The destination that came nearest to its limit. */
function fullest() {
  const known = report.destinations.filter((to) => to.peak).map((to) => ({ ...to, limit: limitAt(to) }));
  const share = (to) => to.peak.ports / to.limit;
  return known.filter((to) => to.limit).sort((a, b) => share(b) - share(a))[0];
}
function tiles() {
  const { failures, span } = report;
  const failed = failures.connect + failures.bind;
  const peak = report.pools[0]?.peak;
  const worst = failures.by_process[0];
  const found = [
    [
      "Failed calls",
      number(failed),
      failed ? `${number(failures.connect)} connect(), ${number(failures.bind)} bind()` : "none was seen",
      failed ? "alarm" : null,
    ],
  ];
  const full = fullest();
  if (full) {
    const about = [`of ${number(full.limit)} ports to `, name(short(full.peer, 48)), `, at ${moment(full.peak.ts)}`];
    found.push(["Fullest destination", number(full.peak.ports), about]);
  } else if (peak) found.push(["Ports at the peak", number(peak.ports), `at ${moment(peak.ts)}`]);
  if (peak)
    found.push([
      "Who had most",
      name(short(peak.owner, 32)),
      `${plural(peak.owner_ports, "port")} at ${moment(peak.ts)}`,
      "words",
    ]);
  else if (worst)
    found.push(["Who failed most", name(short(worst.name, 32)), plural(worst.failures, "failure"), "words"]);
  if (failures.first && failures.last)
    found.push([
      "Failures",
      duration(parse(failures.last) - parse(failures.first)),
      `${moment(failures.first)} to ${moment(failures.last)}`,
    ]);
  else if (span)
    found.push([
      "Time seen",
      duration(parse(span.to) - parse(span.from)),
      `${moment(span.from)} to ${moment(span.to)}`,
    ]);
  return found;
}
function metaLine() {
  const { span, narrowed } = report;
  const parts = [];
  if (span) {
    const days = [day(parse(span.from)), day(parse(span.to))];
    const end = days[0] === days[1] ? "" : `${days[1]} `;
    parts.push([html("b", {}, days[0]), ` ${moment(span.from)} to ${end}${moment(span.to)} ${zoneName()}`]);
  }
  const named = hosts.slice(0, 4).flatMap((host, index) => [index ? ", " : "", name(short(host, 40))]);
  parts.push([
    hosts.length === 1 ? "host " : `${plural(hosts.length, "host")}: `,
    ...named,
    hosts.length > 4 ? ", …" : "",
  ]);
  if (narrowed.length) parts.push(["only ", html("b", {}, narrowed.join("; "))]);
  parts.push([`${plural(report.input.lines, "line")} of ${plural(report.input.files.length, "file")}`]);
  return parts.flatMap((part, index) => [index ? html("span", { class: "dot" }, " · ") : "", ...part]);
}
function warnings() {
  const found = [];
  if (!report.input.complete) found.push("This report was interrupted: it is about what was read until then.");
  if (report.holes.length)
    found.push(
      `${plural(report.holes.length, "thing is", "things are")} missing or in doubt: ${report.holes
        .slice(0, 3)
        .map((hole) => title(hole.id))
        .join(", ")}${report.holes.length > 3 ? ", …" : ""}. `,
    );
  if (!found.length) return "";
  return html(
    "p",
    { class: "note", role: "note" },
    found.join(" "),
    report.holes.length ? html("a", { href: "#holes" }, "Read which") : "",
  );
}

function drawMoments(id, moments, marks) {
  const rows = moments.map((each, index) => {
    const bin = binOf(parse(each.ts));
    const of = report.pools.findIndex((one) => isOf(each, one));
    const time = html("time", { datetime: each.ts }, moment(each.ts));
    const go =
      within(bin) && of >= 0
        ? html("button", { type: "button", title: "Show this moment in the chart" }, time)
        : time;
    if (go !== time)
      go.addEventListener("click", () => {
        if (!isOf(each, pool())) choosePool(of);
        pick(bin);
        byId("ports").scrollIntoView({ block: "start" });
      });
    return html(
      "li",
      {},
      html("span", { class: "badge" }, marks(index)),
      html(
        "div",
        {},
        html(
          "p",
          { class: "stamp" },
          go,
          html("span", { class: "id" }, title(each.id)),
          manyHosts && html("span", {}, name(each.host)),
        ),
        html("p", {}, each.text),
      ),
    );
  });
  byId(id).replaceChildren(
    ...(rows.length
      ? rows
      : [
          html(
            "li",
            { class: "none" },
            id === "causes" ? "Nothing was found that led to it." : "Nothing out of the ordinary.",
          ),
        ]),
  );
}

/** Backquotes mark what can be typed. */
const codeParts = (text) => text.split("`").map((part, index) => (index % 2 ? html("code", {}, part) : part));
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1600);
}
function drawAdvice() {
  show("change", report.advice.length);
  byId("advice").replaceChildren(
    ...report.advice.map((each) => {
      const code = each.how.split("`").filter((_, index) => index % 2);
      const button = html(
        "button",
        { type: "button", class: "copy", "aria-label": `Copy the code of: ${title(each.id)}` },
        "Copy",
      );
      button.addEventListener("click", () => copy(code.join("\n"), button));
      return html(
        "li",
        {},
        html("div", { class: "head" }, html("h3", {}, title(each.id)), code.length ? button : ""),
        html("p", { class: "why" }, each.why),
        html("p", { class: "how" }, codeParts(each.how)),
        html(
          "p",
          { class: "small" },
          `given ${plural(each.given, "time")}, most for `,
          name(each.about),
          place(each) && [", ", name(place(each))],
        ),
      );
    }),
  );
}

function table(caption, words, rows) {
  return html(
    "div",
    { class: "scroll" },
    html("table", {}, html("caption", {}, caption), heads(...words), html("tbody", {}, rows)),
  );
}
function countTable(what, counts) {
  const all = counts.reduce((sum, row) => sum + row.failures, 0);
  const rows = counts.map((row) =>
    html(
      "tr",
      {},
      html(
        "th",
        { scope: "row" },
        name(short(row.name, 64)),
        row.host && place(row) && html("small", {}, name(place(row))),
      ),
      html("td", {}, number(row.failures)),
      share(row.failures, all, "red"),
      html("td", { class: "time" }, moment(row.first), html("br"), moment(row.last)),
    ),
  );
  return table(`By ${what.toLowerCase()}`, [what, "Failures", "Share", "First, last"], rows);
}
function drawFailures() {
  const { by_reason, by_process, by_destination } = report.failures;
  const found = [
    ["Reason", by_reason],
    ["Process", by_process],
    ["Destination", by_destination],
  ].filter(([, rows]) => rows.length);
  show("failures", found.length);
  byId("failure-tables").replaceChildren(...found.map(([caption, rows]) => countTable(caption, rows)));
}

function drawHoles() {
  show("holes", report.holes.length);
  byId("hole-list").replaceChildren(
    ...report.holes.map((hole) => {
      const where = [
        hole.host,
        hole.file && (hole.line ? `${hole.file}, line ${number(hole.line)}` : hole.file),
        hole.ts && moment(hole.ts),
        hole.count > 1 && `${number(hole.count)} times`,
      ];
      return html(
        "li",
        {},
        html("b", {}, title(hole.id)),
        html("p", {}, hole.text),
        html("p", { class: "small" }, name(where.filter(Boolean).join(" · "))),
      );
    }),
  );
}

const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${tenths.format(bytes / 1024 ** power)} ${units[power]}`;
};
function drawSources() {
  const run = (each) =>
    html(
      "tr",
      {},
      html("th", { scope: "row" }, name(each.host), each.kernel && html("small", {}, "Linux ", name(each.kernel))),
      html(
        "td",
        { class: "time" },
        moment(each.from),
        html("br"),
        moment(each.to),
        each.stopped ? "" : html("small", {}, "no end"),
      ),
      html("td", {}, each.tracer ?? "not known"),
      html("td", {}, number(each.lines)),
    );
  const file = (each) =>
    html(
      "tr",
      {},
      html("th", { scope: "row" }, name(short(each.name, 96))),
      html("td", {}, size(each.bytes)),
      html("td", {}, number(each.lines)),
      html("td", { class: each.skipped ? "bad" : null }, number(each.skipped)),
    );
  byId("source-tables").replaceChildren(
    table("Runs of tracer", ["Host", "From, to", "tracer", "Lines"], report.runs.map(run)),
    table("Files", ["File", "Size", "Lines", "Skipped"], report.input.files.map(file)),
  );
  byId("made").replaceChildren(
    `Made by tracer ${clean(report.tracer)}. Times are ${zone.local ? `in ${zoneName()}, inside sentences UTC` : "UTC"}. A value in the charts stands for ${duration(axis.step_ms)}: of levels the highest, of processes what they had at its end, of counts the sum.`,
  );
}
