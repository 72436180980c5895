// Draws everything, and again when something is chosen or the page changes its width.

function draw() {
  if (report.pools.length && axis.bins) {
    drawLegend();
    drawKey();
    drawMain();
    followers = [drawRates(), drawMultiples()];
    byId("unzoom").hidden = chosen.from === 0 && chosen.to === axis.bins;
    follow();
    drawNumbers();
  }
}
function drawTexts() {
  drawVerdict();
  drawMoments("timeline", report.timeline, (index) => String(index + 1));
  drawMoments("causes", report.causes, letter);
  drawAdvice();
  drawFailures();
  drawHoles();
  drawSources();
}
function choosePool(index) {
  Object.assign(chosen, { pool: index, hover: null, hidden: new Set(), bin: telling(report.pools[index]) });
  byId("pool").value = String(index);
  drawPlace();
  drawSteps();
  draw();
  drawMoment();
}
function drawPlace() {
  const of = pool();
  byId("pool-about").replaceChildren("Host ", name(of.host), `, network namespace ${of.netns}.`);
}
function drawPools() {
  const label = (each) => `${short(each.host, 30)} · netns ${each.netns} · peak ${number(each.peak?.ports)}`;
  byId("pool").replaceChildren(
    ...report.pools.map((each, index) => html("option", { value: String(index) }, label(each))),
  );
  byId("pool").addEventListener("change", () => choosePool(Number(byId("pool").value)));
  show("pool-choice", report.pools.length > 1);
  show("pool-about", report.pools.length === 1);
}

/** Follows the system until the reader chooses. */
function setUpTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    byId("theme").textContent = isDark() ? "Light" : "Dark";
  };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}
function setUpZone() {
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const button = byId("zone");
  const label = () => {
    button.textContent = zone.local ? "UTC" : "Local time";
  };
  button.hidden = new Date(axis.start_ms).getTimezoneOffset() === 0 && (!here || /UTC|GMT/.test(here));
  button.addEventListener("click", () => {
    zone.local = !zone.local;
    label();
    drawTexts();
    draw();
    if (report.pools.length && axis.bins) drawMoment();
  });
  label();
}
/** Charts are drawn for the width they have; paper is a width too. */
function setUpWidths() {
  let width = document.body.clientWidth;
  const redraw = () => {
    if (document.body.clientWidth !== width && !matchMedia("print").matches) {
      width = document.body.clientWidth;
      draw();
    }
  };
  new ResizeObserver(redraw).observe(document.body);
  const paper = (on) => () => {
    document.documentElement.classList.toggle("paper", on);
    draw();
  };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
}

drawPatterns();
setUpTheme();
setUpZone();
drawTexts();
byId("print").addEventListener("click", () => print());
byId("unzoom").addEventListener("click", () => zoom(0, axis.bins));
byId("numbers").addEventListener("toggle", drawNumbers);
const hasSeries = report.pools.length > 0 && axis.bins > 0;
for (const id of ["ports", "curves"]) show(id, hasSeries);
show("to", hasSeries && report.destinations.length);
if (hasSeries) {
  drawPools();
  choosePool(0);
}
setUpWidths();
