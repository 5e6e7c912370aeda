// Mark, pictures and facts of a row. Texts of the table enter the page only as text nodes and
// attributes, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("payload").textContent);
const nRows = data.row.length;
const hasIou = data.iou.some((value) => value !== null);
const number = new Intl.NumberFormat("en");
const count = (n, one) => `${number.format(n)} ${one}${n === 1 ? "" : "s"}`;

// Columns of the table: texts (names, and codes of rows) or numbers (values).
const fields = [
  { name: "Concept", ...data.concepts },
  ...(data.clusters ? [{ name: "Cluster", ...data.clusters }] : []),
  ...(hasIou ? [{ name: "IoU", values: data.iou, bounds: [0, 1] }] : []),
  ...data.columns,
  { name: "Image", ...data.ids },
];

// ---- Building elements ----

function element(tag, attributes = {}, ...children) {
  const isDrawing = ["svg", "path", "rect"].includes(tag);
  const made = isDrawing
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Bokeh's markers within -7..7.
const star = (n, inner) => Array.from({ length: 2 * n }, (_, k) => {
  const [radius, angle] = [k % 2 ? inner : 6.5, (Math.PI * k) / n];
  return `${(radius * Math.sin(angle)).toFixed(2)} ${(-radius * Math.cos(angle)).toFixed(2)}`;
});
const SIGNS = {
  circle: "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0z",
  circle_dot: "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0zM-1.7 0a1.7 1.7 0 1 1 3.4 0a1.7 1.7 0 1 1-3.4 0z",
  square: "M-5-5h10v10h-10z",
  triangle: "M0-6L6 4.5H-6z",
  inverted_triangle: "M0 6L6-4.5H-6z",
  diamond: "M0-6.5L4.7 0L0 6.5L-4.7 0z",
  square_pin: "M-6-6Q0-3 6-6Q3 0 6 6Q0 3-6 6Q-3 0-6-6z",
  triangle_pin: "M0-6.5Q1.5.5 6.5 5Q0 3-6.5 5Q-1.5.5 0-6.5z",
  plus: "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
  star: `M${star(5, 2.8).join("L")}z`,
  hex: `M${star(3, 6.5).join("L")}z`,
};

function draw({ color, marker }) {
  const path = element("path", { d: SIGNS[marker], fill: color, "fill-rule": "evenodd" });
  return element("svg", { class: "sign", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, path);
}

// ---- Facts of a row ----

const nameOf = (group, i) => group.names[group.codes[i]];
const conceptOf = (i) => nameOf(data.concepts, i);
const idOf = (i) => nameOf(data.ids, i);
const textOf = (field, i) => (field.names ? nameOf(field, i) : String(field.values[i] ?? ""));

function sentence(i) {
  const known = fields.slice(1, -1 - data.columns.length); // cluster and IoU, if any
  const more = known.map((field) => `, ${field.name} ${textOf(field, i) || "none"}`);
  return `${conceptOf(i)}, image ${idOf(i)}${more.join("")}`;
}

// Write rows as CSV, with their distances if there are any.
function asCsv(rows, distances) {
  const columns = [
    ...(distances ? [["distance", (i, rank) => distances[rank]]] : []),
    ["row", (i) => data.row[i]],
    ["image_id", idOf],
    ["concept", conceptOf],
    ...(data.clusters ? [["cluster", (i) => nameOf(data.clusters, i)]] : []),
    ...(hasIou ? [["iou", (i) => data.iou[i] ?? ""]] : []),
    ...data.columns.map((column) => [column.name, (i) => textOf(column, i)]),
  ];
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = [columns.map(([name]) => name), ...rows.map((i, rank) => columns.map(([, read]) => read(i, rank)))];
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

// Copy a text to the clipboard. Pages without navigator.clipboard copy a selected text instead.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const box = element("textarea", { class: "unseen", readonly: "", "aria-hidden": "true" });
    box.value = text;
    document.body.append(box);
    box.select();
    const isCopied = document.execCommand("copy");
    box.remove();
    before.focus({ preventScroll: true });
    return isCopied;
  }
}

async function copyCsv(button, rows, distances) {
  const isCopied = await copyText(asCsv(rows, distances));
  byId("said").textContent = isCopied ? `${count(rows.length, "row")} copied` : "Not copied; save as CSV";
  button.textContent = isCopied ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function saveCsv(rows, distances) {
  const file = new Blob([asCsv(rows, distances)], { type: "text/csv;charset=utf-8" });
  const href = URL.createObjectURL(file);
  element("a", { href, download: "rows.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

function panel(i, light) {
  const [width, height] = data.sizes[data.image_of[i]];
  const webp = (text) => `data:image/webp;base64,${text}`;
  const box = element("div", { class: "panel", style: `aspect-ratio: ${width} / ${height}` });
  box.append(element("img", { alt: "", src: webp(data.images[data.image_of[i]]) }));
  if (light) box.append(element("img", { alt: "", class: "light", src: webp(light) }));
  box.append(element(
    "svg", { viewBox: `0 0 ${10 * width} ${10 * height}`, "aria-hidden": "true" },
    element("path", { class: "halo", d: data.contours[i] }),
    element("path", { class: "edge", d: data.contours[i], stroke: styleOf(i).color }),
  ));
  return box;
}

function pair(i) {
  const shown = [element("figure", {}, panel(i), element("figcaption", {}, "Image and mask"))];
  const light = data.projections[i];
  if (light) {
    shown.push(element("figure", {}, panel(i, light), element("figcaption", {}, "Projection")));
  }
  return element("div", { class: "pair" }, ...shown);
}

function what(i, ...more) {
  const name = element("span", { class: "name" }, conceptOf(i));
  return element("div", { class: "what" }, draw(styleOf(i)), name, ...more);
}

function facts(i) {
  const known = [["Image", idOf(i)], ["Row", String(data.row[i])]];
  for (const field of fields.slice(1, -1)) known.push([field.name, textOf(field, i) || "none"]);
  const cells = known.flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, v)]);
  return element("dl", { class: "facts" }, ...cells);
}
