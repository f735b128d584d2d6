(() => {
  // --- a run over time, and what it decided -----------------------------------
  const { data, byId, make, figure, unpack, draw, saves, scheme, rest } = window.isotherm;
  if (!data.groups.length) return;
  const SIDES = ["left", "right"];
  const NOTHING = "";
  const mix = (a, b, share) => a + (b - a) * share;
  const LIGHT = { slow: [[241, 245, 251], [8, 69, 148]], fast: [[255, 233, 207], [179, 60, 0]], line: "rgba(0,0,0,.75)" };
  const DARK = { slow: [[23, 29, 38], [94, 177, 255]], fast: [[59, 38, 21], [255, 163, 71]], line: "rgba(255,255,255,.8)" };

  const cellsOf = (map) => {
    if (!map.cells) {
      const whole = (text, steps) => {
        // Each column is the difference from the one before.
        const cells = Uint8Array.from(text, (c) => c.charCodeAt(0) - 48);
        for (let at = map.rows; at < cells.length; at++) cells[at] = (cells[at] + cells[at - map.rows]) % (steps + 1);
        return cells;
      };
      const heat = whole(map.heat, map.heat_steps), share = whole(map.share, map.share_steps);
      const mean = new Float64Array(map.rows);
      for (let c = 0; c < map.columns; c++)
        for (let r = 0; r < map.rows; r++) mean[r] += heat[c * map.rows + r];
      const plain = Array.from({ length: map.rows }, (_, r) => r);
      const hottest = [...plain].sort((a, b) => mean[a] - mean[b] || a - b);
      map.cells = { heat, share, plain, hottest };
    }
    return map.cells;
  };
  const rateOf = (map, level) => map.low_rate * (map.high_rate / map.low_rate) ** (level / map.heat_steps);
  const pagesOf = (map, region) => {
    const first = region * map.region_pages;
    return [first, Math.min(map.pages, first + map.region_pages) - 1];
  };
  const between = ([first, last]) =>
    first === last ? first.toLocaleString("en") : `${first.toLocaleString("en")}–${last.toLocaleString("en")}`;
  const clamp = (value, top) => Math.max(0, Math.min(top - 1, Math.floor(value)));
  const duration = (ns) => {
    if (ns === null || ns === undefined) return "not told";
    const size = Math.abs(ns);
    const [scale, unit] = size >= 1e9 ? [1e9, "s"] : size >= 1e6 ? [1e6, "ms"] : size >= 1e3 ? [1e3, "µs"] : [1, "ns"];
    return `${(ns / scale).toPrecision(3).replace(/e.*/, "")} ${unit}`;
  };

  // --- what is shown ------------------------------------------------------------
  const workload = byId("pick-workload"), sortHeat = byId("sort-heat"), note = byId("run-note");
  const picks = { left: byId("pick-left"), right: byId("pick-right") };
  const parts = { left: byId("pick-part-left"), right: byId("pick-part-right") };
  const shown = { left: null, right: null };
  const kept = new Map();
  const fetchRun = (group, policy) => {
    const id = `run-${group}-${data.groups[group].policies.indexOf(policy)}`;
    if (!kept.has(id)) kept.set(id, unpack(id));
    return kept.get(id);
  };

  const drawMap = (side) => {
    const map = shown[side].map, canvas = byId("map-" + side);
    const { heat, share, plain, hottest } = cellsOf(map);
    const look = scheme.matches ? DARK : LIGHT;
    const order = sortHeat.checked ? hottest : plain;
    const small = new OffscreenCanvas(map.columns, map.rows);
    const pen = small.getContext("2d");
    const image = pen.createImageData(map.columns, map.rows);
    for (let r = 0; r < map.rows; r++)
      for (let c = 0; c < map.columns; c++) {
        const at = c * map.rows + order[r];
        const warm = heat[at] / map.heat_steps, quick = share[at] / map.share_steps;
        const to = ((map.rows - 1 - r) * map.columns + c) * 4;
        for (let i = 0; i < 3; i++)
          image.data[to + i] = mix(mix(look.slow[0][i], look.slow[1][i], warm), mix(look.fast[0][i], look.fast[1][i], warm), quick);
        image.data[to + 3] = 255;
      }
    pen.putImageData(image, 0, 0);
    const big = canvas.getContext("2d");
    big.imageSmoothingEnabled = false;
    big.drawImage(small, 0, 0, canvas.width, canvas.height);
    // The line where more than half of a region is in fast memory.
    const w = canvas.width / map.columns, h = canvas.height / map.rows;
    const fast = (c, r) => 2 * share[c * map.rows + order[r]] > map.share_steps;
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
    big.strokeStyle = look.line;
    big.lineWidth = 1;
    big.stroke();
    // The pages whose decisions are told below.
    const part = (shown[side].decisions.parts || [])[+parts[side].value];
    if (parts[side].value !== "" && part && !sortHeat.checked) {
      const top = (1 - (part.pages[1] + 1) / map.pages) * canvas.height;
      const height = ((part.pages[1] + 1 - part.pages[0]) / map.pages) * canvas.height;
      for (const [colour, width] of [[scheme.matches ? "#000" : "#fff", 5], [scheme.matches ? "#fff" : "#000", 2]]) {
        big.strokeStyle = colour;
        big.lineWidth = width;
        big.strokeRect(2, Math.max(2, top), canvas.width - 4, Math.min(height, canvas.height - 4));
      }
    }
    canvas.setAttribute("aria-label", map.words);
    byId("read-" + side).textContent = map.words;
    byId("axis-" + side).replaceChildren(make("span", "0 s"), make("span", "time →"), make("span", `${figure(map.end_s)} s`));
    const gutter = canvas.parentElement.querySelector(".pages");
    gutter.replaceChildren(
      ...(sortHeat.checked ? ["hottest", "pages", "coldest"] : [(map.pages - 1).toLocaleString("en"), "page", "0"]).map((text) => make("span", text)),
    );
  };

  const place = (side, event) => {
    const map = shown[side].map, { plain, hottest } = cellsOf(map);
    const box = byId("map-" + side).getBoundingClientRect();
    const c = clamp(((event.clientX - box.left) / box.width) * map.columns, map.columns);
    const r = clamp((1 - (event.clientY - box.top) / box.height) * map.rows, map.rows);
    return [c, (sortHeat.checked ? hottest : plain)[r]];
  };
  for (const side of SIDES) {
    const canvas = byId("map-" + side);
    canvas.addEventListener("pointermove", (event) => {
      if (!shown[side]) return;
      const map = shown[side].map, { heat, share } = cellsOf(map);
      const [c, region] = place(side, event);
      const at = c * map.rows + region;
      const seconds = (((c + 0.5) / map.columns) * map.end_s).toFixed(1);
      const few = heat[at] === 0 ? "at most " : "about ";
      byId("read-" + side).textContent =
        `${seconds} s, pages ${between(pagesOf(map, region))}: ${few}${figure(rateOf(map, heat[at]))} accesses per page and second, ` +
        `${Math.round((share[at] / map.share_steps) * 100)} % of the pages in fast memory`;
    });
    canvas.addEventListener("pointerleave", () => {
      if (shown[side]) byId("read-" + side).textContent = shown[side].map.words;
    });
    canvas.addEventListener("click", (event) => {
      if (!shown[side]) return;
      const [first] = pagesOf(shown[side].map, place(side, event)[1]);
      const found = (shown[side].decisions.parts || []).findIndex(({ pages }) => pages[0] <= first && first <= pages[1]);
      if (found < 0) return;
      parts[side].value = parts[side].value === String(found) ? "" : found;
      drawMap(side);
      decide(side);
    });
    parts[side].addEventListener("change", () => {
      drawMap(side);
      decide(side);
    });
  }

  // The same, coarse, as a table: eight ranges of pages, six moments.
  const mapTable = (side) => {
    const map = shown[side].map, { heat, share } = cellsOf(map);
    const moments = [...Array(6).keys()].map((k) => Math.min(map.columns - 1, Math.round((k / 5) * (map.columns - 1))));
    const rows = [];
    const count = Math.min(8, map.rows);
    for (let part = 0; part < count; part++) {
      const from = Math.floor((part * map.rows) / count), to = Math.floor(((part + 1) * map.rows) / count);
      const line = [between([from * map.region_pages, Math.min(map.pages, to * map.region_pages) - 1])];
      for (const c of moments) {
        let warm = 0, quick = 0;
        for (let r = from; r < to; r++) {
          warm += rateOf(map, heat[c * map.rows + r]);
          quick += share[c * map.rows + r] / map.share_steps;
        }
        line.push(`${figure(warm / (to - from))}/s, ${Math.round((100 * quick) / (to - from))} % fast`);
      }
      rows.push(line);
    }
    fill("table-" + side, ["pages", ...moments.map((c) => `${(((c + 0.5) / map.columns) * map.end_s).toFixed(0)} s`)], rows);
  };
  const fill = (id, head, rows, texts = []) => {
    const grid = make("table"), thead = make("thead"), tbody = make("tbody");
    const line = (cells, tag) => {
      const made = make("tr");
      cells.forEach((cell, at) => {
        const one = make(tag, cell);
        if (texts.includes(at)) one.className = "text";
        made.append(one);
      });
      return made;
    };
    thead.append(line(head, "th"));
    tbody.append(...rows.map((row) => line(row, "td")));
    grid.append(thead, tbody);
    byId(id).replaceChildren(grid);
  };

  // --- decisions --------------------------------------------------------------------
  const someRanges = ({ ranges, nr }) => ranges.map(between).join(", ") + (nr > ranges.length ? ", …" : "");
  const tally = (total) => {
    const box = make("div");
    box.className = "tally";
    const cells = [
      ["pages moved up", figure(total.up)],
      ["pages moved down", figure(total.down)],
      ["tries that failed", figure(total.failed)],
      ["promised", duration(total.promised_ns)],
      ["earned, net", duration(total.earned_ns)],
    ];
    if (total.sideways) cells.splice(2, 0, ["moved within a tier", figure(total.sideways)]);
    for (const [words, value] of cells) {
      const cell = make("div");
      cell.append(make("b", value), words);
      box.append(cell);
    }
    return box;
  };
  const reasons = (groups) => {
    const list = make("dl");
    for (const group of groups) {
      const term = make("dt", `${group.what}: ${group.nr_pages.toLocaleString("en")} pages `);
      const where = make("span", `(${someRanges(group.pages)})`);
      where.className = "quiet";
      term.append(where);
      list.append(term, make("dd", group.words + "."));
    }
    return list;
  };
  const decide = (side) => {
    const { decisions } = shown[side], box = byId("decisions-" + side);
    if (!decisions.total) {
      box.replaceChildren(make("p", "The decisions of this run were not kept."));
      return;
    }
    const part = parts[side].value === "" ? null : decisions.parts[+parts[side].value];
    const said = make("p");
    if (part) {
      said.textContent =
        `${Math.round(100 * part.start_fast)} % of these pages were in fast memory at the start, ` +
        `${Math.round(100 * part.end_fast)} % at the end; ${figure(part.rate)} accesses a page and second in the mean.`;
    } else if (decisions.total.promised_ns === null) {
      said.textContent = decisions.total.up + decisions.total.down ? "This policy promises nothing for its moves." : "Nothing was moved.";
    } else {
      said.textContent = "Promised and earned are sums over all moves that went through; moves down earn less than nothing and make the room.";
    }
    box.replaceChildren(tally(part || decisions.total), said, reasons((part || decisions).why));
  };
  const decisionsOf = (side) => {
    const { decisions } = shown[side];
    parts[side].replaceChildren(new Option("all", ""), ...(decisions.parts || []).map((part, at) => new Option(between(part.pages), at)));
    decide(side);
    const rows = (decisions.moved || []).map((row) => [
      `${figure(row.from_s)}–${figure(row.to_s)}`,
      row.way,
      row.errno ? `${row.reason}, ${row.errno}` : row.reason,
      row.moves.toLocaleString("en"),
      row.promised_ns === null ? "" : duration(row.promised_ns),
      row.earned_ns === null ? "" : duration(row.earned_ns),
      someRanges(row.pages),
    ]);
    fill("moved-" + side, ["seconds", "way", "reason", "pages", "promised", "earned", "such as"], rows, [1, 2, 6]);
  };

  // --- a side ---------------------------------------------------------------------
  const heatSpec = (side) => {
    const { map } = shown[side], { heat, share } = cellsOf(map);
    const values = [];
    for (let c = 0; c < map.columns; c += 2)
      for (let r = 0; r < map.rows; r += 4) {
        const at = c * map.rows + r, last = Math.min(map.rows, r + 4) - 1;
        values.push({
          from_s: (c / map.columns) * map.end_s,
          to_s: (Math.min(map.columns, c + 2) / map.columns) * map.end_s,
          first: r * map.region_pages,
          end: pagesOf(map, last)[1] + 1,
          rate: +rateOf(map, heat[at]).toPrecision(4),
          fast: +(share[at] / map.share_steps).toFixed(3),
        });
      }
    const spec = structuredClone(data.heat_form);
    spec.data.values = values;
    spec.transform[0].calculate = `max(datum.rate, ${map.low_rate})`;
    for (const layer of spec.layer) layer.encoding.color.scale.domain = [map.low_rate, map.high_rate];
    return spec;
  };
  const show = async (side) => {
    const policy = picks[side].value, group = +workload.value;
    byId("run-" + side).hidden = policy === NOTHING;
    delete byId("figure-" + side).dataset.shown;
    byId("badge-" + side).textContent = "";
    if (policy === NOTHING) return;
    const run = await fetchRun(group, policy);
    if (picks[side].value !== policy || +workload.value !== group) return; // chosen anew meanwhile
    shown[side] = run;
    const regret = run.regret === null || run.regret === undefined ? "" : `, regret ${run.regret.toFixed(2)}`;
    byId("badge-" + side).textContent = `slowdown ${run.slowdown.toFixed(3)}${regret}`;
    decisionsOf(side);
    drawMap(side);
    mapTable(side);
    const name = `${data.groups[group].name}, ${policy}`;
    saves(byId("save-map-" + side), `heat: ${name}`, () => heatSpec(side));
    const last = run.series[run.series.length - 1] || {};
    const words = {
      latency: `Time an access takes under ${policy}, by part; at the end ${figure(last.base + last.wait + last.move + last.look)} ns.`,
      moves: `Memory moved up and down a second under ${policy}; at the end ${figure(last.up)} and ${figure(-last.down)} MiB.`,
      placement: `Share of accesses that fast memory serves under ${policy}; at the end ${Math.round(100 * last.fast)} %.`,
    };
    for (const [kind, form] of Object.entries(data.run_charts)) {
      const spec = { ...form, data: { values: run.series }, description: words[kind] };
      await draw(`chart-${kind}-${side}`, spec, `${kind}: ${name}`);
    }
    if (shown[side] === run) byId("figure-" + side).dataset.shown = name;
  };

  const seriesTable = (id, series, name) => {
    const times = Object.values(series)[0].time_s;
    const moments = [...new Set([...Array(8).keys()].map((k) => Math.round((k / 7) * (times.length - 1))))];
    const rows = Object.entries(series).map(([policy, line]) => [
      policy,
      ...moments.map((m) => (line[name][m] === undefined ? "" : figure(line[name][m]))),
    ]);
    fill(id, ["policy", ...moments.map((m) => `${times[m].toFixed(0)} s`)], rows);
  };
  const compare = async (number) => {
    const id = "group-" + number;
    if (!kept.has(id)) kept.set(id, unpack(id));
    const { charts, series } = await kept.get(id);
    if (+workload.value !== number) return;
    for (const [name, chart] of [["access_ns", "access"], ["moved_mib_s", "moved"]]) {
      await draw("chart-" + chart, charts[chart], `${chart}: ${data.groups[number].name}`);
      seriesTable("table-" + chart, series, name);
    }
  };

  const narrow = matchMedia("(max-width: 600px)").matches;
  const change = (left, right) => {
    const number = +workload.value, group = data.groups[number];
    const chosen = { left: left || group.left, right: right ?? (narrow ? NOTHING : group.right) };
    for (const side of SIDES) {
      const names = group.policies.map((name) => new Option(name, name, false, name === chosen[side]));
      if (side === "right") names.unshift(new Option("nothing beside it", NOTHING, false, chosen.right === NOTHING));
      picks[side].replaceChildren(...names);
    }
    return Promise.all([...SIDES.map(show), compare(number)]);
  };

  // --- from a figure elsewhere to its run --------------------------------------------
  const same = (asked, found) => asked === undefined || asked === null || String(asked) === String(found);
  const go = ({ go: policy, workload: name, machine, fastRatio, seed, placement }) => {
    const candidates = data.groups
      .map((group, number) => ({ group, number }))
      .filter(({ group }) => group.policies.includes(policy) && same(name, group.workload) && same(machine, group.machine));
    if (!candidates.length) {
      note.textContent = `${policy}: no run of it was kept over time${name ? ` on ${name}` : ""}.`;
    } else {
      const far = ({ group }) =>
        (fastRatio === undefined ? 0 : 10 * Math.abs(group.fast_ratio - +fastRatio)) +
        !same(seed, group.seed) + !same(placement, group.placement);
      const now = candidates.find(({ number }) => number === +workload.value);
      const best = candidates.reduce((a, b) => (far(b) < far(a) ? b : a), now || candidates[0]);
      const exact = far(best) < 1e-6;
      note.textContent = exact ? "" : `That run was not kept over time; this is the nearest that was: ${best.group.name}.`;
      const right = picks.right.value === policy ? best.group.policies.find((other) => other !== policy) : picks.right.value;
      workload.value = best.number;
      change(policy, right === undefined || best.group.policies.includes(right) || right === NOTHING ? right : undefined);
    }
    byId("runs").scrollIntoView();
    picks.left.focus({ preventScroll: true });
  };
  addEventListener("isotherm-go", ({ detail }) => go(detail));
  addEventListener("isotherm-scheme", () => SIDES.forEach((side) => picks[side].value && shown[side] && drawMap(side)));

  data.groups.forEach((group, index) => workload.append(new Option(group.name, index)));
  const structure = data.groups.map((group) => group.structure);
  workload.value = structure.indexOf(Math.max(...structure));
  workload.addEventListener("change", () => {
    note.textContent = "";
    change();
  });
  for (const side of SIDES) picks[side].addEventListener("change", () => show(side));
  sortHeat.addEventListener("change", () => SIDES.forEach((side) => picks[side].value && shown[side] && drawMap(side)));
  change().then(rest);
})();
