// The smaller charts: connection rates, TIME_WAIT, and one for each destination.

const widthOf = (id) => Math.max(240, Math.floor(byId(id).clientWidth || 640));
const perSecond = (values) => values.map((value) => (value * 1000) / axis.step_ms);

/** Curves over the same time as the main chart; returns what follows the cursor. */
function drawCurves(id, label, curves, height, least) {
  const width = widthOf(id);
  const max = Math.max(least, ...curves.map((curve) => highest(curve.values, chosen.from, chosen.to))) * 1.08;
  const shape = frame({ width, height, margin: { top: 10, bottom: 26, left: 56, right: 12 }, max });
  const cursor = cursorLines(shape, 6, shape.bottom);
  const drawn = curves.map((curve) => [
    curve.filled &&
      svg("path", {
        class: `filled ${curve.kind}`,
        d: area(
          shape,
          curve.values.map(() => 0),
          curve.values.map((value) => value ?? 0),
        ),
      }),
    svg("path", { class: `curve ${curve.kind}`, d: steps(shape, curve.values) }),
  ]);
  const node = canvas(
    shape,
    label,
    drawValueAxis(shape, 5, max < 10 ? rate : number, 0.1),
    ...drawn.flat(),
    drawTimeAxis(shape, shape.bottom),
    ...cursor.nodes,
  );
  byId(id).replaceChildren(node);
  listen(node, shape, false);
  return cursor.update;
}
/** Names of the curves, with their values at the cursor. */
function drawCurveLegend(id, rows) {
  byId(id).replaceChildren(
    ...rows.map(([kind, words, value]) =>
      html("li", {}, html("i", { class: `dash ${kind}` }), words, " ", html("b", {}, value)),
    ),
  );
}
function rateLegend() {
  const at = (values) => `${rate((values[cursor()] * 1000) / axis.step_ms)}/s`;
  drawCurveLegend("rate-legend", [
    ["opened", "opened", at(pool().opened)],
    ["closed", "closed", at(pool().closed)],
    ["fails", "failed", at(pool().failed)],
  ]);
  drawCurveLegend("wait-legend", [["wait", "in TIME_WAIT", number(pool().time_wait[cursor()])]]);
}
function drawRates() {
  const of = pool();
  const curves = [
    ["opened", of.opened],
    ["closed", of.closed],
    ["fails", of.failed],
  ].map(([kind, values]) => ({ kind, values: perSecond(values) }));
  const most = curves
    .map((curve) => `${curve.kind === "fails" ? "failed" : curve.kind} at most ${rate(highest(curve.values))}`)
    .join(", ");
  const updates = [
    drawCurves("rate-chart", `Connections per second: ${most}.`, curves, 190, 1),
    drawCurves(
      "wait-chart",
      `Ports in TIME_WAIT: at most ${number(highest(of.time_wait))}.`,
      [{ kind: "wait", values: of.time_wait, filled: true }],
      190,
      4,
    ),
  ];
  return () => {
    updates.forEach((update) => update());
    rateLegend();
  };
}

/** Where: the host, and the namespace if there is more than one of it; null: of several. */
function place({ host, netns }) {
  const several = report.pools.filter((each) => each.host === host).length > 1;
  return [manyHosts && host, several && netns !== null && `netns ${netns}`].filter(Boolean).join(", ");
}
function drawDestination(to, width) {
  const limit = highest(to.limit, chosen.from, chosen.to);
  const most = highest(to.ports, chosen.from, chosen.to);
  const drawn = most > limit * 0.1;
  const shape = frame({
    width,
    height: 128,
    margin: { top: 8, bottom: 24, left: 40, right: 4 },
    max: Math.max(4, drawn ? Math.max(limit, most) : most * 1.2) * 1.06,
  });
  const zero = to.ports.map(() => 0);
  const known = (values) => values.map((value) => value ?? 0);
  const active = known(to.ports).map((value, bin) => value - (to.time_wait[bin] ?? 0));
  const cursor = cursorLines(shape, shape.margin.top, shape.bottom);
  const node = canvas(
    shape,
    `${short(to.peer, 60)}: at most ${plural(most, "port")} of ${number(limit)}`,
    drawValueAxis(shape, 2, (value) => (value >= 10000 ? `${tenths.format(value / 1000)}k` : number(value))),
    ...unknown(shape, to.ports),
    svg("path", { class: "layer c0 full", d: area(shape, zero, active) }),
    svg("path", { class: "layer c0 waits", d: area(shape, active, known(to.ports)) }),
    svg("path", { class: "edge c0", d: steps(shape, to.ports) }),
    drawn && svg("path", { class: "limit", d: steps(shape, to.limit) }),
    failureMarks(shape, to.failed, shape.bottom - 18, shape.bottom),
    drawTimeAxis(shape, shape.bottom, 70),
    ...cursor.nodes,
  );
  listen(node, shape, false);
  return { node, cursor };
}
function drawMultiples() {
  const home = byId("multiples");
  const width = Math.floor(parseFloat(getComputedStyle(home).gridTemplateColumns)) || 280;
  const cards = report.destinations.map((to) => {
    const { node, cursor } = drawDestination(to, width);
    const failed = to.failed.reduce((sum, count) => sum + count, 0);
    const limit = to.peak ? limitAt(to) : null;
    const about = [to.local_ip && ["from ", name(to.local_ip)], place(to) && [name(place(to))]].filter(Boolean);
    const card = html(
      "figure",
      {},
      html(
        "figcaption",
        {},
        html("h3", {}, name(to.peer)),
        html("p", {}, ...about.flatMap((part, index) => [index ? " · " : "", ...part])),
      ),
      node,
      html(
        "p",
        { class: "facts" },
        to.peak
          ? [
              "at most ",
              html("b", {}, number(to.peak.ports)),
              limit ? ` of ${number(limit)} ports, ` : " ports, ",
              name(short(to.peak.owner, 40)),
            ]
          : "no ports seen",
        failed ? [" · ", html("b", { class: "bad" }, plural(failed, "failure"))] : null,
      ),
    );
    return { card, update: cursor.update };
  });
  home.replaceChildren(...cards.map((each) => each.card));
  return () => cards.forEach((each) => each.update());
}
