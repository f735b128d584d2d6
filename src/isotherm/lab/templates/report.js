"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const embed = { actions: false, renderer: "svg", ast: false };
  const make = (tag, text) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  // Three significant digits, but never fewer than a whole number has.
  const figure = (value) =>
    Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
  window.isothermDrawn = [];
  const draw = (id, spec) =>
    vegaEmbed("#" + id, spec, embed).then((view) => {
      window.isothermDrawn.push(id);
      return view;
    });

  // --- slowdown charts, one after the other so that the page stays quick ------
  const drawNext = (index) => {
    const chart = data.charts[index];
    if (!chart) {
      document.documentElement.dataset.drawn = "all";
      return;
    }
    drawOnce(chart).then(() => setTimeout(drawNext, 0, index + 1));
  };
  const begun = new Map();
  const drawOnce = (chart) => {
    if (!begun.has(chart.id)) begun.set(chart.id, draw(chart.id, chart.spec));
    return begun.get(chart.id);
  };
  // Paper does not wait: what is not drawn yet is drawn at once.
  addEventListener("beforeprint", () => data.charts.forEach(drawOnce));
  // --- the table -----------------------------------------------------------
  const table = byId("numbers");
  const rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === "" ? Infinity : +cell.dataset.v;
      };
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        const order = typeof x === "number" ? x - y : x.localeCompare(y);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
  byId("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    byId("filter-count").textContent = words.length ? `${shown} of ${rows.length} runs` : "";
  });

  // --- over time -----------------------------------------------------------
  if (!data.over_time.length) return drawNext(0);
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const mix = (a, b, share) => a + (b - a) * share;
  const SLOW = [[241, 245, 251], [8, 69, 148]];
  const FAST = [[255, 233, 207], [179, 60, 0]];
  const colour = (heat, share) =>
    [0, 1, 2].map((i) => mix(mix(SLOW[0][i], SLOW[1][i], heat), mix(FAST[0][i], FAST[1][i], heat), share));

  const unpack = (map) => {
    if (!map.cells) {
      const heat = decode(map.heat), share = decode(map.share);
      const mean = new Float64Array(map.rows);
      for (let c = 0; c < map.columns; c++)
        for (let r = 0; r < map.rows; r++) mean[r] += heat[c * map.rows + r];
      const plain = Array.from({ length: map.rows }, (_, r) => r);
      const hottest = [...plain].sort((a, b) => mean[a] - mean[b] || a - b);
      map.cells = { heat, share, plain, hottest };
    }
    return map.cells;
  };

  const drawMap = (side, map, sorted) => {
    const canvas = byId("map-" + side);
    const { heat, share, plain, hottest } = unpack(map);
    const order = sorted ? hottest : plain;
    const small = new OffscreenCanvas(map.columns, map.rows);
    const pen = small.getContext("2d");
    const image = pen.createImageData(map.columns, map.rows);
    for (let r = 0; r < map.rows; r++)
      for (let c = 0; c < map.columns; c++) {
        const at = c * map.rows + order[r];
        const [red, green, blue] = colour(heat[at] / 255, share[at] / 255);
        const to = ((map.rows - 1 - r) * map.columns + c) * 4;
        image.data.set([red, green, blue, 255], to);
      }
    pen.putImageData(image, 0, 0);
    const big = canvas.getContext("2d");
    big.imageSmoothingEnabled = false;
    big.drawImage(small, 0, 0, canvas.width, canvas.height);
    // The line where more than half of a region is in fast memory.
    const w = canvas.width / map.columns, h = canvas.height / map.rows;
    const fast = (c, r) => share[c * map.rows + order[r]] > 127;
    big.beginPath();
    for (let c = 0; c < map.columns; c++)
      for (let r = 0; r < map.rows; r++) {
        const y = (map.rows - r) * h;
        if (r + 1 < map.rows && fast(c, r) !== fast(c, r + 1)) {
          big.moveTo(c * w, y - h);
          big.lineTo((c + 1) * w, y - h);
        }
        if (c + 1 < map.columns && fast(c, r) !== fast(c + 1, r)) {
          big.moveTo((c + 1) * w, y - h);
          big.lineTo((c + 1) * w, y);
        }
      }
    big.strokeStyle = "rgba(0,0,0,.75)";
    big.lineWidth = 1;
    big.stroke();
    canvas.setAttribute("aria-label", map.words);
    const rate = (byte) => map.low_rate * (map.high_rate / map.low_rate) ** (byte / 255);
    const read = byId("read-" + side);
    read.textContent = map.words;
    byId("axis-" + side).replaceChildren(make("span", "0 s"), make("span", "time →"), make("span", `${figure(map.end_s)} s`));
    const pagesOf = (region) => {
      const first = region * map.region_pages;
      const last = Math.min(map.pages, first + map.region_pages) - 1;
      return `${first.toLocaleString("en")}–${last.toLocaleString("en")}`;
    };
    canvas.onpointermove = (event) => {
      const box = canvas.getBoundingClientRect();
      const clamp = (value, top) => Math.max(0, Math.min(top - 1, Math.floor(value)));
      const c = clamp(((event.clientX - box.left) / box.width) * map.columns, map.columns);
      const r = clamp((1 - (event.clientY - box.top) / box.height) * map.rows, map.rows);
      const at = c * map.rows + order[r];
      const seconds = (((c + 0.5) / map.columns) * map.end_s).toFixed(1);
      const few = heat[at] === 0 ? "at most " : "";
      read.textContent =
        `${seconds} s, pages ${pagesOf(order[r])}: ${few}${figure(rate(heat[at]))} accesses per page and second, ` +
        `${Math.round((share[at] / 255) * 100)} % of the pages in fast memory`;
    };
    canvas.onpointerleave = () => (read.textContent = map.words);
    // The same, coarse, as a table: eight ranges of pages, six moments.
    const grid = make("table"), head = make("tr");
    head.append(make("th", "pages"));
    const moments = [...Array(6).keys()].map((k) => Math.min(map.columns - 1, Math.round((k / 5) * (map.columns - 1))));
    for (const c of moments) head.append(make("th", `${(((c + 0.5) / map.columns) * map.end_s).toFixed(0)} s`));
    const thead = make("thead"), tbody = make("tbody");
    thead.append(head);
    const parts = Math.min(8, map.rows);
    for (let part = 0; part < parts; part++) {
      const from = Math.floor((part * map.rows) / parts), to = Math.floor(((part + 1) * map.rows) / parts);
      const line = make("tr");
      const last = Math.min(map.pages, to * map.region_pages) - 1;
      line.append(make("td", `${(from * map.region_pages).toLocaleString("en")}–${last.toLocaleString("en")}`));
      for (const c of moments) {
        let warm = 0, quick = 0;
        for (let r = from; r < to; r++) {
          warm += rate(heat[c * map.rows + r]);
          quick += share[c * map.rows + r] / 255;
        }
        line.append(make("td", `${figure(warm / (to - from))}/s, ${Math.round((100 * quick) / (to - from))} % fast`));
      }
      tbody.append(line);
    }
    grid.append(thead, tbody);
    byId("table-" + side).replaceChildren(grid);
  };

  const seriesTable = (id, series, name) => {
    const grid = make("table"), thead = make("thead"), tbody = make("tbody"), head = make("tr");
    const policies = Object.keys(series);
    const times = series[policies[0]].time_s;
    const moments = [...new Set([...Array(8).keys()].map((k) => Math.round((k / 7) * (times.length - 1))))];
    head.append(make("th", "policy"));
    for (const m of moments) head.append(make("th", `${times[m].toFixed(0)} s`));
    thead.append(head);
    for (const policy of policies) {
      const line = make("tr");
      line.append(make("td", policy));
      for (const m of moments) {
        const value = series[policy][name][m];
        line.append(make("td", value === undefined ? "" : figure(value)));
      }
      tbody.append(line);
    }
    grid.append(thead, tbody);
    byId(id).replaceChildren(grid);
  };

  const workload = byId("pick-workload"), left = byId("pick-left"), right = byId("pick-right");
  const sortHeat = byId("sort-heat");
  data.over_time.forEach((part, index) => workload.append(new Option(part.name, index)));
  const structure = data.over_time.map((one) => one.structure);
  workload.value = structure.indexOf(Math.max(...structure));
  const part = () => data.over_time[+workload.value];
  const redraw = (side, select) => drawMap(side, part().maps[select.value], sortHeat.checked);
  const change = () => {
    const now = part();
    const names = Object.keys(now.maps);
    for (const [select, chosen] of [[left, now.left], [right, now.right]]) {
      select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    }
    redraw("left", left);
    redraw("right", right);
    for (const [name, id] of [["access_ns", "access"], ["moved_mib_s", "moved"]]) {
      draw("chart-" + id, now.charts[id]);
      seriesTable("table-" + id, now.series, name);
    }
  };
  workload.addEventListener("change", change);
  left.addEventListener("change", () => redraw("left", left));
  right.addEventListener("change", () => redraw("right", right));
  sortHeat.addEventListener("change", () => {
    redraw("left", left);
    redraw("right", right);
  });
  change();
  drawNext(0);
})();
