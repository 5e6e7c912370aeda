// The concept map. Bokeh draws the points and reports which points are hovered or enclosed. This script
// shows their pictures, and stores the state in the address of the page.
"use strict";

// ---- The plot ----

let model, xs, ys, isShown = new Uint8Array(nRows).fill(1), size = [0, 0];
let selected = null; // the row whose neighbors are listed
let chosen = []; // the rows of a box, a lasso or a search
let wanted = null; // the visible ranges [x0, x1, y0, y1]; null shows all points
let isLooking = false;

const find = (name) => Bokeh.documents[0].get_model_by_name(name);
const middle = (range) => (range.start + range.end) / 2;
const scale = () => (model.x_range.end - model.x_range.start) / size[0]; // units per pixel

function look(x, y, perPixel) {
  const [width, height] = [(perPixel * size[0]) / 2, (perPixel * size[1]) / 2];
  isLooking = true;
  model.x_range.setv({ start: x - width, end: x + width });
  model.y_range.setv({ start: y - height, end: y + height });
  isLooking = false;
  keepView();
}

function lookAt([x0, x1, y0, y1], margin) {
  const room = size.map((pixels) => Math.max(pixels - margin, 20));
  const perPixel = Math.max((x1 - x0) / room[0], (y1 - y0) / room[1]) || 1;
  look((x0 + x1) / 2, (y0 + y1) / 2, perPixel);
}

function fit() {
  lookAt([...extent(xs), ...extent(ys)], 70);
  wanted = null;
}

function zoom(factor) {
  look(middle(model.x_range), middle(model.y_range), scale() * factor);
}

// Keep the visible ranges visible when the window changes its size.
function resize() {
  const now = [model.inner_width, model.inner_height];
  if (!(now[0] > 0 && now[1] > 0)) return;
  const before = wanted;
  size = now;
  if (before) lookAt(before, 0);
  else fit();
  wanted = before;
}

