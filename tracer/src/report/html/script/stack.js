// The main chart: who has the ports over time, the limit, the failures, and what happened.

const LANE = 20;

/** Hatches: ports in TIME_WAIT, one pattern for each colour. */
function drawPatterns() {
  const colours = ["grey", ...Array.from({ length: COLOURS }, (_, index) => `c${index}`)];
  const pattern = (id, colour, ...shapes) =>
    svg(
      "pattern",
      { id, class: colour, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      ...shapes,
    );
  const hatch = (colour) =>
    pattern(
      `wait-${colour}`,
      colour,
      svg("rect", { class: "ground", width: 5, height: 5 }),
      svg("rect", { class: "stripe", width: 1.6, height: 5 }),
    );
  byId("patterns").replaceChildren(
    svg("defs", {}, ...colours.map(hatch), pattern("blank", "", svg("rect", { class: "gap", width: 1, height: 5 }))),
  );
}

/** What happened in this pool or on its host, numbered as in the lists beside: 1, 2, … and for causes A, B, … */
const letter = (index) => (index < 26 ? String.fromCharCode(65 + index) : `A${index - 25}`);
const marked = [
  ...report.timeline.map((each, index) => ({ ...each, kind: "event", mark: String(index + 1) })),
  ...report.causes.map((each, index) => ({ ...each, kind: "cause", mark: letter(index) })),
].map((each) => ({ ...each, bin: binOf(parse(each.ts)) }));
/** Whether a moment is of a pool: in its network namespace, or of the whole host. */
const isOf = (each, of) => each.host === of.host && (each.netns === null || each.netns === of.netns);
const title = (id) => clean(id).replaceAll("_", " ");

/** Flags over the chart, in as few lanes as they fit; a flag shows its name where there is room. */
function placeFlags(shape) {
  const seen = marked.filter((each) => isOf(each, pool()) && each.bin >= shape.from && each.bin < shape.to);
  seen.sort((a, b) => a.bin - b.bin || (a.kind < b.kind ? -1 : 1));
  const ends = [];
  const named = shape.width > 560 && seen.length <= 24;
  return seen.map((flag) => {
    const x = shape.x(flag.bin + 0.5);
    const words = short(title(flag.id), 24);
    const wide = 22 + words.length * 6.1;
    let label = named && x + wide < shape.right + 8;
    let lane = ends.findIndex((end) => end + 4 <= x - 8);
    if (lane < 0) lane = Math.min(ends.length, 7);
    ends[lane] = x + (label ? wide : 9);
    return { ...flag, x, lane, words: label ? words : null };
  });
}
const flagTop = (flag, lanes) => 10 + (lanes - 1 - flag.lane) * LANE;
const drawPole = (flag, shape, lanes) =>
  svg("line", { class: "pole", x1: fixed(flag.x), x2: fixed(flag.x), y1: flagTop(flag, lanes), y2: shape.bottom });
function drawFlag(flag, lanes) {
  const y = flagTop(flag, lanes);
  const width = 9 + 7 * flag.mark.length;
  return svg(
    "g",
    { class: `flag ${flag.kind}` },
    svg("title", {}, `${moment(flag.ts)} ${short(flag.text, 300)}`),
    svg("rect", { x: fixed(flag.x - width / 2), y: y - 8, width, height: 16, rx: 8 }),
    svg("text", { class: "mark", x: fixed(flag.x), y: y + 4, "text-anchor": "middle" }, flag.mark),
    flag.words && svg("text", { class: "words", x: fixed(flag.x + width / 2 + 4), y: y + 4 }, flag.words),
  );
}

/** The limit as it changed, each level with its number where that fits. */
function drawLimit(shape, limit) {
  const levels = [];
  runs(shape, (bin) => limit[bin] !== null).forEach(([from, to]) => {
    for (let bin = from; bin < to; bin++) {
      const last = levels[levels.length - 1];
      if (last && last.to === bin && last.value === limit[bin]) last.to = bin + 1;
      else levels.push({ value: limit[bin], from: bin, to: bin + 1 });
    }
  });
  const labels = levels
    .filter((each) => shape.x(each.to) - shape.x(each.from) > 80)
    .map((each) => {
      const beyond = each.value > shape.max;
      return svg(
        "text",
        {
          class: "limit-label",
          x: fixed(shape.x(each.to)) - 4,
          y: fixed(shape.y(each.value)) - 6,
          "text-anchor": "end",
        },
        `limit ${number(each.value)}${beyond ? " ↑ above this chart" : ""}`,
      );
    });
  const shown = limit.map((value) => (value !== null && value <= shape.max ? value : null));
  return svg("g", {}, svg("path", { class: "limit", d: steps(shape, shown) }), ...labels);
}

/** A limit far above all that happened would flatten the chart: then it is said, not drawn. */
function ceiling(of) {
  const most = highest(of.ports, chosen.from, chosen.to);
  const limit = highest(of.limit, chosen.from, chosen.to);
  return most > limit * 0.3 ? Math.max(most, limit) * 1.02 : Math.max(most * 1.3, 4);
}

const main = { shape: null, cursor: null };
function drawMain() {
  const of = pool();
  const width = widthOf("main-chart");
  const narrow = width < 560;
  const draft = frame({
    width,
    height: 400,
    margin: { top: 0, bottom: 0, left: narrow ? 44 : 56, right: 12 },
    max: 1,
  });
  const flags = placeFlags(draft);
  const lanes = Math.max(1, ...flags.map((flag) => flag.lane + 1));
  const above = lanes * LANE + 18;
  const strip = of.failed.some(Boolean) ? 44 : 0;
  const paper = document.documentElement.classList.contains("paper");
  const plot = narrow ? 210 : paper ? 200 : 320;
  const shape = frame({
    width,
    height: above + plot + strip + 26,
    margin: { top: above, bottom: strip + 26, left: draft.left, right: 12 },
    max: ceiling(of),
  });
  const shown = layers(of);
  const foot = shape.bottom + strip;
  const cursor = cursorLines(shape, above - 4, foot);
  const sum = summary(of);
  const node = svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${shape.height}`,
      width,
      height: shape.height,
      tabindex: 0,
      role: "slider",
      "aria-label": `Moment in the chart of ports over time. ${sum}`,
      "aria-valuemin": 0,
      "aria-valuemax": axis.bins - 1,
      "aria-describedby": "hint",
    },
    drawValueAxis(shape, narrow ? 4 : 6),
    ...unknown(shape, of.ports),
    svg(
      "g",
      { class: "layers" },
      shown.map((layer) =>
        svg("path", { class: `layer ${layer.colour} ${shade(layer.state)}`, d: area(shape, layer.base, layer.top) }),
      ),
    ),
    svg("g", { class: "edges" }, edges(shape, shown)),
    drawLimit(shape, of.limit),
    strip && drawStrip(shape, of.failed, shape.bottom, foot),
    svg(
      "g",
      { class: "flags" },
      flags.map((flag) => drawPole(flag, shape, lanes)),
      flags.map((flag) => drawFlag(flag, lanes)),
    ),
    drawTimeAxis(shape, foot),
    svg("rect", { class: "zoom", y: above, height: plot, width: 0 }),
    ...cursor.nodes,
  );
  const focused = document.activeElement?.closest("#main-chart");
  byId("main-chart").replaceChildren(node);
  if (focused) node.focus({ preventScroll: true });
  Object.assign(main, { shape, cursor, node });
  listen(node, shape, true);
}
/** The upper edge of each process keeps neighbours apart. */
function edges(shape, shown) {
  const last = shown.filter((layer, index) => shown[index + 1]?.index !== layer.index);
  return last.map((layer) => svg("path", { class: `edge ${layer.colour}`, d: steps(shape, layer.top) }));
}
function drawStrip(shape, failed, top, bottom) {
  return svg(
    "g",
    { class: "strip" },
    svg("text", { class: "tick", x: shape.left - 8, y: bottom - 12, "text-anchor": "end" }, "failed"),
    svg("line", { class: "grid base", x1: shape.left, x2: shape.right, y1: bottom, y2: bottom }),
    failureMarks(shape, failed, top + 12, bottom),
  );
}
function summary(of) {
  const peak = of.peak
    ? `At most ${number(of.peak.ports)} ports at ${moment(of.peak.ts)}, most of them of ${short(of.peak.owner, 60)}.`
    : "";
  const failed = of.failed.reduce((sum, count) => sum + count, 0);
  return `${peak} ${plural(failed, "failed call")}.`;
}
