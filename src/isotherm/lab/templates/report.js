"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, text) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  // Three significant digits, but never fewer than a whole number has.
  const figure = (value) =>
    Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
  // What is packed: base64 of deflated JSON, in a script element of its own.
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  };

  // --- light and dark ------------------------------------------------------
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const paint = (value) => {
    if (typeof value === "string") return (scheme.matches && data.dark[value]) || value;
    if (Array.isArray(value)) return value.map(paint);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, paint(one)]));
    return value;
  };

  // --- saving a chart: on white paper, with a legend, complete in itself ----
  const hasShape = (value) =>
    Boolean(value) && typeof value === "object" && ("shape" in value || Object.values(value).some(hasShape));
  const withLegend = (value, legend, channel) => {
    if (Array.isArray(value)) return value.map((one) => withLegend(one, legend));
    if (!value || typeof value !== "object") return value;
    const made = Object.fromEntries(Object.entries(value).map(([name, one]) => [name, withLegend(one, legend, name)]));
    const named = ["color", "shape", "strokeDash"].includes(channel) && ["policy", "what"].includes(made.field);
    if (named && made.legend === null) made.legend = legend;
    return made;
  };
  const standalone = (spec, title) => {
    const legend = { title: null, symbolSize: 80 };
    if (hasShape(spec)) legend.symbolStrokeWidth = 0; // a mark's dashes would fray it
    const made = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      title: { text: title, anchor: "start", fontWeight: 600 },
      ...withLegend(spec, legend),
      background: "#ffffff",
      padding: 12,
    };
    if (made.width === "container") made.width = 640;
    return made;
  };
  const offer = (blob, name) => {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const saves = (place, name, specOf) => {
    const slug = name.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "");
    const button = (label, kind, act) => {
      const one = make("button", label);
      one.type = "button";
      one.dataset.save = kind;
      one.setAttribute("aria-label", `Save ${name} as ${label}`);
      one.addEventListener("click", act);
      return one;
    };
    const png = async () => {
      const made = await vegaEmbed(make("div"), standalone(specOf(), name), { actions: false, renderer: "canvas" });
      const canvas = await made.view.toCanvas(2);
      canvas.toBlob((blob) => offer(blob, slug + ".png"), "image/png");
      made.finalize();
    };
    const json = () =>
      offer(new Blob([JSON.stringify(standalone(specOf(), name), null, 1)], { type: "application/json" }), slug + ".vl.json");
    place.replaceChildren("Save", button("PNG", "png", png), button("Vega-Lite", "vega", json));
  };

  // --- drawing ---------------------------------------------------------------
  const drawn = new Map();
  window.isothermDrawn = [];
  const draw = async (id, spec, name) => {
    const asked = {};
    drawn.set(id, { spec, name, asked });
    const options = { actions: false, renderer: "svg", ast: false, tooltip: { theme: scheme.matches ? "dark" : "light" } };
    const made = await vegaEmbed("#" + id, paint(spec), options);
    if (drawn.get(id).asked !== asked) return made; // another one has been asked for
    if (!window.isothermDrawn.includes(id)) window.isothermDrawn.push(id);
    if (name) {
      const chart = byId(id);
      if (!chart.nextElementSibling || !chart.nextElementSibling.matches("p.save")) {
        const place = make("p");
        place.className = "save";
        chart.after(place);
      }
      saves(chart.nextElementSibling, name, () => drawn.get(id).spec);
    }
    made.view.addEventListener("click", (event, item) => {
      const point = item && item.datum;
      if (point && point.policy) dispatchEvent(new CustomEvent("isotherm-point", { detail: { id, point } }));
    });
    return made;
  };
  scheme.addEventListener("change", () => {
    for (const [id, { spec, name }] of drawn) draw(id, spec, name);
    dispatchEvent(new Event("isotherm-scheme"));
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
    if (!begun.has(chart.id)) begun.set(chart.id, draw(chart.id, chart.spec, chart.name));
    return begun.get(chart.id);
  };
  // Paper does not wait: what is not drawn yet is drawn at once.
  addEventListener("beforeprint", () => data.charts.forEach(drawOnce));

  // --- parts of the page ------------------------------------------------------
  for (const heading of document.querySelectorAll("h2[data-short]")) {
    const link = make("a", heading.dataset.short);
    link.href = "#" + heading.id;
    byId("parts").append(link);
  }

  // --- prices -----------------------------------------------------------------
  if (data.markets.length) {
    const pick = byId("pick-market");
    data.markets.forEach((market, index) => pick.append(new Option(market.label, index)));
    const change = () => {
      const market = data.markets[+pick.value];
      byId("market-table").innerHTML = market.table;
      return draw("chart-market", market.spec, market.name);
    };
    pick.addEventListener("change", change);
    addEventListener("isotherm-point", ({ detail: { id, point } }) => {
      if (id !== "chart-market") return;
      const { workload, machine } = data.markets[+pick.value];
      dispatchEvent(new CustomEvent("isotherm-go", { detail: { go: point.policy, workload, machine, fastRatio: point.ratio } }));
    });
    change();
  }

  // --- regret -----------------------------------------------------------------
  if (data.matrices.length) {
    const pick = byId("pick-matrix");
    data.matrices.forEach((matrix, index) => pick.append(new Option(matrix.label, index)));
    const tables = [...byId("matrices").children];
    const change = () => {
      tables.forEach((table, index) => (table.hidden = index !== +pick.value));
      saves(byId("save-matrix"), data.matrices[+pick.value].name, () => data.matrices[+pick.value].spec);
    };
    pick.parentElement.parentElement.hidden = data.matrices.length < 2;
    pick.addEventListener("change", change);
    change();
  }

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
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-go]");
    if (button) dispatchEvent(new CustomEvent("isotherm-go", { detail: { ...button.dataset } }));
  });

  window.isotherm = { data, byId, make, figure, unpack, draw, saves, scheme, rest: () => drawNext(0) };
  if (!data.groups.length) drawNext(0);
})();
