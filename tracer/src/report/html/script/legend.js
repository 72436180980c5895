// What follows the cursor, and what the colours mean.

const taken = (bin) =>
  pool().ports[bin] === null ? "ports not known" : besides(pool().ports[bin], pool().limit[bin]);
function drawReadout() {
  const bin = cursor();
  const of = pool();
  const failed = of.failed[bin];
  byId("readout").replaceChildren(
    html("b", {}, clock(startOf(bin), axis.step_ms % 1000 ? 1 : 1000)),
    ` ${zoneName()}`,
    html("span", {}, ` ${taken(bin)}`),
    failed ? html("span", { class: "bad" }, ` ${number(failed)} failed`) : "",
  );
  const node = main.node;
  node.setAttribute("aria-valuenow", chosen.bin);
  node.setAttribute(
    "aria-valuetext",
    `${clock(startOf(chosen.bin))} ${zoneName()}: ${taken(chosen.bin)}, ${number(of.failed[chosen.bin])} failed`,
  );
}

function drawLegend() {
  const of = pool();
  const rows = of.stacks.map((stack, index) => {
    const off = chosen.hidden.has(index);
    const button = html(
      "button",
      { type: "button", "aria-pressed": String(!off) },
      swatch(colourOf(of.stacks, index), "full"),
      html("span", { class: "who" }, name(short(stack.process, 48))),
      stack.exited && html("em", {}, "ended"),
      html("b", { class: "value" }),
    );
    button.addEventListener("click", () => {
      if (off) chosen.hidden.delete(index);
      else chosen.hidden.add(index);
      draw();
      byId("legend").children[index].firstChild.focus();
    });
    return html("li", {}, button);
  });
  byId("legend").replaceChildren(...rows);
}
function drawLegendValues() {
  byId("legend")
    .querySelectorAll(".value")
    .forEach((node, index) => {
      node.textContent = pool().ports[cursor()] === null ? "?" : number(sumAt(pool().stacks[index].states, cursor()));
    });
}
function swatch(colour, kind) {
  return svg(
    "svg",
    { class: "swatch", width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" },
    svg("rect", { class: `layer ${colour} ${kind}`, width: 14, height: 14, rx: 3 }),
  );
}
/** What shades and lines mean; only those that occur. */
function drawKey() {
  const of = pool();
  const states = [...new Set(of.stacks.flatMap((stack) => Object.keys(stack.states)))].sort(
    (a, b) => rank(a) - rank(b),
  );
  const kinds = [...new Set(states.map(shade))];
  const names = (kind) =>
    states
      .filter((state) => shade(state) === kind)
      .map(clean)
      .join(", ");
  const rows = kinds.map((kind) => html("li", {}, swatch("grey", kind), names(kind)));
  const dash = (kind, words) => html("li", {}, html("i", { class: `dash ${kind}` }), words);
  byId("key").replaceChildren(
    ...rows,
    dash("limit", "limit: ports that one destination can have"),
    of.failed.some(Boolean) ? dash("fails", "failed calls") : "",
    of.ports.includes(null) ? html("li", {}, html("i", { class: "blank" }), "not known") : "",
  );
}
