// The report, and what is chosen of it.

/** A series is stored as differences, `~` for a value that is not known, `x` before how often it repeats. */
function unpack(text) {
  const values = [];
  let last = 0;
  for (const token of text.split(" ")) {
    const [step, times = 1] = token.split("x");
    for (let i = 0; i < Number(times); i++) values.push(step === "~" ? null : (last += Number(step)));
  }
  return values;
}
const isPacked = (value) => value !== null && typeof value === "object" && typeof value.series === "string";
const report = JSON.parse(byId("report").textContent, (_, value) => (isPacked(value) ? unpack(value.series) : value));

const axis = report.axis;
const startOf = (bin) => axis.start_ms + bin * axis.step_ms;
const binOf = (ms) => Math.floor((ms - axis.start_ms) / axis.step_ms);
const within = (bin) => bin >= 0 && bin < axis.bins;
const hosts = [...new Set([...report.runs.map((run) => run.host), ...report.pools.map((pool) => pool.host)])];
const manyHosts = hosts.length > 1;

/** What the reader chose. `hover` is a bin under the mouse, `[from, to)` the bins in view. */
const chosen = { pool: 0, bin: 0, hover: null, from: 0, to: axis.bins, hidden: new Set() };
const pool = () => report.pools[chosen.pool];
const cursor = () => chosen.hover ?? chosen.bin;

/** In the order in which they are stacked: what works at the bottom, what waits on top. */
const STATES = [
  "bound",
  "ESTABLISHED",
  "SYN_SENT",
  "SYN_RECV",
  "CLOSE_WAIT",
  "LAST_ACK",
  "FIN_WAIT1",
  "FIN_WAIT2",
  "CLOSING",
  "CLOSE",
  "TIME_WAIT",
];
const rank = (state) => {
  const at = STATES.indexOf(state);
  return at < 0 ? STATES.length - 1.5 : at;
};
const SHADES = { bound: "bound", ESTABLISHED: "full", SYN_SENT: "full", SYN_RECV: "full", TIME_WAIT: "waits" };
const shade = (state) => SHADES[state] ?? "half";
const statesOf = (stack) => Object.entries(stack.states).sort(([a], [b]) => rank(a) - rank(b));

const COLOURS = 8;
/** Rows that stand for no single process are grey. */
function colourOf(stacks, index) {
  if (!stacks[index].id) return "grey";
  const before = stacks.slice(0, index).filter((stack) => stack.id).length;
  return `c${before % COLOURS}`;
}
/** A namespace may have more ports than one destination can: the limit is said, not divided by. */
const besides = (ports, limit) =>
  `${plural(ports, "port")}, ${limit === null ? "limit not known" : `limit ${number(limit)}`}`;
const sumAt = (states, bin) => Object.values(states).reduce((sum, values) => sum + (values[bin] ?? 0), 0);

/** The layers of the main chart, lowest first: one for each state of each process that is switched on. */
function layers(of) {
  const all = of.stacks.flatMap((stack, index) => {
    if (chosen.hidden.has(index)) return [];
    return statesOf(stack).map(([state, values]) => ({
      stack,
      index,
      state,
      values,
      colour: colourOf(of.stacks, index),
    }));
  });
  const level = new Array(axis.bins).fill(0);
  return all.map((layer) => {
    const base = level.slice();
    layer.values.forEach((value, bin) => (level[bin] += value));
    return { ...layer, base, top: level.slice() };
  });
}

/** Where to look first: the first failure, else the fullest bin. */
function telling(of) {
  const failed = of.failed.findIndex((count) => count > 0);
  if (failed >= 0) return failed;
  const peak = of.peak ? binOf(parse(of.peak.ts)) : 0;
  return within(peak) ? peak : 0;
}
/** The limit when the most ports were taken. */
const limitAt = (of) => of.limit[Math.max(0, Math.min(axis.bins - 1, binOf(parse(of.peak.ts))))];
const highest = (values, from = 0, to = values.length) => {
  let most = 0;
  for (let bin = from; bin < to; bin++) most = Math.max(most, values[bin] ?? 0);
  return most;
};