function keepView() {
  if (isLooking) return;
  wanted = [model.x_range.start, model.x_range.end, model.y_range.start, model.y_range.end];
  placeNames();
  keepState();
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

let pointed = null, pointer = null, pressed = null;

function point(i) {
  const card = byId("card");
  if (i === selected) i = null; // it is shown beside the map, and a card would cover its links
  if (i !== pointed && i !== null) card.replaceChildren(pair(i), what(i), facts(i));
  pointed = i;
  card.hidden = i === null;
  if (i === null) return;
  const [left, top] = placeFor(i, card.offsetWidth, card.offsetHeight);
  card.style.left = `${left}px`;
  card.style.top = `${top}px`;
}

// Find the place beside a point that covers the fewest of the selected point and its neighbors.
function placeFor(i, width, height) {
  const [x, y] = onScreen(i), links = selected === null ? [] : [selected, ...data.neighbors[selected]];
  const within = (start, length, room) => Math.max(8, Math.min(start, room - length - 8));
  const [beside, centered] = [y - 24, x - width / 2];
  const starts = [[x + 16, beside], [x - 16 - width, beside], [centered, y + 20], [centered, y - 20 - height]];
  const places = starts.map(([left, top]) => [within(left, width, size[0]), within(top, height, size[1])]);
  const covered = places.map(([left, top]) => {
    const isIn = (value, start, length) => value > start - 6 && value < start + length + 6;
    const isCovered = ([px, py]) => isIn(px, left, width) && isIn(py, top, height);
    return links.filter((k) => isCovered(onScreen(k))).length + (isCovered([x, y]) ? nRows : 0);
  });
  return places[covered.indexOf(Math.min(...covered))];
}

function listenToPointer() {
  const map = byId("map");
  const remember = (event) => {
    const box = map.getBoundingClientRect();
    pointer = [event.clientX - box.left, event.clientY - box.top];
    if (event.type === "pointerdown") {
      pressed = { at: pointer, adds: event.shiftKey || event.ctrlKey, isDrag: false };
    } else if (event.buttons && pressed) {
      // A lasso may end at its start.
      pressed.isDrag ||= Math.hypot(pointer[0] - pressed.at[0], pointer[1] - pressed.at[1]) > 4;
    }
  };
  for (const type of ["pointermove", "pointerdown"]) map.addEventListener(type, remember, true);
  map.addEventListener("pointerleave", () => point(null));
  map.addEventListener("wheel", () => point(null), { passive: true });
  find("hover").callback = (_, { index }) => {
    point(index.indices.length && pointer ? closest(index.indices, pointer) : null);
  };
  find("points").selected.properties.indices.change.connect(takeSelection);
  for (const button of document.querySelectorAll("[data-tool]")) {
    const tool = find(button.dataset.tool);
    const show = () => button.setAttribute("aria-pressed", String(tool.active === true));
    button.addEventListener("click", () => { tool.active = true; });
    tool.properties.active.change.connect(show);
    show();
  }
}

// A tap selects the nearest point. A box, a lasso or a tap with Shift or Control selects several points.
function takeSelection() {
  const hit = [...find("points").selected.indices];
  if (isMarking || !pointer) return;
  if (pressed?.isDrag || pressed?.adds) choose(hit);
  else clearTo(hit.length ? closest(hit, pointer) : null);
}

// ---- Selecting ----

let isMarking = false;

function clearTo(i) {
  setChosen([]);
  select(i);
}

function select(i) {
  const leavesFocus = i === null && byId("details").contains(document.activeElement);
  selected = i;
  mark(i);
  describe(i);
  point(pointed);
  if (leavesFocus) byId("map").focus({ preventScroll: true }); // the element with the focus was removed
  keepState();
  if (i === null) return;
  bringIntoView(i);
  byId("details").scrollTop = 0;
  byId("said").textContent = sentence(i);
}

function choose(rows) {
  if (rows.length < 2) return clearTo(rows[0] ?? null);
  setChosen(rows);
  select(null);
  byId("said").textContent = `${count(rows.length, "row")} selected`;
}

// Selected points stay visible if filters hide them, but neighbors do not.
function mark(i) {
  isMarking = true;
  find("points").selected.indices = i === null || chosen.length ? chosen : [i];
  isMarking = false;
  const near = i === null ? [] : [...data.neighbors[i].filter((k) => isShown[k]), i];
  const styles = near.map(styleOf);
  find("near").data = {
    x: near.map((k) => xs[k]), y: near.map((k) => ys[k]),
    color: styles.map(({ color }) => color), marker: styles.map(({ marker }) => marker),
    size: styles.map((style, rank) => style.size * (near[rank] === i ? 2 : 1.3)),
  };
  const ends = near.slice(0, -1);
  find("links").data = {
    x0: ends.map(() => xs[i]), y0: ends.map(() => ys[i]), x1: ends.map((k) => xs[k]), y1: ends.map((k) => ys[k]),
  };
}

const button = (text, onclick, more = {}) => element("button", { type: "button", onclick, ...more }, text);

// Buttons that copy rows and save them.
function csvButtons(title, rows, distances) {
  const copy = button("Copy", () => copyCsv(copy, rows, distances), { class: "copy", title: `${title}, as CSV` });
  return [copy, button("Save as CSV", () => saveCsv(rows, distances), { class: "save", title })];
}

function describe(i) {
  if (i === null) {
    const hint = "Point at a mark to see its image. Select one to see the rows whose embeddings are "
      + "nearest, wherever they lie on the map. A box or a lasso selects many.";
    byId("selected").replaceChildren(...(chosen.length ? [] : [element("p", { class: "hint" }, hint)]));
    byId("neighbors").replaceChildren();
    return;
  }
  const [near, distances] = [data.neighbors[i], data.distances[i]];
  const buttons = csvButtons("This row and its neighbors", [i, ...near], ["", ...distances]);
  const enlarge = button("", () => showLarge(i), { class: "enlarge", "aria-label": "Large image" });
  enlarge.append(pair(i));
  byId("selected").replaceChildren(
    element("div", { class: "head" }, element("h2", {}, "Selected"), ...buttons, button("Clear", () => select(null))),
    enlarge, what(i), facts(i));
  const note = element("span", { class: "note" }, `${data.metric} distance`);
  const items = near.map((k, rank) => {
    const distance = element("span", { class: "distance" }, short(distances[rank]));
    return listed(k, `Neighbor ${rank + 1}: ${sentence(k)}, distance ${distance.textContent}`, distance);
  });
  byId("neighbors").replaceChildren(
    element("div", { class: "head" }, element("h2", {}, "Nearest neighbors"), note),
    element("ol", { class: "list" }, ...items));
}

// A picture in a list. A click selects its row.
function listed(k, label, ...more) {
  const picture = element("button", { type: "button", class: "near", "data-point": k, "aria-label": label },
    panel(k), what(k, ...more), element("span", { class: "id" }, `image ${idOf(k)}`));
  picture.addEventListener("click", () => {
    const list = picture.closest(".images");
    select(k);
    (list.contains(picture) ? picture : list.querySelector(".near"))?.focus({ preventScroll: true });
  });
  return element("li", {}, picture);
}

const AT_ONCE = 60; // pictures of a selection that are added at once

function setChosen(rows) {
  chosen = rows;
  const box = byId("chosen");
  if (!rows.length) return box.replaceChildren();
  const list = element("ol", { class: "list" });
  const more = button("", () => {
    const start = list.children.length;
    const next = rows.slice(start, start + AT_ONCE);
    list.append(...next.map((k, rank) => listed(k, `${start + rank + 1}: ${sentence(k)}`)));
    const left = rows.length - list.children.length;
    more.textContent = `Show ${number.format(Math.min(left, AT_ONCE))} more of ${number.format(rows.length)}`;
    more.hidden = !left;
    if (start) list.children[start].firstChild.focus();
  }, { class: "more" });
  more.click();
  box.replaceChildren(
    element("div", { class: "head" }, element("h2", {}, `${count(rows.length, "row")} selected`),
      ...csvButtons("The rows selected", rows),
      button("Clear", () => clearTo(null))),
    list, more);
}

function showLarge(i) {
  const box = byId("large");
  box.replaceChildren(pair(i), what(i, button("Close", () => box.close())));
  box.showModal();
}

// ---- Colors and names on the map ----

function paint() {
  const points = find("points"), styles = data.row.map((_, i) => styleOf(i));
  points.data = { ...points.data, color: styles.map(({ color }) => color),
    marker: styles.map(({ marker }) => marker), size: styles.map(({ size }) => size) };
  showMarks();
  mark(selected);
  describe(selected);
  setChosen(chosen);
  placeNames();
  keepState();
}

// Set the colors of background and lines for a light or dark page.
function dress() {
  const style = getComputedStyle(document.documentElement);
  const [ink, paper, rim] = ["--ink", "--paper", "--rim"].map((name) => style.getPropertyValue(name).trim());
  ground = paper;
  lightened.clear();
  model.setv({ background_fill_color: paper, border_fill_color: paper });
  const marks = find("marks");
  for (const glyph of [marks.glyph, marks.selection_glyph, marks.nonselection_glyph, marks.muted_glyph]) {
    if (glyph?.line_color) glyph.line_color = { value: rim };
  }
  for (const name of ["near marks", "link lines"]) find(name).glyph.line_color = { value: ink };
  find("labels").setv({ text_color: { value: ink }, background_fill_color: { value: paper } });
}

const N_BINS = 20;

// Find the place of each name, where most of its points are close to each other.
function densePlaces({ codes }) {
  const bin = (values) => {
    const [low, high] = extent(values);
    return (i) => Math.floor(((values[i] - low) / (high - low || 1)) * (N_BINS - 1e-9));
  };
  const [column, line] = [bin(xs), bin(ys)];
  const bins = new Map(), best = new Map();
  for (let i = 0; i < nRows; i++) {
    if (!isShown[i]) continue;
    const key = (codes[i] * N_BINS + line(i)) * N_BINS + column(i);
    const [n, x, y] = bins.get(key) ?? [0, 0, 0];
    const now = [n + 1, x + xs[i], y + ys[i]];
    bins.set(key, now);
    if (n >= (best.get(codes[i])?.[0] ?? 0)) best.set(codes[i], now);
  }
  return [...best].sort(([, [a]], [, [b]]) => b - a).map(([code, [n, x, y]]) => [code, x / n, y / n]);
}

const LETTERS = 30;
const ruler = document.createElement("canvas").getContext("2d");

// Place the names of the column of the colors, or concepts if it holds numbers. Omit names that do not fit.
function namesToPlace() {
  const field = colored.names?.length <= MOST_CHOICES ? colored : fields[0];
  if (!byId("names").checked || field.names.length > MOST_CHOICES) return [];
  ruler.font = "600 12px sans-serif";
  const taken = [], placed = [], perPixel = scale();
  for (const [code, x, y] of densePlaces(field)) {
    const text = field.names[code].length > LETTERS ? `${field.names[code].slice(0, LETTERS)}…` : field.names[code];
    const [left, half] = [(x - model.x_range.start) / perPixel, ruler.measureText(text).width / 2 + 4];
    const top = (model.y_range.end - y) / perPixel;
    const dy = [0, -17, 17, -34, 34].find((step) => left > half && left < size[0] - half
      && top + step > 10 && top + step < size[1] - 10
      && taken.every(([l, t, h]) => Math.abs(l - left) > h + half || Math.abs(t - top - step) > 17));
    if (dy === undefined || !text.trim()) continue;
    taken.push([left, top + dy, half]);
    placed.push({ text, x, y, dy: -dy });
  }
  return placed;
}

let isPlacing = false;

function placeNames() {
  if (isPlacing) return;
  isPlacing = true;
  requestAnimationFrame(() => {
    isPlacing = false;
    const placed = namesToPlace(), at = (key) => placed.map((name) => name[key]);
    find("name places").data = { x: at("x"), y: at("y"), text: at("text"), dy: at("dy") };
  });
}

function listenToColors() {
  byId("color").addEventListener("change", () => {
    colored = fields[byId("color").value];
    paint();
  });
  byId("names").addEventListener("change", () => { placeNames(); keepState(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { dress(); paint(); });
  byId("show-all").addEventListener("click", () => {
    for (const { filter } of fields) filter.write("");
    applyFilters();
    byId("choose-shown").focus(); // the button with the focus was removed
  });
  byId("choose-shown").addEventListener("click", () => choose(rowsShown()));
  byId("copy-shown").addEventListener("click", ({ target }) => copyCsv(target, rowsShown()));
  byId("save-shown").addEventListener("click", () => saveCsv(rowsShown()));
  byId("save-png").addEventListener("click", () => find("save").do.emit("save"));
}

const rowsShown = () => [...find("shown").indices];

// ---- Address of the page ----

let isKeeping = true, timer = null;

function stateText() {
  const state = new URLSearchParams();
  const put = (name, text) => { if (text) state.set(name, text); };
  put("color", fields.indexOf(colored) || "");
  if (!byId("names").checked) put("names", "0");
  fields.forEach(({ filter }, k) => put(`f${k}`, filter.read()));
  put("find", byId("query").value);
  put("row", selected === null ? "" : String(selected));
  put("rows", chosen.join());
  put("view", wanted?.map((value) => Number(value.toPrecision(6))).join());
  return state.toString().replaceAll("%2C", ",");
}

// Embedded pages have no address.
function keepState() {
  if (!isKeeping || location.protocol === "about:") return;
  clearTimeout(timer);
  timer = setTimeout(() => history.replaceState(null, "", `#${stateText()}`), 150);
}

function readState() {
  const state = new URLSearchParams(location.hash.slice(1)), get = (name) => state.get(name) ?? "";
  const rows = (text) => text.split(",").filter((part) => /^\d+$/.test(part) && part < nRows).map(Number);
  isKeeping = false;
  colored = fields[get("color")] ?? fields[0];
  byId("color").value = fields.indexOf(colored);
  byId("names").checked = get("names") !== "0";
  fields.forEach(({ filter }, k) => filter.write(get(`f${k}`)));
  byId("query").value = get("find");
  applyFilters();
  tellFound();
  chosen = rows(get("rows"));
  selected = rows(get("row"))[0] ?? null;
  const view = get("view").split(",").map(Number);
  if (view.length === 4 && view.every(Number.isFinite)) lookAt(view, 0);
  else fit();
  paint();
  isKeeping = true;
}

// ---- Keyboard ----

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// Find the nearest visible point within 45 degrees of a direction, or in the center if none is selected.
function neighborTowards([dx, dy]) {
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

// Add a row to the selection, or remove it.
function toggle(i) {
  if (i === null) return;
  setChosen(chosen.includes(i) ? chosen.filter((k) => k !== i) : [...chosen, i]);
  select(i);
  byId("said").textContent = `${count(chosen.length, "row")} selected`;
}

function onMapKey(event) {
  const act = {
    "+": () => zoom(1 / 1.4), "=": () => zoom(1 / 1.4), "-": () => zoom(1.4), 0: fit,
    Enter: () => byId("details").querySelector(".near")?.focus(),
    " ": () => toggle(selected),
  }[event.key];
  if (event.key === "a" && (event.ctrlKey || event.metaKey)) choose(rowsShown());
  else if (ARROWS[event.key]) select(neighborTowards(ARROWS[event.key]));
  else if (act) act();
  else return;
  event.preventDefault();
}

// Move through the grid of images by arrow keys.
function onListKey(event) {
  if (!ARROWS[event.key]) return;
  const buttons = [...event.currentTarget.querySelectorAll(".near")];
  const columns = buttons.filter((button) => button.offsetTop === buttons[0]?.offsetTop).length;
  const [dx, dy] = ARROWS[event.key];
  buttons[buttons.indexOf(document.activeElement) + dx + columns * dy]?.focus();
  event.preventDefault();
}

function onAnyKey(event) {
  const isTyping = event.target.matches("input[type=search]");
  if (byId("large").open) return;
  if (event.key === "Escape") {
    clearTo(null);
    point(null);
  } else if (event.key === "/" && !isTyping) {
    byId("query").focus();
    event.preventDefault();
  }
}

function listenToKeys() {
  byId("map").addEventListener("keydown", onMapKey);
  for (const list of document.querySelectorAll(".images")) list.addEventListener("keydown", onListKey);
  document.addEventListener("keydown", onAnyKey);
  // Otherwise Bokeh would also clear the selection when Escape closes an image.
  addEventListener("keyup", (event) => { if (event.key === "Escape") event.stopPropagation(); }, true);
  byId("zoom-in").addEventListener("click", () => zoom(1 / 1.4));
  byId("zoom-out").addEventListener("click", () => zoom(1.4));
  byId("zoom-fit").addEventListener("click", fit);
  byId("search").addEventListener("submit", showNext);
  byId("query").addEventListener("input", tellFound);
  byId("choose-found").addEventListener("click", () => choose(search()));
  byId("large").addEventListener("click", ({ target }) => { if (target === byId("large")) target.close(); });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address stores the state
    byId("map").focus();
  });
}

// ---- Start ----

function summarize() {
  const [concepts, images] = [data.concepts, data.ids].map(({ names }) => names.length);
  const parts = [count(nRows, "LoCE"), count(concepts, "concept"), count(images, "image")];
  if (data.left_out) parts.push(`${count(data.left_out, "row")} without a place left out`);
  byId("summary").textContent = parts.join(" · ");
  byId("caption").textContent = data.caption;
}

// The map handles keys itself, so elements of Bokeh must not be tab stops, which would have no name.
function takeKeys(root) {
  for (const child of root.querySelectorAll("*")) {
    child.removeAttribute("tabindex");
    if (child.shadowRoot) takeKeys(child.shadowRoot);
  }
}

async function start() {
  Bokeh.set_log_level("warn");
  summarize();
  await Bokeh.embed.embed_item(JSON.parse(byId("plot").textContent), "map");
  model = find("map");
  ({ x: xs, y: ys } = find("points").data);
  for (const side of ["inner_width", "inner_height"]) model.properties[side].change.connect(resize);
  for (const range of [model.x_range, model.y_range]) range.change.connect(keepView);
  listFields();
  dress();
  resize();
  listenToPointer();
  listenToColors();
  listenToKeys();
  takeKeys(byId("map"));
  readState();
  addEventListener("hashchange", readState);
  // After the first drawing of the points.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }));
}

start();
