// Who had the ports at the chosen moment.

/** The buttons stay where they are while the moment moves: so does the focus. */
function drawSteps() {
  const of = pool();
  const button = (words, bin) => {
    const node = html("button", { type: "button" }, words);
    node.addEventListener("click", () => pick(bin()));
    return node;
  };
  const failed = of.failed.findIndex((count) => count > 0);
  const peak = of.peak ? binOf(parse(of.peak.ts)) : -1;
  byId("steps").replaceChildren(
    button("‹ before", () => chosen.bin - 1),
    button("after ›", () => chosen.bin + 1),
    within(peak) ? button("peak", () => peak) : "",
    failed >= 0 ? button("first failure", () => failed) : "",
  );
}
function drawMoment() {
  const of = pool();
  const bin = chosen.bin;
  byId("when").textContent = `At ${clock(startOf(bin), axis.step_ms % 1000 ? 1 : 1000)} ${zoneName()}`;
  byId("state").textContent =
    `${stateOf(of, bin)} In ${duration(axis.step_ms)}: ${number(of.opened[bin])} opened, ` +
    `${number(of.closed[bin])} closed, ${number(of.failed[bin])} failed.`;
  const all = of.stacks.reduce((sum, stack) => sum + sumAt(stack.states, bin), 0);
  byId("tables").replaceChildren(holdersAt(of, bin, all), destinationsAt(of, bin));
}
function stateOf(of, bin) {
  if (of.ports[bin] === null) return "How many ports were taken is not known.";
  const limit =
    of.limit[bin] === null ? "The limit is not known." : `One destination can have ${number(of.limit[bin])}.`;
  return `${plural(of.ports[bin], "port")} taken, ${number(of.time_wait[bin])} in TIME_WAIT. ${limit}`;
}
function holdersAt(of, bin, all) {
  const rows = of.stacks
    .map((stack, index) => ({ stack, colour: colourOf(of.stacks, index), ports: sumAt(stack.states, bin) }))
    .filter((row) => row.ports > 0)
    .sort((a, b) => b.ports - a.ports);
  const bodies = rows.map(({ stack, colour, ports }) =>
    html(
      "tbody",
      {},
      html(
        "tr",
        { class: "sum" },
        html("th", { scope: "rowgroup" }, swatch(colour, "full"), name(short(stack.process, 80))),
        html("td", {}, number(ports)),
        share(ports, all, colour),
      ),
      statesOf(stack)
        .filter(([, values]) => values[bin] > 0)
        .map(([state, values]) =>
          html(
            "tr",
            {},
            html("th", { scope: "row" }, swatch(colour, shade(state)), state),
            html("td", {}, number(values[bin])),
            html("td", {}, percent(values[bin], all)),
          ),
        ),
    ),
  );
  const none = html(
    "tbody",
    {},
    html("tr", {}, html("td", { colspan: 3 }, of.ports[bin] === null ? "Not known." : "No ports are taken.")),
  );
  return html(
    "table",
    { id: "holders" },
    html("caption", {}, "Who has the ports"),
    heads("Process and state", "Ports", "Share"),
    ...(bodies.length ? bodies : [none]),
  );
}
function share(part, all, colour) {
  const bar = svg(
    "svg",
    { class: "share", width: "100%", height: 3, "aria-hidden": "true" },
    svg("rect", { class: `layer ${colour} full`, width: `${all ? (100 * part) / all : 0}%`, height: 3 }),
  );
  return html("td", {}, percent(part, all), bar);
}
function destinationsAt(of, bin) {
  const rows = report.destinations
    .filter((to) => to.host === of.host && to.netns === of.netns && (to.ports[bin] || to.failed[bin]))
    .sort((a, b) => (b.ports[bin] ?? 0) - (a.ports[bin] ?? 0));
  if (!rows.length) return "";
  const owner = (to) =>
    Object.entries(to.owners)
      .map(([who, values]) => [who, values[bin] ?? 0])
      .filter(([, ports]) => ports > 0)
      .sort((a, b) => b[1] - a[1])[0];
  return html(
    "table",
    { id: "where" },
    html("caption", {}, "Where they lead"),
    heads("Destination", "Ports", "Of limit", "Failed"),
    html(
      "tbody",
      {},
      rows.map((to) =>
        html(
          "tr",
          {},
          html(
            "th",
            { scope: "row" },
            name(to.peer),
            owner(to) && html("small", {}, "most: ", name(short(owner(to)[0], 40))),
          ),
          html("td", {}, number(to.ports[bin])),
          html("td", {}, percent(to.ports[bin], to.limit[bin])),
          html("td", { class: to.failed[bin] ? "bad" : null }, number(to.failed[bin])),
        ),
      ),
    ),
  );
}
const heads = (...words) =>
  html(
    "thead",
    {},
    html(
      "tr",
      {},
      words.map((word) => html("th", { scope: "col" }, word)),
    ),
  );

/** For readers who can't use the picture: a row for each bin in view, made when it is opened. */
function drawNumbers() {
  if (!byId("numbers").open) return;
  const of = pool();
  const rows = [];
  for (let bin = chosen.from; bin < chosen.to; bin++) {
    const cells = [of.ports, of.limit, of.time_wait, of.opened, of.closed, of.failed].map((values) =>
      html("td", {}, number(values[bin])),
    );
    rows.push(html("tr", {}, html("th", { scope: "row" }, clock(startOf(bin), axis.step_ms)), ...cells));
  }
  byId("numbers").lastElementChild.replaceChildren(
    html(
      "table",
      {},
      heads(`Time (${zoneName()})`, "Ports", "Limit", "TIME_WAIT", "Opened", "Closed", "Failed"),
      html("tbody", {}, rows),
    ),
  );
}
