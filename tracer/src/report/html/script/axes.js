// Scales, ticks and shapes that all charts share. A bin is drawn as wide as it is: its value holds from its begin to its end.

function frame({ width, height, margin, max }) {
  const { from, to } = chosen;
  const bottom = height - margin.bottom;
  const x = (bin) => margin.left + ((bin - from) / (to - from)) * (width - margin.left - margin.right);
  const y = (value) => bottom - (Math.min(value, max) / max) * (bottom - margin.top);
  const bin = (px) =>
    Math.min(
      to - 1,
      Math.max(from, Math.floor(from + ((px - margin.left) / (width - margin.left - margin.right)) * (to - from))),
    );
  return { width, height, margin, max, from, to, bottom, left: margin.left, right: width - margin.right, x, y, bin };
}
const fixed = (value) => Math.round(value * 10) / 10;

/** Round numbers from zero to `max`, about `count` of them. */
function ticks(max, count, least = 1) {
  const rough = Math.max(max / count, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let i = 0; i * step <= max * 1.0001; i++) found.push(i * step);
  return found;
}

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5,
  108e5, 216e5, 432e5, 864e5,
];
function timeTicks(shape, room) {
  const [begin, end] = [startOf(shape.from), startOf(shape.to)];
  const rough = ((end - begin) * room) / (shape.right - shape.left);
  const step = STEPS.find((each) => each >= rough) ?? Math.ceil(rough / 864e5) * 864e5;
  const offset = shifted(begin).getTime() - begin;
  const found = [];
  for (let at = Math.ceil((begin + offset) / step) * step - offset; at <= end; at += step) found.push(at);
  return { step, found };
}

function drawValueAxis(shape, count, label = number, least = 1) {
  const lines = ticks(shape.max, count, least).map((value) => [
    svg("line", {
      class: value ? "grid" : "grid base",
      x1: shape.left,
      x2: shape.right,
      y1: fixed(shape.y(value)),
      y2: fixed(shape.y(value)),
    }),
    svg(
      "text",
      { class: "tick", x: shape.left - 8, y: fixed(shape.y(value)) + 4, "text-anchor": "end" },
      label(value),
    ),
  ]);
  return svg("g", { class: "values", "aria-hidden": "true" }, lines.flat());
}

function drawTimeAxis(shape, y, room = 84) {
  const { step, found } = timeTicks(shape, room);
  let last = null;
  const marks = found.map((ms) => {
    const x = fixed(shape.x((ms - axis.start_ms) / axis.step_ms));
    const isNew = last !== null && day(ms) !== last;
    last = day(ms);
    const words = isNew ? last.slice(5) : clock(ms, step);
    const anchor = x < shape.left + 20 ? "start" : x > shape.right - 20 ? "end" : "middle";
    return [
      svg("line", { class: "stop", x1: x, x2: x, y1: y, y2: y + 4 }),
      svg("text", { class: "tick", x, y: y + 17, "text-anchor": anchor }, words),
    ];
  });
  return svg("g", { class: "times", "aria-hidden": "true" }, marks.flat());
}

/** The area between two series. */
function area(shape, base, top) {
  const { from, to, x, y } = shape;
  let path = `M${fixed(x(from))} ${fixed(y(base[from]))}`;
  for (let bin = from; bin < to; bin++) path += `V${fixed(y(top[bin]))}H${fixed(x(bin + 1))}`;
  for (let bin = to - 1; bin >= from; bin--) path += `V${fixed(y(base[bin]))}H${fixed(x(bin))}`;
  return `${path}Z`;
}
/** A line that breaks where nothing is known. */
function steps(shape, values) {
  const { from, to, x, y } = shape;
  let path = "";
  for (let bin = from; bin < to; bin++) {
    const known = values[bin] !== null && values[bin] !== undefined;
    if (!known) continue;
    const joined = bin > from && values[bin - 1] !== null && values[bin - 1] !== undefined;
    path += `${joined ? "V" : `M${fixed(x(bin))} `}${fixed(y(values[bin]))}H${fixed(x(bin + 1))}`;
  }
  return path;
}
/** Runs of bins for which `test` holds, as `[from, to)`. */
function runs(shape, test) {
  const found = [];
  for (let bin = shape.from; bin < shape.to; bin++) {
    if (!test(bin)) continue;
    const last = found[found.length - 1];
    if (last && last[1] === bin) last[1] = bin + 1;
    else found.push([bin, bin + 1]);
  }
  return found;
}
/** Failures: one mark for each bin that has some, as high as there are many. */
function failureMarks(shape, failed, top, bottom) {
  const most = highest(failed, shape.from, shape.to);
  const found = [];
  for (let bin = shape.from; bin < shape.to; bin++) {
    if (!failed[bin]) continue;
    const height = Math.max(4, (bottom - top) * Math.sqrt(failed[bin] / most));
    const width = Math.max(1.5, shape.x(bin + 1) - shape.x(bin) - 0.3);
    found.push(
      svg("rect", {
        class: "failed",
        x: fixed(shape.x(bin)),
        y: fixed(bottom - height),
        width: fixed(width),
        height: fixed(height),
      }),
    );
  }
  return svg("g", { class: "failures" }, found);
}
const unknown = (shape, values) =>
  runs(shape, (bin) => values[bin] === null).map(([from, to]) =>
    svg("rect", {
      class: "unknown",
      x: fixed(shape.x(from)),
      y: shape.margin.top,
      width: fixed(shape.x(to) - shape.x(from)),
      height: shape.bottom - shape.margin.top,
    }),
  );

/** A line at the chosen moment, and a fainter one under the mouse. */
function cursorLines(shape, top, bottom) {
  const line = (kind) => svg("line", { class: `cursor ${kind}`, y1: top, y2: bottom });
  const [pick, hover] = [line("pick"), line("hover")];
  const place = (node, bin) => {
    const seen = bin !== null && bin >= shape.from && bin < shape.to;
    node.setAttribute("visibility", seen ? "visible" : "hidden");
    if (!seen) return;
    const x = fixed(shape.x(bin + 0.5));
    node.setAttribute("x1", x);
    node.setAttribute("x2", x);
  };
  const update = () => {
    place(pick, chosen.bin);
    place(hover, chosen.hover);
  };
  update();
  return { nodes: [hover, pick], update };
}
const canvas = (shape, label, ...children) =>
  svg(
    "svg",
    {
      viewBox: `0 0 ${shape.width} ${shape.height}`,
      width: shape.width,
      height: shape.height,
      role: "img",
      "aria-label": label,
    },
    ...children,
  );
