// Text, numbers and times.

// Names in a report are chosen by others. They reach the page as text nodes only; what would act on its surroundings
// (control characters, direction marks, invisible ones) is shown as its code.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const clean = (text) => String(text).replace(UNSEEN, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
const short = (text, length) => {
  const chars = [...clean(text)];
  return chars.length > length ? chars.slice(0, length - 1).join("") + "…" : chars.join("");
};

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, clean(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false)
      node.append(child instanceof Node ? child : clean(child));
  }
  return node;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
/** A name in a sentence: its direction of writing stays its own. */
const name = (text) => html("bdi", {}, text);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const number = (value) => (value === null || value === undefined ? "not known" : whole.format(value));
const rate = (value) => (value < 10 ? tenths : whole).format(value);
const percent = (part, all) => {
  if (!all) return "–";
  const share = (100 * part) / all;
  return share > 0 && share < 0.1 ? "< 0.1 %" : `${tenths.format(share)} %`;
};
const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Times are shown in UTC, or in the reader's own zone. */
const zone = { local: false };
const shifted = (ms) => new Date(zone.local ? ms - new Date(ms).getTimezoneOffset() * 60000 : ms);
const zoneName = () => (zone.local ? Intl.DateTimeFormat().resolvedOptions().timeZone || "local time" : "UTC");
/** Milliseconds since 1970 of an RFC 3339 time; browsers need not know nanoseconds. */
const parse = (ts) => Date.parse(ts.replace(/(\.\d{3})\d+/, "$1"));
const day = (ms) => shifted(ms).toISOString().slice(0, 10);
/** The time of day, as fine as `step` (milliseconds) needs it. */
function clock(ms, step = 1000) {
  const text = shifted(ms).toISOString().slice(11, 23);
  if (step < 1000) return text;
  return step < 60000 ? text.slice(0, 8) : text.slice(0, 5);
}
const moment = (ts) => clock(parse(ts));
function duration(ms) {
  const seconds = Math.round(ms / 1000);
  if (ms < 10000) return `${tenths.format(ms / 1000)} s`;
  const units = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = Math.max(
    0,
    units.findIndex(([length]) => seconds >= length),
  );
  let rest = seconds;
  const parts = units.slice(first, first + 2).map(([length, unit]) => {
    const count = Math.floor(rest / length);
    rest -= count * length;
    return count ? `${count} ${unit}` : "";
  });
  return parts.filter(Boolean).join(" ");
}
