// The concept map: Bokeh draws the points and says which are pointed at; this shows their pictures,
// filters, and finds.
"use strict";

// ---- The plot ----

let model, xs, ys, selected = null, isShown = new Uint8Array(nRows).fill(1), pointer = null;
let size = [0, 0];

const find = (name) => Bokeh.documents[0].get_model_by_name(name);
const middle = (range) => (range.start + range.end) / 2;
const scale = () => (model.x_range.end - model.x_range.start) / size[0]; // units per pixel

function look(x, y, perPixel) {
  const [width, height] = [(perPixel * size[0]) / 2, (perPixel * size[1]) / 2];
  model.x_range.setv({ start: x - width, end: x + width });
  model.y_range.setv({ start: y - height, end: y + height });
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

function fit() {
  const [[left, right], [low, high]] = [extent(xs), extent(ys)];
  const room = size.map((pixels) => Math.max(pixels - 70, 20));
  const perPixel = Math.max((right - left) / room[0], (high - low) / room[1]) || 1;
  look((left + right) / 2, (low + high) / 2, perPixel);
}

function zoom(factor) {
  look(middle(model.x_range), middle(model.y_range), scale() * factor);
}

function resize() {
  const now = [model.inner_width, model.inner_height];
  if (!(now[0] > 0 && now[1] > 0)) return;
  const before = size[0] && scale();
  size = now;
  if (before) look(middle(model.x_range), middle(model.y_range), before);
  else fit();
}

function onScreen(i) {
  const perPixel = scale();
  return [(xs[i] - model.x_range.start) / perPixel, (model.y_range.end - ys[i]) / perPixel];
}

function closest(indices, [px, py]) {
  let best = null, least = Infinity;
  for (const i of indices) {
    const [x, y] = onScreen(i);
    const distance = Math.hypot(x - px, y - py);
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

function bringIntoView(i) {
  const [x, y] = onScreen(i);
  if (x < 12 || y < 12 || x > size[0] - 12 || y > size[1] - 12) look(xs[i], ys[i], scale());
}

// ---- Pointing ----

let pointed = null;

function point(i) {
  const card = byId("card");
  if (i !== pointed && i !== null) card.replaceChildren(pair(i), what(i), facts(i));
  pointed = i;
  card.hidden = i === null;
  if (i === null) return;
  const [x, y] = onScreen(i);
  const [width, height] = [card.offsetWidth, card.offsetHeight];
  const fits = x + 16 + width < size[0] ? x + 16 : x - 16 - width;
  const isBeside = fits >= 8; // else below or above the point
  const beyond = y + 20 + height < size[1] ? y + 20 : y - 20 - height;
  const within = (start, length, room) => `${Math.max(8, Math.min(start, room - length - 8))}px`;
  card.style.left = within(isBeside ? fits : x - width / 2, width, size[0]);
  card.style.top = within(isBeside ? y - 24 : beyond, height, size[1]);
}

function listenToPointer() {
  const map = byId("map");
  const remember = (event) => {
    const box = map.getBoundingClientRect();
    pointer = [event.clientX - box.left, event.clientY - box.top];
  };
  for (const type of ["pointermove", "pointerdown"]) map.addEventListener(type, remember, true);
  map.addEventListener("pointerleave", () => point(null));
  map.addEventListener("wheel", () => point(null), { passive: true });
  find("hover").callback = (_, { index }) => {
    point(index.indices.length && pointer ? closest(index.indices, pointer) : null);
  };
  const selection = find("points").selected;
  selection.properties.indices.change.connect(() => {
    const hit = [...selection.indices];
    if (hit.length !== 1 || hit[0] !== selected) select(hit.length ? closest(hit, pointer) : null);
  });
}

// ---- Selecting ----

function select(i) {
  const leavesFocus = i === null && byId("details").contains(document.activeElement);
  selected = i;
  find("points").selected.indices = i === null ? [] : [i];
  mark(i);
  describe(i);
  if (leavesFocus) byId("map").focus({ preventScroll: true }); // what had it is gone
  if (i === null) return;
  bringIntoView(i);
  byId("said").textContent = sentence(i);
}

function mark(i) {
  // What is selected shows even where filters hide it; its neighbours do not.
  const near = i === null ? [] : [...data.neighbours[i].filter((k) => isShown[k]), i];
  const { colour, marker, size: sizes } = find("points").data;
  const at = (values) => near.map((k) => values[k]);
  find("near").data = {
    x: at(xs), y: at(ys), colour: at(colour), marker: at(marker),
    size: near.map((k) => sizes[k] * (k === i ? 2 : 1.3)),
  };
  const ends = near.slice(0, -1);
  find("links").data = {
    x0: ends.map(() => xs[i]), y0: ends.map(() => ys[i]), x1: ends.map((k) => xs[k]), y1: ends.map((k) => ys[k]),
  };
}

function describe(i) {
  if (i === null) {
    const hint = "Point at a mark to see its image. Select one to see the rows whose embeddings are "
      + "nearest, wherever they lie on the map.";
    byId("selected").replaceChildren(element("p", { class: "hint" }, hint));
    byId("neighbours").replaceChildren();
    return;
  }
  const clear = element("button", { type: "button", onclick: () => select(null) }, "Clear");
  const csv = `data:text/csv;charset=utf-8,${encodeURIComponent(asCsv(i))}`;
  const file = { class: "save", download: "rows.csv", href: csv, title: "This row and its neighbours" };
  const head = element("div", { class: "head" }, element("h2", {}, "Selected"), element("a", file, "Save as CSV"), clear);
  byId("selected").replaceChildren(head, pair(i), what(i), facts(i));
  listNeighbours(i);
}

function listNeighbours(i) {
  const note = element("span", { class: "note" }, `${data.metric} distance`);
  const head = element("div", { class: "head" }, element("h2", {}, "Nearest neighbours"), note);
  const items = data.neighbours[i].map((k, rank) => {
    const distance = element("span", { class: "distance" }, String(Number(data.distances[i][rank].toPrecision(3))));
    const label = `Neighbour ${rank + 1}: ${sentence(k)}, distance ${distance.textContent}`;
    const button = element("button", { type: "button", class: "near", "data-point": k, "aria-label": label },
      panel(k), what(k, distance), element("span", { class: "id" }, `image ${idOf(k)}`));
    button.addEventListener("click", () => {
      select(k);
      byId("neighbours").querySelector(".near")?.focus();
    });
    return element("li", {}, button);
  });
  byId("neighbours").replaceChildren(head, element("ol", { class: "list" }, ...items));
}

// ---- Filters ----

const hiddenCodes = { concepts: new Set(), clusters: new Set() };

function applyFilters() {
  const [low, high] = ["iou-from", "iou-to"].map((id) => Number(byId(id).value));
  const isWhole = low === 0 && high === 1; // then rows without an IoU are shown as well
  const { concepts, clusters } = data;
  const indices = [];
  for (let i = 0; i < nRows; i++) {
    const inRange = isWhole || (data.iou[i] !== null && data.iou[i] >= low && data.iou[i] <= high);
    isShown[i] = inRange && !hiddenCodes.concepts.has(concepts.codes[i])
      && !(clusters && hiddenCodes.clusters.has(clusters.codes[i]));
    if (isShown[i]) indices.push(i);
  }
  find("shown").indices = indices;
  point(null);
  mark(selected);
  byId("shown").textContent = `${number.format(indices.length)} of ${number.format(nRows)} points shown`;
  // Where both ends meet, the one that has room to move lies on top.
  byId("iou-from").style.zIndex = low > 0.5 ? 1 : 0;
  byId("iou-range").textContent = `${low.toFixed(2)} to ${high.toFixed(2)}`;
  drawHistogram(low, high);
}

function listChoices(kind) {
  const group = data[kind], box = byId(kind), counts = new Array(group.names.length).fill(0);
  for (const code of group.codes) counts[code] += 1;
  const inputs = group.names.map((name, code) => {
    const input = element("input", { type: "checkbox", value: code });
    input.checked = true;
    input.addEventListener("change", () => {
      hiddenCodes[kind][input.checked ? "delete" : "add"](code);
      applyFilters();
    });
    box.append(element("label", { class: "choice", title: name }, input, sign(group, code),
      element("span", { class: "name" }, name),
      element("span", { class: "count" }, number.format(counts[code]))));
    return input;
  });
  const setAll = (checked) => {
    for (const input of inputs) input.checked = checked;
    hiddenCodes[kind] = new Set(checked ? [] : group.names.keys());
    applyFilters();
  };
  for (const [text, checked] of [["All", true], ["None", false]]) {
    const label = `${text === "All" ? "Show all" : "Hide all"} ${kind}`;
    box.firstElementChild.append(element(
      "button", { type: "button", "aria-label": label, onclick: () => setAll(checked) }, text));
  }
  box.hidden = false;
}

const N_BARS = 25;

function drawHistogram(low, high) {
  const counts = new Array(N_BARS).fill(0);
  for (const value of data.iou) {
    if (value !== null) counts[Math.min(N_BARS - 1, Math.floor(value * N_BARS))] += 1;
  }
  const most = Math.max(1, ...counts);
  byId("histogram").replaceChildren(...counts.map((count, k) => {
    const [centre, height] = [(k + 0.5) / N_BARS, (15 * count) / most];
    return element("rect", { class: centre >= low && centre <= high ? "in" : "out",
      x: 2 * k + 0.2, width: 1.6, y: 16 - height, height });
  }));
}

function listenToFilters() {
  listChoices("concepts");
  if (data.clusters) listChoices("clusters");
  byId("iou").hidden = !hasIou;
  const [from, to] = [byId("iou-from"), byId("iou-to")];
  from.addEventListener("input", () => {
    from.value = Math.min(from.value, to.value);
    applyFilters();
  });
  to.addEventListener("input", () => {
    to.value = Math.max(from.value, to.value);
    applyFilters();
  });
  byId("colour-by").hidden = !data.clusters;
  byId("colour-by").addEventListener("change", (event) => colourBy(data[event.target.value]));
}

function colourBy({ codes, styles }) {
  const points = find("points");
  const [colour, marker, sizes] = [0, 1, 2].map((part) => codes.map((code) => styles[code][part]));
  points.data = { ...points.data, colour, marker, size: sizes };
  mark(selected);
}

// ---- Search ----

function search() {
  const query = byId("query").value.trim().toLowerCase();
  if (!query) return [];
  const ids = data.ids.names.map((name) => name.toLowerCase());
  const isExact = ids.includes(query);
  const wanted = ids.map((id) => (isExact ? id === query : id.includes(query)));
  return data.ids.codes.flatMap((code, i) => (wanted[code] ? [i] : []));
}

function showNext(event) {
  event.preventDefault();
  const rows = search();
  if (!rows.length) return tellFound(rows);
  const next = (rows.indexOf(selected) + 1) % rows.length;
  select(rows[next]);
  byId("found").textContent = `${next + 1} of ${number.format(rows.length)}`
    + (isShown[rows[next]] ? "" : ", hidden by filters");
}

function tellFound(rows) {
  const plural = rows.length === 1 ? "row" : "rows";
  byId("found").textContent = byId("query").value.trim() ? `${number.format(rows.length)} ${plural}` : "";
}

// ---- Keyboard ----

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The nearest shown point within 45 degrees of a direction; at first, the one in the middle.
function neighbourTowards([dx, dy]) {
  const [x0, y0] = selected === null ? [size[0] / 2, size[1] / 2] : onScreen(selected);
  let best = selected, least = Infinity;
  for (let i = 0; i < nRows; i++) {
    if (!isShown[i] || i === selected) continue;
    const [x, y] = onScreen(i);
    const [along, across] = [(x - x0) * dx + (y - y0) * dy, Math.abs((x - x0) * dy + (y - y0) * dx)];
    const cost = selected === null ? Math.hypot(along, across) : along + 2 * across;
    if ((selected === null || (along > 0 && across <= along)) && cost < least) [best, least] = [i, cost];
  }
  return best;
}

function onMapKey(event) {
  const act = {
    "+": () => zoom(1 / 1.4), "=": () => zoom(1 / 1.4), "-": () => zoom(1.4), 0: fit,
    Enter: () => byId("neighbours").querySelector(".near")?.focus(),
  }[event.key];
  if (ARROWS[event.key]) select(neighbourTowards(ARROWS[event.key]));
  else if (act) act();
  else return;
  event.preventDefault();
}

// Arrow keys go through the neighbours as they are laid out.
function onListKey(event) {
  if (!ARROWS[event.key]) return;
  const buttons = [...byId("neighbours").querySelectorAll(".near")];
  const columns = buttons.filter((button) => button.offsetTop === buttons[0]?.offsetTop).length;
  const [dx, dy] = ARROWS[event.key];
  buttons[buttons.indexOf(document.activeElement) + dx + columns * dy]?.focus();
  event.preventDefault();
}

function onAnyKey(event) {
  const isTyping = event.target.matches("input[type=search]");
  if (event.key === "Escape") {
    select(null);
    point(null);
  } else if (event.key === "/" && !isTyping) {
    byId("query").focus();
    event.preventDefault();
  }
}

function listenToKeys() {
  byId("map").addEventListener("keydown", onMapKey);
  byId("neighbours").addEventListener("keydown", onListKey);
  document.addEventListener("keydown", onAnyKey);
  byId("zoom-in").addEventListener("click", () => zoom(1 / 1.4));
  byId("zoom-out").addEventListener("click", () => zoom(1.4));
  byId("zoom-fit").addEventListener("click", fit);
  byId("search").addEventListener("submit", showNext);
  byId("query").addEventListener("input", () => tellFound(search()));
}

// ---- Start ----

function summarise() {
  const count = (n, one) => `${number.format(n)} ${one}${n === 1 ? "" : "s"}`;
  const parts = [count(nRows, "LoCE"), count(data.concepts.names.length, "concept"), count(data.images.length, "image")];
  if (data.left_out) parts.push(`${count(data.left_out, "row")} without a place left out`);
  byId("summary").textContent = parts.join(" · ");
  byId("caption").textContent = data.caption;
}

// The map takes the keys itself; what Bokeh lets the Tab key stop at would be a stop without a name.
function takeKeys(root) {
  for (const child of root.querySelectorAll("*")) {
    child.removeAttribute("tabindex");
    if (child.shadowRoot) takeKeys(child.shadowRoot);
  }
}

async function start() {
  Bokeh.set_log_level("warn");
  summarise();
  await Bokeh.embed.embed_item(JSON.parse(byId("plot").textContent), "map");
  model = find("map");
  ({ x: xs, y: ys } = find("points").data);
  for (const side of ["inner_width", "inner_height"]) model.properties[side].change.connect(resize);
  resize();
  listenToFilters();
  listenToPointer();
  listenToKeys();
  takeKeys(byId("map"));
  applyFilters();
  describe(null);
  // After the first picture of the points.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }));
}

start();
