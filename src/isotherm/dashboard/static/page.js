// The page: listens to views, draws them, asks why.
"use strict";

import {
  bytes, clock, drawMap, drawShare, drawTiers, element, fillTable, hex, nanoseconds,
  percent, rate, tierWords,
} from "./draw.js";

const ROWS = 50;
const by = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const shown = { view: null, first: 0, cursor: null, winding: false };

// -- listening ---------------------------------------------------------------

function say(state, words) {
  document.documentElement.dataset.state = state;
  if (by("state").textContent !== words) by("state").textContent = words;
}

const events = new EventSource("api/events");
events.addEventListener("view", (event) => {
  const { view, played } = JSON.parse(event.data);
  shown.view = view;
  say("live", view.live ? "live" : played.paused ? "a recording, held" : "a recording");
  drawAll(view, played);
});
events.addEventListener("gone", (event) => {
  const told = JSON.parse(event.data);
  say("gone", `${told.message}; this is the last that was seen`);
});
events.addEventListener("error", () => {
  say("lost", "connection lost, trying again; this is the last that was seen");
});

// -- drawing -----------------------------------------------------------------

function drawAll(view, played) {
  const dry = view.dry_run ? " · dry run" : "";
  const end = view.end_s === null ? "" : ` of ${clock(view.end_s)}`;
  by("title").textContent = `${view.title} · ${view.policy}${dry} · ${clock(view.time_s)}${end}`;
  document.title = `${percent(view.fast_share)} fast · ${view.title} · isotherm`;
  drawFigures(view);
  drawTiers(by("picture"), view);
  by("tiers-words").textContent = tierWords(view);
  drawShare(by("share"), view.moments);
  by("share-words").textContent = `Now ${percent(view.fast_share)}, estimated.`;
  drawHeat();
  drawRanges();
  drawOwners(view);
  drawMoves(view);
  drawWind(view, played);
}

function drawFigures(view) {
  const figures = {
    "fast share": percent(view.fast_share),
    [view.dry_run ? "would move up" : "moved up"]: bytes(4096 * view.promoted_pages),
    [view.dry_run ? "would move down" : "moved down"]: bytes(4096 * view.demoted_pages),
    "tries that failed": String(view.failed_pages),
    "price of a place": view.prices_ns.map(nanoseconds).join(", ") || "–",
    "gain realised": nanoseconds(view.realised_ns),
    "gain promised": nanoseconds(view.promised_ns),
    "brake lets through": percent(view.brake_share),
    "decides every": `${view.epoch_s.toFixed(1)} s`,
  };
  if (view.cpu_share !== null) {
    figures["CPU of a core"] = `${(100 * view.cpu_share).toFixed(1)} of ${(100 * view.cpu_budget).toFixed(1)} %`;
  }
  for (const [source, count] of Object.entries(view.hints)) figures[source] = `${rate(count)} looks`;
  const list = by("figures");
  const same = Object.keys(figures).join() === list.dataset.names;
  if (!same) {
    list.replaceChildren(...Object.keys(figures).map((name) => {
      const pair = element("div");
      pair.append(element("dt", {}, name), element("dd"));
      return pair;
    }));
    list.dataset.names = Object.keys(figures).join();
  }
  Object.values(figures).forEach((value, at) => {
    list.children[at].lastChild.textContent = value;
  });
}

function drawHeat() {
  const heat = shown.view?.heat;
  if (!heat) return;
  const rows = heat.rate.length, columns = heat.time_s.length;
  if (shown.cursor) {
    shown.cursor.row = Math.min(shown.cursor.row, rows - 1);
    shown.cursor.column = Math.min(shown.cursor.column, columns - 1);
  }
  let most = 0;
  for (const row of heat.rate) for (const value of row) most = Math.max(most, value ?? 0);
  const scale = Math.log1p(most) || 1;
  drawMap(by("heat"), heat.rate, (value) => Math.log1p(value) / scale, shown.cursor);
  drawMap(by("placed"), heat.fast_share, (value) => value, shown.cursor);
  const at = shown.cursor;
  let words = `${rows} ranges, ${columns} stretches of time; hottest ${rate(most)} accesses per page and second`;
  if (at) {
    const from = at.column ? heat.time_s[at.column - 1] : 0;
    words = `${owner(heat.owner[at.row])} ${hex(heat.start[at.row])}–${hex(heat.end[at.row])}, ` +
      `${clock(from)} to ${clock(heat.time_s[at.column])}: ${rate(heat.rate[at.row][at.column])} ` +
      `accesses per page and second, ${percent(heat.fast_share[at.row][at.column])} in the fastest tier`;
  }
  if (by("cell").textContent !== words) by("cell").textContent = words;
}

