// What is shown of a row: its sign, its pictures and what is known of it. Texts of the table reach
// the page as text nodes and attributes only, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("payload").textContent);
const nRows = data.row.length;
const hasIou = data.iou.some((value) => value !== null);
const number = new Intl.NumberFormat("en");

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

function sign(group, code) {
  const [colour, marker] = group.styles[code];
  const path = element("path", { d: SIGNS[marker], fill: colour, "fill-rule": "evenodd" });
  return element("svg", { class: "sign", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, path);
}

// ---- What is known of a row ----

const nameOf = (group, i) => group.names[group.codes[i]];
const conceptOf = (i) => nameOf(data.concepts, i);
const idOf = (i) => data.ids.names[data.ids.codes[i]];
const iouOf = (i) => (data.iou[i] === null ? "none" : data.iou[i].toFixed(2));

function sentence(i) {
  const cluster = data.clusters ? `, cluster ${nameOf(data.clusters, i)}` : "";
  return `${conceptOf(i)}, image ${idOf(i)}, IoU ${iouOf(i)}${cluster}`;
}

// What is known of a row and its neighbours, as CSV.
function asCsv(i) {
  const near = [[i, ""], ...data.neighbours[i].map((k, rank) => [k, data.distances[i][rank]])];
  const columns = [
    ["row", (k) => data.row[k]],
    ["image_id", idOf],
    ["concept", conceptOf],
    ...(data.clusters ? [["cluster", (k) => nameOf(data.clusters, k)]] : []),
    ...(hasIou ? [["iou", (k) => data.iou[k] ?? ""]] : []),
    ...data.columns.map((column) => [column.name, (k) => nameOf(column, k)]),
  ];
  const lines = [["distance", ...columns.map(([name]) => name)]];
  for (const [k, distance] of near) lines.push([distance, ...columns.map(([, read]) => read(k))]);
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

function panel(i, light) {
  const [width, height] = data.sizes[data.image_of[i]];
  const webp = (text) => `data:image/webp;base64,${text}`;
  const box = element("div", { class: "panel", style: `aspect-ratio: ${width} / ${height}` });
  box.append(element("img", { alt: "", src: webp(data.images[data.image_of[i]]) }));
  if (light) box.append(element("img", { alt: "", class: "light", src: webp(light) }));
  const [colour] = data.concepts.styles[data.concepts.codes[i]];
  box.append(element(
    "svg", { viewBox: `0 0 ${10 * width} ${10 * height}`, "aria-hidden": "true" },
    element("path", { class: "halo", d: data.contours[i] }),
    element("path", { class: "edge", d: data.contours[i], stroke: colour }),
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
  return element("div", { class: "what" }, sign(data.concepts, data.concepts.codes[i]), name, ...more);
}

function facts(i) {
  const known = [["Image", idOf(i)], ["Row", String(data.row[i])]];
  if (hasIou) known.push(["IoU", iouOf(i)]);
  if (data.clusters) known.push(["Cluster", nameOf(data.clusters, i)]);
  for (const column of data.columns) known.push([column.name, nameOf(column, i) || "none"]);
  const cells = known.flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, v)]);
  return element("dl", { class: "facts" }, ...cells);
}
