// The page: asks the API, follows the stream, shows. Texts from containers go through textContent
// alone; nothing is ever parsed as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const store = sessionStorage;
const PAGE = 100;
const SECONDS = 120;
const KINDS = { "container.started": "start", "container.exited": "exit", "container.oom": "oom" };
const nodes = new Map();
let cursor = null;
let next = null;
let stale = false;
const bars = Array.from({ length: SECONDS }, () => ({ start: 0, exit: 0, oom: 0 }));
let second = Math.floor(Date.now() / 1000);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

async function ask(path, options = {}) {
  const token = store.getItem("token");
  const headers = { ...(options.headers ?? {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 401) {
    $("login").hidden = false;
    $("wrong").textContent = token ? "This token may not read." : "";
    throw new Error("a token is needed");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Error(body.error ?? `status ${answer.status}`);
  }
  $("login").hidden = true;
  return answer;
}

const json = async (path) => (await ask(path)).json();

function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function cell(row, title, content, className = "") {
  const made = element("td", typeof content === "string" ? content : undefined, { "data-title": title });
  if (typeof content !== "string") made.append(content);
  if (className) made.className = className;
  row.append(made);
  return made;
}

function clock(node) {
  if (!node.clock) return ["unknown", "soft"];
  if (!node.clock.synchronized) return ["not synchronised", "warn"];
  const error = node.clock.max_error_us / 1000;
  return [`± ${error < 10 ? error.toFixed(1) : Math.round(error)} ms`, ""];
}

function losses(node) {
  const parts = [];
  if (node.losses?.ring) parts.push(`${node.losses.ring} in the kernel`);
  if (node.losses?.spool) parts.push(`${node.losses.spool} in the spool`);
  if (node.stream?.unexplained) parts.push(`${node.stream.unexplained} unexplained`);
  return parts.length ? [parts.join(", "), "bad"] : ["none", "soft"];
}

function showNodes() {
  const body = $("nodes").tBodies[0];
  const rows = [];
  const names = [];
  let containers = 0;
  let away = 0;
  for (const node of nodes.values()) {
    const row = element("tr");
    cell(row, "Node", node.name);
    cell(row, "State", node.state ?? "unknown", "state").dataset.state = node.state ?? "";
    cell(row, "Containers", `${node.running} of ${node.containers} run`, "number");
    cell(row, "Heard", ago(node.last_seen), "when");
    cell(row, "Clock", ...clock(node));
    cell(row, "Losses", ...losses(node));
    rows.push(row);
    names.push(element("option", undefined, { value: node.name }));
    containers += node.containers;
    if (node.state === "unreachable") away += 1;
  }
  body.replaceChildren(...rows);
  $("node-names").replaceChildren(...names);
  $("no-nodes").hidden = rows.length > 0;
  const lost = away ? `, ${away} unreachable` : "";
  $("sum").textContent = `${nodes.size} nodes${lost} · ${containers} containers`;
}

async function loadNodes() {
  const found = new Map();
  let after = "";
  for (let page = 0; page < 10; page += 1) {
    const answer = await json(`/v1/nodes?limit=1000${after}`);
    for (const node of answer.nodes) found.set(node.name, node);
    if (!answer.next) break;
    after = `&cursor=${encodeURIComponent(answer.next)}`;
  }
  nodes.clear();
  for (const [name, node] of found) nodes.set(name, node);
  showNodes();
}

function query() {
  const wanted = new URLSearchParams({ limit: PAGE });
  for (const [name, id] of [["q", "q"], ["state", "state"], ["node", "node"], ["runtime", "runtime"]]) {
    const value = $(id).value.trim();
    if (value) wanted.set(name, value);
  }
  return wanted;
}

function containerRow(one) {
  const { container } = one.record;
  const row = element("tr");
  const open = element("button", container.name ?? container.id.slice(0, 12), { type: "button", title: container.id });
  open.addEventListener("click", () => showDetail(one));
  cell(row, "Name", open);
  cell(row, "State", one.state, "state").dataset.state = one.state;
  cell(row, "Image", container.image?.name ?? "–");
  cell(row, "Node", one.node);
  cell(row, "Runtime", container.runtime?.name ?? "–");
  cell(row, "Since", ago(one.record.time), "when");
  return row;
}

async function loadContainers(more) {
  const wanted = query();
  if (more && next) wanted.set("cursor", next);
  const answer = await json(`/v1/containers?${wanted}`);
  const body = $("rows").tBodies[0];
  const focused = document.activeElement?.closest?.("#rows") ? document.activeElement.title : null;
  const rows = answer.containers.map(containerRow);
  if (more) body.append(...rows);
  else body.replaceChildren(...rows);
  if (focused) [...body.querySelectorAll("button")].find((button) => button.title === focused)?.focus();
  next = answer.next ?? null;
  $("more").hidden = next === null;
  $("no-rows").hidden = body.rows.length > 0;
}

let shown = null;

function fill(one) {
  $("detail-title").textContent = one.record.container.name ?? one.record.container.id;
  $("detail-record").textContent = JSON.stringify(one.record, null, 2);
  const live = one.live;
  let text = `${one.state} on ${one.node}`;
  if (one.node_state === "unreachable") text += ", which is unreachable";
  if (live) {
    if (!live.answered) text += " · the node does not answer";
    else if (live.stale) text += ` · the node does not answer now; it said so ${Math.round(live.age_ms / 1000)} s ago`;
    else text += " · the node says so";
  }
  $("detail-live").textContent = text;
}

function showDetail(one) {
  shown = one;
  fill(one);
  $("detail").showModal();
}

function mark(kind) {
  move();
  bars[SECONDS - 1][kind] += 1;
}

function move() {
  const now = Math.floor(Date.now() / 1000);
  for (let step = Math.min(now - second, SECONDS); step > 0; step -= 1) {
    bars.shift();
    bars.push({ start: 0, exit: 0, oom: 0 });
  }
  second = now;
}

function drawBars() {
  move();
  const most = Math.max(4, ...bars.map((bar) => bar.start + bar.exit + bar.oom));
  const columns = bars.map((bar) => {
    const column = element("i");
    for (const kind of ["start", "exit", "oom"]) {
      if (!bar[kind]) continue;
      const piece = element("b", undefined, { "data-kind": kind });
      piece.style.height = `${(100 * bar[kind]) / most}%`;
      column.append(piece);
    }
    return column;
  });
  $("bars").replaceChildren(...columns);
  const sum = (kind) => bars.reduce((all, bar) => all + bar[kind], 0);
  $("bars").setAttribute("aria-label", `Last two minutes: ${sum("start")} starts, ${sum("exit")} exits, ${sum("oom")} OOM kills`);
}

function told(data) {
  const { node, record } = data;
  cursor = data.cursor;
  const kind = KINDS[record.type];
  if (kind) mark(kind);
  if (record.container) stale = true;
  if (!kind && !record.type.startsWith("node.")) return;
  const line = element("li");
  if (kind) line.dataset.kind = kind;
  if (record.type === "node.unreachable" || record.type === "node.gap") line.dataset.kind = "oom";
  line.append(element("time", record.time.slice(11, 23), { datetime: record.time }));
  line.append(element("span", record.type.replace("container.", ""), { class: "type" }));
  let what = record.container ? `${record.container.name ?? record.container.id.slice(0, 12)} on ${node}` : node;
  if (record.process?.exit) what += ` · ${record.process.exit.signal ?? `code ${record.process.exit.code}`}`;
  line.append(element("span", what));
  const list = $("timeline");
  list.prepend(line);
  while (list.children.length > 200) list.lastChild.remove();
}

function link(state, text) {
  $("link").dataset.state = state;
  $("link").textContent = text;
}

// EventSource cannot send a token: the stream is read by hand.
async function follow() {
  let wait = 500;
  for (;;) {
    try {
      const since = cursor ?? "2m";
      const answer = await ask(`/v1/events?since=${encodeURIComponent(since)}`);
      link("live", "live");
      wait = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const lines = block.split("\n");
          const event = lines.find((line) => line.startsWith("event: "))?.slice(7);
          const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
          if (event === "gap") { stale = true; cursor = null; }
          else if (data) told(JSON.parse(data));
        }
      }
    } catch (error) {
      link("lost", error.message === "a token is needed" ? "a token is needed" : "no connection: trying again");
    }
    link("lost", $("link").textContent === "live" ? "no connection: trying again" : $("link").textContent);
    await new Promise((wake) => setTimeout(wake, wait));
    wait = Math.min(wait * 2, 10000);
  }
}

const quietly = (work) => work.catch((error) => console.debug(error.message));
let typing = 0;
$("filters").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => quietly(loadContainers(false)), 200);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => quietly(loadContainers(true)));
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  store.setItem("token", $("token").value.trim());
  quietly(loadNodes().then(() => loadContainers(false)));
});
$("detail-ask").addEventListener("click", async () => {
  const id = encodeURIComponent(shown.record.container.instance);
  const node = encodeURIComponent(shown.node);
  try {
    shown = await json(`/v1/containers/${id}?node=${node}&fresh=1`);
    fill(shown);
  } catch (error) {
    $("detail-live").textContent = error.message;
  }
});
document.addEventListener("keydown", (event) => {
  const typed = event.target.closest("input, select, textarea, dialog");
  if (event.key === "/" && !typed) {
    event.preventDefault();
    $("q").focus();
  }
});

quietly(loadNodes());
quietly(loadContainers(false));
follow();
drawBars();
setInterval(() => {
  drawBars();
  const few = $("rows").tBodies[0].rows.length <= PAGE;
  if (stale && few) { stale = false; quietly(loadContainers(false)); }
}, 1000);
setInterval(() => quietly(loadNodes()), 3000);