function owner(at) {
  return at === null ? "gone" : shown.view.owners[at]?.name ?? "";
}

function drawRanges() {
  const order = by("order").value;
  const ranges = [...shown.view.ranges];
  if (order === "size") ranges.sort((a, b) => b.nr_pages - a.nr_pages);
  if (order === "address") ranges.sort((a, b) => a.owner - b.owner || a.start - b.start);
  shown.first = Math.max(0, Math.min(shown.first, ranges.length - 1));
  const some = ranges.slice(shown.first, shown.first + ROWS);
  by("rows").textContent = ranges.length
    ? `${shown.first + 1} to ${shown.first + some.length} of ${ranges.length}` : "none yet";
  by("before").disabled = shown.first === 0;
  by("after").disabled = shown.first + ROWS >= ranges.length;
  fillTable(by("ranges").tBodies[0], some.map((range) => [
    owner(range.owner), hex(range.start), bytes(range.end - range.start),
    rate(range.rate), percent(range.fast_share),
    whyButton(range.owner, range.start, range.end),
  ]));
}

function drawOwners(view) {
  const head = by("owners").tHead;
  const names = ["whose", "accesses/s", ...view.tiers.map((tier, at) => `tier ${at}, ${tier.name}`)];
  if (head.dataset.names !== names.join()) {
    const row = element("tr");
    row.append(...names.map((name) => element("th", { scope: "col" }, name)));
    head.replaceChildren(row);
    head.dataset.names = names.join();
  }
  fillTable(by("owners").tBodies[0], view.owners.map((one) => [
    one.name, rate(one.rate), ...one.tier_bytes.map(bytes),
  ]));
}

function drawMoves(view) {
  const tier = new Map(view.tiers.flatMap((one, at) => one.nodes.map((node) => [node, at])));
  fillTable(by("moves").tBodies[0], [...view.moves].reverse().map((move) => {
    const up = (tier.get(move.dst) ?? 255) < (tier.get(move.src) ?? 255);
    return [
      move.time_s.toFixed(1), move.errno ? `failed (${move.errno})` : up ? "up ↑" : "down ↓",
      bytes(4096 * move.nr_pages), `${move.src} → ${move.dst}`, move.reason,
      nanoseconds(move.gain_ns), hex(move.start),
      whyButton(move.owner, move.start, move.start + 4096 * move.nr_pages),
    ];
  }));
}

// -- why ---------------------------------------------------------------------

function whyButton(at, start, end) {
  return (cell) => {
    let button = cell.firstChild;
    if (!button) {
      button = element("button", { type: "button" }, "why");
      button.addEventListener("click", () => explain(JSON.parse(button.dataset.range)));
      cell.append(button);
    }
    button.disabled = at === null;
    button.setAttribute("aria-label", `why ${hex(start)}`);
    button.dataset.range = JSON.stringify({ at, start, end });
  };
}

async function explain({ at, start, end }) {
  const pid = shown.view.owners[at]?.pid ?? 0;
  by("why-title").textContent = `${owner(at)} ${hex(start)}–${hex(end)}`;
  by("why-words").replaceChildren(element("p", {}, "asking …"));
  if (!by("why").open) by("why").showModal();
  const found = await ask(`api/explain?pid=${pid}&start=${start}&end=${end}`);
  by("why-words").replaceChildren(...(found.error ? [wrong(found.error)] : whyWords(found)));
}

function whyWords(found) {
  const parts = found.why.map((group) => {
    const part = element("p");
    part.append(element("strong", {}, `${group.nr_pages} pages ${group.what}: `), group.words);
    return part;
  });
  const moves = found.moves.slice(-8).map((move) => element("li", {},
    `${move.time_s.toFixed(1)} s: page ${hex(move.page)}, node ${move.src} → ${move.dst}, ` +
    `${move.reason}, promised ${nanoseconds(move.gain_ns)}, earned ${nanoseconds(move.earned_ns)}`));
  if (moves.length) {
    const list = element("ul");
    list.append(...moves);
    parts.push(element("h3", {}, "Its latest moves"), list);
  }
  return parts;
}

