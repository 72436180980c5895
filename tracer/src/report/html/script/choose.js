// Choosing a moment, or a stretch of time, with mouse, finger or keys.

/** Redraws nothing: moves the lines, and the numbers that follow them. */
let followers = [];
function follow() {
  main.cursor.update();
  followers.forEach((update) => update());
  drawReadout();
  drawLegendValues();
}
function pick(bin) {
  chosen.bin = Math.max(0, Math.min(axis.bins - 1, bin));
  chosen.hover = null;
  if (chosen.bin < chosen.from || chosen.bin >= chosen.to) scrollTo(chosen.bin);
  follow();
  drawMoment();
}

/** Moves the zoomed view, so that the moment is in it. */
function scrollTo(bin) {
  const length = chosen.to - chosen.from;
  chosen.from = Math.max(0, Math.min(axis.bins - length, bin - Math.floor(length / 2)));
  chosen.to = chosen.from + length;
  draw();
}
function zoom(from, to) {
  chosen.from = Math.max(0, from);
  chosen.to = Math.min(axis.bins, Math.max(to, chosen.from + 1));
  chosen.hover = null;
  draw();
}

const KEYS = {
  ArrowLeft: () => -1,
  ArrowRight: () => 1,
  ArrowDown: () => -1,
  ArrowUp: () => 1,
  PageDown: () => -Math.max(1, Math.round((chosen.to - chosen.from) / 10)),
  PageUp: () => Math.max(1, Math.round((chosen.to - chosen.from) / 10)),
  Home: () => -axis.bins,
  End: () => axis.bins,
};
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const length = chosen.to - chosen.from;
  if (KEYS[event.key]) pick(chosen.bin + KEYS[event.key]() * (event.shiftKey ? 10 : 1));
  else if (event.key === "+" && length > 8)
    zoom(chosen.bin - Math.floor(length / 4), chosen.bin + Math.ceil(length / 4));
  else if (event.key === "-") zoom(chosen.bin - length, chosen.bin + length);
  else if (event.key === "Escape") zoom(0, axis.bins);
  else return;
  event.preventDefault();
}

/** Everywhere a press or a finger picks a moment; where it `zooms`, a mouse can also drag over a stretch of time. */
function listen(node, shape, zooms) {
  const at = (event) =>
    ((event.clientX - node.getBoundingClientRect().left) * shape.width) / node.getBoundingClientRect().width;
  const isMouse = (event) => event.pointerType !== "touch";
  let began = null;
  node.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    began = at(event);
    node.setPointerCapture(event.pointerId);
  });
  node.addEventListener("pointermove", (event) => {
    const bin = shape.bin(at(event));
    if (began !== null && !isMouse(event)) return pick(bin);
    if (began !== null && zooms && Math.abs(at(event) - began) > 6) mark(node, shape, began, at(event));
    if (chosen.hover === bin) return;
    chosen.hover = bin;
    follow();
  });
  node.addEventListener("pointerup", (event) => {
    if (began === null) return;
    const [from, to] = [began, at(event)].sort((a, b) => a - b).map(shape.bin);
    const dragged = zooms && isMouse(event) && Math.abs(at(event) - began) > 6;
    began = null;
    if (dragged && to > from) return zoom(from, to + 1);
    if (zooms) mark(node, shape, 0, 0);
    pick(shape.bin(at(event)));
  });
  node.addEventListener("pointercancel", () => {
    began = null;
  });
  node.addEventListener("pointerleave", () => {
    chosen.hover = null;
    follow();
  });
  if (zooms) node.addEventListener("keydown", onKey);
}

/** The stretch that the mouse has been dragged over, in pixels. */
function mark(node, shape, a, b) {
  const [left, right] = [a, b].sort((x, y) => x - y);
  const box = node.querySelector(".zoom");
  box.setAttribute("x", fixed(Math.max(shape.left, left)));
  box.setAttribute("width", fixed(Math.max(0, Math.min(shape.right, right) - Math.max(shape.left, left))));
}
