// The page: listens to views, draws them, asks why.
"use strict";

import {
  bytes, clock, drawMap, drawShare, drawTiers, element, fillTable, hex, nanoseconds,
  percent, rate, tierWords,
} from "./draw.js";

const ROWS = 50;      // of the ranges, at once
const OWNERS = 100;   // of a table that may be long
const by = (id) => document.getElementById(id);
const secrets = new URLSearchParams(location.hash.slice(1));
const token = secrets.get("token");
const key = secrets.get("key");
const shown = { view: null, first: 0, some: null, cursor: null, winding: false };

// -- listening ---------------------------------------------------------------

function say(state, words) {
  document.documentElement.dataset.state = state;
  if (by("state").textContent !== words) by("state").textContent = words;
}

const events = new EventSource(key ? `api/events?key=${encodeURIComponent(key)}` : "api/events");
events.addEventListener("view", (event) => {
  const { view, played } = JSON.parse(event.data);
  shown.view = view;
  say("live", view.live ? "live" : played.paused ? "a recording, held" : "a recording");
  drawAll(view, played);
  document.documentElement.dataset.drawn = String(1 + Number(document.documentElement.dataset.drawn ?? 0));
});
events.addEventListener("gone", (event) => {
  const told = JSON.parse(event.data);
  say("gone", `${told.message}; this is the last that was seen`);
});
events.addEventListener("error", () => {
  if (events.readyState === EventSource.CLOSED) {  // an answer, and no event
    ask("api/view?ranges=0").then(({ error }) => say("gone", error ? wrong(error).textContent : "refused"));
    return;
  }
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
  if (elsewhere()) fetchRanges();
  drawOwners(view);
  drawTenants(view);
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
  const hottest = `cold to ${rate(most)} accesses per page and second`;
  if (by("heat-scale").textContent !== hottest) by("heat-scale").textContent = hottest;
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

// The hottest ranges come with every view; others are asked for by their place.
const elsewhere = () => by("order").value !== "heat" || shown.first > 0;
const asking = { busy: false, again: false };

async function fetchRanges() {
  if (asking.busy) {
    asking.again = true;
    return;
  }
  asking.busy = true;
  do {
    asking.again = false;
    const order = by("order").value, first = shown.first;
    const found = await ask(`api/ranges?order=${order}&first=${first}&count=${ROWS}`);
    if (!found.error) shown.some = { ...found, order, first };
  } while (asking.again);
  asking.busy = false;
  drawRanges();
}

function chooseRanges() {
  if (elsewhere()) fetchRanges();
  else drawRanges();
}

function drawRanges() {
  const order = by("order").value, view = shown.view;
  let some = { ranges: view.ranges, nr_ranges: view.nr_ranges, order: "heat", first: 0 };
  some.owners = view.owners.map((one) => one.name);
  some.pids = view.owners.map((one) => one.pid);
  if (elsewhere()) {
    if (shown.some?.order !== order || shown.some.first !== shown.first) return;
    some = shown.some;
  }
  const all = some.nr_ranges;
  if (shown.first && shown.first >= all) { // there are fewer by now
    shown.first = Math.max(0, ROWS * Math.floor((all - 1) / ROWS));
    chooseRanges();
    return;
  }
  by("rows").textContent = all
    ? `${shown.first + 1} to ${shown.first + some.ranges.length} of ${all}` : "none yet";
  by("before").disabled = shown.first === 0;
  by("after").disabled = shown.first + ROWS >= all;
  fillTable(by("ranges").tBodies[0], some.ranges.map((range) => [
    some.owners[range.owner] ?? "gone", hex(range.start), bytes(range.end - range.start),
    rate(range.rate), percent(range.fast_share),
    whyButton(some.owners[range.owner], some.pids[range.owner], range.start, range.end),
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
  const size = (one) => one.tier_bytes.reduce((sum, part) => sum + part, 0);
  const owners = view.owners.length > OWNERS
    ? [...view.owners].sort((a, b) => size(b) - size(a)).slice(0, OWNERS) : view.owners;
  fillTable(by("owners").tBodies[0], owners.map((one) => [
    one.name, rate(one.rate), ...one.tier_bytes.map(bytes),
  ]));
  const more = view.owners.length - owners.length;
  by("owners-more").textContent = more ? `and ${more} smaller ones` : "";
}

function drawTenants(view) {
  by("tenants-part").hidden = view.tenants.length === 0;
  const pools = { common: "all", owed: "its guarantee", capped: "its maximum" };
  fillTable(by("tenants").tBodies[0], view.tenants.map((one) => [
    one.name, one.profile || "–", bytes(one.fast_bytes), bytes(one.bytes),
    bytes(one.guarantee_bytes), bytes(one.lent_bytes), bytes(one.borrowed_bytes),
    percent(one.fast_share), one.slowdown === null ? "–" : one.slowdown.toFixed(2),
    nanoseconds(one.price_ns), pools[one.pool] ?? "–", bytes(one.charged_bytes),
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
      whyButton(...whose(move.owner), move.start, move.start + 4096 * move.nr_pages),
    ];
  }));
}

// -- why ---------------------------------------------------------------------

const whose = (at) => at === null ? [null, null] : [owner(at), shown.view.owners[at]?.pid];

function whyButton(name, pid, start, end) {
  return (cell) => {
    let button = cell.firstChild;
    if (!button) {
      button = element("button", { type: "button" }, "why");
      button.addEventListener("click", () => explain(JSON.parse(button.dataset.range)));
      cell.append(button);
    }
    button.disabled = name === null;
    button.setAttribute("aria-label", `why ${hex(start)}`);
    button.dataset.range = JSON.stringify({ name, pid, start, end });
  };
}

async function explain({ name, pid, start, end }) {
  by("why-title").textContent = `${name} ${hex(start)}–${hex(end)}`;
  by("why-words").replaceChildren(element("p", {}, "asking …"));
  if (!by("why").open) by("why").showModal();
  const found = await ask(`api/explain?pid=${pid ?? 0}&start=${start}&end=${end}`);
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
    const headers = key ? { ...options.headers, "x-isotherm-key": key } : options.headers;
    const answer = await fetch(address, { ...options, headers });
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
  const steps = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    PageUp: [-10, 0], PageDown: [10, 0], Home: [0, -1e9], End: [0, 1e9],
  };
  if (event.key in steps) {
    const [down, right] = steps[event.key];
    at.row = Math.max(0, Math.min(at.row + down, heat.rate.length - 1));
    at.column = Math.max(0, Math.min(at.column + right, heat.time_s.length - 1));
  } else if (event.key === "Enter") {
    const [name, pid] = whose(heat.owner[at.row]);
    explain({ name, pid, start: heat.start[at.row], end: heat.end[at.row] });
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

by("order").addEventListener("change", () => { shown.first = 0; chooseRanges(); });
by("before").addEventListener("click", () => { shown.first -= ROWS; chooseRanges(); });
by("after").addEventListener("click", () => { shown.first += ROWS; chooseRanges(); });

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