function wrong(error) {
  return element("p", { role: "alert" }, error.hint ? `${error.message} (${error.hint})` : error.message);
}

async function ask(address, options = {}) {
  try {
    const answer = await fetch(address, options);
    return await answer.json();
  } catch (error) {
    return { error: { message: `no answer: ${error.message}`, hint: null } };
  }
}

// -- keys and controls -------------------------------------------------------

by("heat").addEventListener("keydown", (event) => {
  const heat = shown.view?.heat;
  if (!heat) return;
  const at = shown.cursor ??= { row: 0, column: heat.time_s.length - 1 };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (event.key in steps) {
    const [down, right] = steps[event.key];
    at.row = Math.max(0, Math.min(at.row + down, heat.rate.length - 1));
    at.column = Math.max(0, Math.min(at.column + right, heat.time_s.length - 1));
  } else if (event.key === "Enter") {
    explain({ at: heat.owner[at.row], start: heat.start[at.row], end: heat.end[at.row] });
  } else {
    return;
  }
  event.preventDefault();
  drawHeat();
});

for (const id of ["heat", "placed"]) {
  by(id).addEventListener("click", (event) => {
    const heat = shown.view?.heat;
    if (!heat) return;
    const place = by(id).getBoundingClientRect();
    shown.cursor = {
      row: Math.floor(heat.rate.length * (event.clientY - place.top) / place.height),
      column: Math.floor(heat.time_s.length * (event.clientX - place.left) / place.width),
    };
    drawHeat();
  });
}

by("order").addEventListener("change", () => { shown.first = 0; drawRanges(); });
by("before").addEventListener("click", () => { shown.first -= ROWS; drawRanges(); });
by("after").addEventListener("click", () => { shown.first += ROWS; drawRanges(); });

function drawWind(view, played) {
  by("wind").hidden = view.live;
  if (view.live || shown.winding) return;
  by("pause").textContent = played.paused ? "Go on" : "Hold";
  by("time").max = view.end_s;
  by("time").value = view.time_s;
  const speed = String(played.speed);
  if (![...by("speed").options].some((option) => option.value === speed)) {
    by("speed").append(element("option", { value: speed }, `${speed}×`));
  }
  if (document.activeElement !== by("speed")) by("speed").value = speed;
}

const wind = (wanted) => ask("api/wind", { method: "POST", body: JSON.stringify(wanted) });
by("pause").addEventListener("click", () => wind({ paused: by("pause").textContent === "Hold" }));
by("time").addEventListener("input", () => { shown.winding = true; });
by("time").addEventListener("change", async () => {
  await wind({ time_s: Number(by("time").value) });
  shown.winding = false;
});
by("speed").addEventListener("change", () => wind({ speed: Number(by("speed").value) }));

if (token) {
  by("whatif").disabled = false;
  by("whatif-said").textContent = "";
}
by("whatif").addEventListener("click", async () => {
  by("whatif").disabled = true;
  by("whatif-said").textContent = "comparing …";
  const found = await ask("api/whatif", {
    method: "POST", headers: { authorization: `Bearer ${token}` },
  });
  by("whatif").disabled = false;
  if (found.error) {
    by("whatif-said").textContent = found.error.message;
    return;
  }
  by("whatif-said").textContent =
    `slowdown against fast memory only, on ${clock(found.seconds)} of ${found.ranges} ranges`;
  drawAnswers(found.results);
});

function drawAnswers(results) {
  const ratios = [...new Set(results.map((one) => one.fast_ratio))];
  const policies = [...new Set(results.map((one) => one.policy))];
  const row = element("tr");
  row.append(element("th", { scope: "col" }, "policy"), ...ratios.map((ratio) =>
    element("th", { scope: "col" }, `${percent(ratio)} fast`)));
  by("answers").tHead.replaceChildren(row);
  fillTable(by("answers").tBodies[0], policies.map((policy) => [
    policy, ...ratios.map((ratio) => {
      const one = results.find((each) => each.policy === policy && each.fast_ratio === ratio);
      return one ? one.slowdown.toFixed(3) : "–";
    }),
  ]));
  by("answers").hidden = false;
}
