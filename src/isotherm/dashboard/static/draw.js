// Figures as words, and pictures of them. Nothing here asks for anything.
"use strict";

const NS = "http://www.w3.org/2000/svg";

export function bytes(count) {
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) {
    if (count < 1024) break;
    count /= 1024;
    unit = next;
  }
  return `${digits(count, unit === "B" ? 0 : 3)} ${unit}`;
}

export function nanoseconds(value) {
  if (value === null || value === undefined) return "–";
  let unit = "ns";
  for (const next of ["µs", "ms", "s"]) {
    if (Math.abs(value) < 1000) break;
    value /= 1000;
    unit = next;
  }
  return `${digits(value, 3)} ${unit}`;
}

function digits(value, most) {
  if (most === 0) return value.toFixed(0);
  const size = Math.abs(value);
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0);
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  for (const [factor, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= factor) return `${digits(value / factor, 3)} ${unit}`;
  }
  return value >= 10 ? value.toFixed(0) : value.toFixed(2);
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(0)} %`;
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  const two = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function hex(value) {
  return value.toString(16);
}

export function element(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shape(parent, name, attributes, text = null) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

// Boxes of tiers side by side, as full as they are, and arrows with what flows.
export function drawTiers(svg, view) {
  const width = 240, gap = 150, height = 190, top = 24, box = 130;
  const whole = view.tiers.length * width + (view.tiers.length - 1) * gap + 20;
  svg.setAttribute("viewBox", `0 0 ${whole} ${height}`);
  svg.style.maxWidth = `${1.4 * whole}px`;
  svg.replaceChildren();
  // What is managed is hatched: it is told from what is used without its colour.
  const hatch = shape(shape(svg, "defs", {}), "pattern", {
    id: "hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  });
  shape(hatch, "line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 8 });
  view.tiers.forEach((tier, at) => {
    const x = 10 + at * (width + gap);
    const full = (part) => box * Math.min(1, tier.capacity_bytes ? part / tier.capacity_bytes : 0);
    shape(svg, "text", { x, y: top - 8 }, `${at}  ${tier.name}  ${nanoseconds(tier.latency_ns)}`);
    shape(svg, "rect", { class: "box", x, y: top, width, height: box, rx: 6 });
    const used = full(tier.used_bytes), ours = full(tier.managed_bytes);
    shape(svg, "rect", { class: "used", x: x + 6, y: top + box - used, width: width - 12, height: used });
    shape(svg, "rect", { class: "ours", fill: "url(#hatch)", x: x + 6, y: top + box - ours, width: 40, height: ours });
    shape(svg, "text", { x, y: top + box + 16 }, `${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)}`);
    shape(svg, "text", { x, y: top + box + 32 }, `managed ${bytes(tier.managed_bytes)}`);
  });
  for (const flow of view.flows) {
    const up = flow.dst < flow.src;
    const near = Math.min(flow.src, flow.dst), far = Math.max(flow.src, flow.dst);
    const y = top + (up ? 38 : 88) + 12 * (far - near - 1);
    const left = 10 + near * (width + gap) + width + 6, right = 10 + far * (width + gap) - 6;
    const [from, to] = up ? [right, left] : [left, right];
    const thick = 1.5 + Math.min(6, Math.log10(1 + flow.recent_pages));
    shape(svg, "line", { class: "flow", x1: from, x2: to, y1: y, y2: y, "stroke-width": thick });
    const tip = to + (up ? -2 : 2), back = to + (up ? 10 : -10);
    shape(svg, "path", { class: "head", d: `M${tip} ${y}L${back} ${y - 7}L${back} ${y + 7}Z` });
    shape(svg, "text", { x: left + 4, y: y - 10 }, `${up ? "↑" : "↓"} ${rate(flow.recent_pages)}/min`);
  }
}

export function tierWords(view) {
  const tiers = view.tiers.map((tier, at) =>
    `Tier ${at}, ${tier.name}: ${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)} in use, ` +
    `${bytes(tier.managed_bytes)} managed.`);
  const flows = view.flows.map((flow) =>
    `${flow.pages} pages have moved from tier ${flow.src} to ${flow.dst}, ` +
    `${flow.recent_pages} in the last minute.`);
  return [...tiers, ...flows].join(" ");
}

// A share in [0, 1] over time.
export function drawShare(svg, moments) {
  const width = 900, height = 150, left = 44, bottom = 24;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  for (const share of [0, 0.5, 1]) {
    const y = (1 - share) * (height - bottom - 10) + 10;
    shape(svg, "line", { class: "axis", x1: left, x2: width, y1: y, y2: y });
    shape(svg, "text", { x: 0, y: y + 4 }, percent(share));
  }
  const there = moments.filter((moment) => moment.fast_share !== null);
  if (there.length < 1) return;
  const first = moments[0].time_s, last = moments.at(-1).time_s;
  const span = Math.max(last - first, 1e-9);
  const points = there.map((moment) => {
    const x = left + (width - left - 4) * (moment.time_s - first) / span;
    return `${x.toFixed(1)},${((1 - moment.fast_share) * (height - bottom - 10) + 10).toFixed(1)}`;
  });
  shape(svg, "polyline", { class: "curve", points: points.join(" ") });
  shape(svg, "text", { x: left, y: height - 4 }, clock(first));
  shape(svg, "text", { x: width - 4, y: height - 4, "text-anchor": "end" }, clock(last));
}

// Cells by lightness alone: dark is much. NaN stays paper.
export function drawMap(canvas, table, shadeOf, cursor) {
  const rows = table.length, columns = rows ? table[0].length : 0;
  const wide = Math.max(4, Math.floor(480 / Math.max(1, columns)));
  const high = Math.max(3, Math.floor(300 / Math.max(1, rows)));
  canvas.width = Math.max(1, columns * wide);
  canvas.height = Math.max(1, rows * high);
  const paint = canvas.getContext("2d");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  table.forEach((row, y) => row.forEach((value, x) => {
    if (value === null) return;
    const shade = Math.min(Math.max(shadeOf(value), 0), 1);
    const light = dark ? 12 + 78 * shade : 97 - 82 * shade;
    paint.fillStyle = `hsl(212 60% ${light}%)`;
    paint.fillRect(x * wide, y * high, wide, high);
  }));
  if (cursor) {
    paint.strokeStyle = dark ? "#fff" : "#000";
    paint.lineWidth = 2;
    paint.strokeRect(cursor.column * wide, cursor.row * high, wide, high);
  }
}

export function fillTable(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] ?? body.insertRow();
    cells.forEach((cell, column) => {
      const place = row.cells[column] ?? row.insertCell();
      if (cell instanceof Function) cell(place);
      else if (place.textContent !== cell) place.textContent = cell;
    });
  });
}
