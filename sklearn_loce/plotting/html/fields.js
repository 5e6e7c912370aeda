// Columns of the table: colors, filters and search.
"use strict";

// ---- Colors ----

let colored = fields[0]; // the column of the colors
const PLAIN = { marker: "circle", size: 8 };

const boundsOf = (field) => (field.bounds ??= extent(field.values.filter((value) => value !== null)));
const short = (value) => String(Number(value.toPrecision(3)));

// ---- Colors on light and on dark pages ----

let ground = "#ffffff"; // background of the marks
const lightened = new Map(); // colors on this background, by color of the palette
const LEAST_CONTRAST = 3; // of WCAG 2, for graphics

const channels = (color) => [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16));

function luminance(color) {
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const [red, green, blue] = channels(color).map((value) => linear(value / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(first, second) {
  const [low, high] = [luminance(first), luminance(second)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// Lighten dark colors on a dark background until they are visible.
function visible(color) {
  if (!lightened.has(color)) lightened.set(color, luminance(ground) > 0.5 ? color : lighten(color));
  return lightened.get(color);
}

function lighten(color) {
  let parts = channels(color);
  const written = () => `#${parts.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;
  while (contrast(written(), ground) < LEAST_CONTRAST) parts = parts.map((value) => value + (255 - value) / 10);
  return written();
}

function styleOfCode(field, code) {
  const [color, marker, size] = field.styles[code % field.styles.length];
  return { color: visible(color), marker, size };
}

function scaleColor(value, [low, high]) {
  const share = high > low ? (value - low) / (high - low) : 0.5;
  return data.scale[Math.round(share * (data.scale.length - 1))];
}

function styleOf(i) {
  if (colored.names) return styleOfCode(colored, colored.codes[i]);
  const value = colored.values[i];
  return { ...PLAIN, color: value === null ? data.missing : scaleColor(value, boundsOf(colored)) };
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

// Only the list of the column of the colors shows marks, which are those of the map.
function showMarks() {
  for (const field of fields) field.filter.showMarks(field === colored);
  colored.box.open = true;
  const legend = byId("scale");
  legend.hidden = Boolean(colored.names);
  if (colored.names) return;
  const [name, low, ramp, high] = legend.children;
  name.textContent = colored.name;
  [low.textContent, high.textContent] = boundsOf(colored).map(short);
  ramp.style.background = `linear-gradient(to right, ${data.scale.join()})`;
}

// ---- Filters ----

const MOST_CHOICES = 200;

// Sort numbers in texts by value: "concept 2" before "concept 10".
const { compare } = new Intl.Collator("en", { numeric: true });

// A list of choices, for columns with few different texts.
function listFilter(field) {
  const counts = new Array(field.names.length).fill(0), hidden = new Set();
  for (const code of field.codes) counts[code] += 1;
  const hide = (codes) => {
    hidden.clear();
    for (const code of codes) hidden.add(code);
    inputs.forEach((input, code) => { input.checked = !hidden.has(code); });
  };
  const marks = field.names.map((_, code) => draw(styleOfCode(field, code)));
  const inputs = field.names.map((_, code) => element("input", { type: "checkbox", value: code, onchange: () => {
    if (!hidden.delete(code)) hidden.add(code);
    applyFilters();
  } }));
  const labels = field.names.map((name, code) => element(
    "label", { class: "choice", title: name }, inputs[code], marks[code],
    element("span", { class: "name" }, name || "(none)"),
    element("span", { class: "count" }, number.format(counts[code])),
  ));
  const button = (text, verb, codes) => element("button", { type: "button",
    "aria-label": `${verb} all: ${field.name}`, onclick: () => { hide(codes()); applyFilters(); } }, text);
  hide([]);
  const order = [...field.names.keys()].sort((a, b) => compare(field.names[a], field.names[b]));
  return {
    parts: [element("div", { class: "all" }, button("All", "Show", () => []),
      button("None", "Hide", () => field.names.keys())),
    element("div", { class: "list" }, ...order.map((code) => labels[code]))],
    passes: (i) => !hidden.has(field.codes[i]),
    tell: () => (hidden.size ? `${field.names.length - hidden.size} of ${field.names.length}` : ""),
    read: () => [...hidden].join(),
    write: (text) => hide(text ? text.split(",").map(Number).filter((code) => code in field.names) : []),
    showMarks: (isShown) => marks.forEach((mark, code) => {
      mark.toggleAttribute("hidden", !isShown);
      if (isShown) mark.firstChild.setAttribute("fill", styleOfCode(field, code).color);
    }),
  };
}

// A search field, for columns with many different texts.
function textFilter(field) {
  const input = element("input", { type: "search", "aria-label": `${field.name} contains`,
    placeholder: "contains", autocomplete: "off", spellcheck: "false", oninput: () => applyFilters() });
  let wanted = null, texts = null;
  const prepare = () => {
    const text = input.value.trim().toLowerCase();
    texts ??= lowerTexts(field);
    wanted = text ? texts.map((name) => name.includes(text)) : null;
  };
  return {
    parts: [input],
    prepare,
    passes: (i) => !wanted || wanted[field.codes[i]],
    tell: () => input.value,
    read: () => input.value,
    write: (text) => { input.value = text; },
    showMarks: () => {},
  };
}

const N_BARS = 25;

// A range, for columns of numbers. Rows without a number pass only the whole range.
function rangeFilter(field) {
  const [least, most] = boundsOf(field), isWhole = field.values.every((v) => v === null || Number.isInteger(v));
  const n = isWhole && most > least ? Math.min(most - least, 10000) : 100;
  const valueAt = (k) => (k >= n ? most : least + ((most - least) * k) / n);
  const slider = (label, k, follow) => element("input", { type: "range", min: 0, max: n, value: k,
    "aria-label": `${label} ${field.name}`, oninput: () => { follow(); applyFilters(); } });
  const from = slider("Least", 0, () => { from.value = Math.min(from.value, to.value); });
  const to = slider("Largest", n, () => { to.value = Math.max(from.value, to.value); });
  const drawing = element("svg", { viewBox: "0 0 50 16", preserveAspectRatio: "none", "aria-hidden": "true" });
  const counts = new Array(N_BARS).fill(0);
  for (const value of field.values) {
    const share = most > least ? (value - least) / (most - least) : 0;
    if (value !== null) counts[Math.min(N_BARS - 1, Math.floor(share * N_BARS))] += 1;
  }
  const bars = counts.map((number, k) => element("rect",
    { x: 2 * k + 0.2, width: 1.6, y: 16 - (15 * number) / Math.max(...counts), height: 16 }));
  drawing.append(...bars);
  let low = least, high = most, isAll = true;
  const prepare = () => {
    const ends = [Number(from.value), Number(to.value)];
    [low, high] = ends.map(valueAt);
    isAll = ends[0] === 0 && ends[1] === n;
    // If both ends meet, the end that can move lies on top.
    from.style.zIndex = ends[0] > n / 2 ? 1 : 0;
    bars.forEach((bar, k) => {
      const middle = ((k + 0.5) / N_BARS) * n;
      bar.classList.toggle("out", middle < ends[0] || middle > ends[1]);
    });
    from.setAttribute("aria-valuetext", short(low));
    to.setAttribute("aria-valuetext", short(high));
  };
  return {
    parts: [element("div", { class: "slider" }, drawing, from, to)],
    prepare,
    passes: (i) => isAll || (field.values[i] !== null && field.values[i] >= low && field.values[i] <= high),
    tell: () => `${short(low)} to ${short(high)}`,
    read: () => (isAll ? "" : `${from.value}-${to.value}`),
    write: (text) => { [from.value, to.value] = /^\d+-\d+$/.test(text) ? text.split("-") : [0, n]; },
    showMarks: (isShown) => bars.forEach((bar, k) => {
      bar.style.fill = isShown ? scaleColor(k, [0, N_BARS - 1]) : "";
    }),
  };
}

function listFields() {
  fields.forEach((field, k) => {
    const make = field.values ? rangeFilter : field.names.length > MOST_CHOICES ? textFilter : listFilter;
    field.filter = make(field);
    field.told = element("output", {});
    field.box = element("details", { class: "field", "data-field": field.name },
      element("summary", {}, element("span", { class: "name" }, field.name), field.told), ...field.filter.parts);
    field.box.open = k === 0 || ["Cluster", "IoU"].includes(field.name);
    byId("fields").append(field.box);
    byId("color").append(element("option", { value: k }, field.name));
  });
}

function applyFilters() {
  for (const { filter } of fields) filter.prepare?.();
  const indices = [];
  for (let i = 0; i < nRows; i++) {
    isShown[i] = fields.every((field) => field.filter.passes(i));
    if (isShown[i]) indices.push(i);
  }
  find("shown").indices = indices;
  for (const field of fields) field.told.textContent = field.filter.tell();
  byId("show-all").hidden = indices.length === nRows;
  byId("shown").textContent = `${number.format(indices.length)} of ${count(nRows, "point")} shown`;
  point(null);
  mark(selected);
  placeNames();
  keepState();
}

// ---- Search ----

const lowerTexts = (field) => field.names.map((name) => name.toLowerCase());

// Find the rows with a text equal to the query or, if there are none, with a text that contains it.
function search() {
  const query = byId("query").value.trim().toLowerCase();
  if (!query) return [];
  const rate = (text) => (text === query || text.split(", ").includes(query) ? 2 : Number(text.includes(query)));
  const rated = fields.map((field) => field.names && lowerTexts(field).map(rate));
  const rateRow = (i) => Math.max(String(data.row[i]) === query ? 2 : 0, ...fields.map((field, k) => (
    rated[k] ? rated[k][field.codes[i]] : 2 * Number(textOf(field, i) === query))));
  const rates = data.row.map((_, i) => rateRow(i));
  const least = rates.includes(2) ? 2 : 1;
  return rates.flatMap((rate, i) => (rate >= least ? [i] : []));
}

function tellFound() {
  const rows = search();
  byId("choose-found").hidden = !rows.length;
  byId("found").textContent = byId("query").value.trim() ? count(rows.length, "row") : "";
  keepState();
}

function showNext(event) {
  event.preventDefault();
  const rows = search();
  if (!rows.length) return tellFound();
  const next = (rows.indexOf(selected) + 1) % rows.length;
  select(rows[next]);
  byId("found").textContent = `${next + 1} of ${number.format(rows.length)}`
    + (isShown[rows[next]] ? "" : ", hidden by filters");
}
