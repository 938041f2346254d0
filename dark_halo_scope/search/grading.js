// Grading at keyboard speed. A key is drawn at once, kept in this browser until the server says that it is on disk, and sent again until it does.
"use strict";

const AHEAD = 24, LANES = 4, KEPT = 96;
const $ = (id) => document.getElementById(id);
const kept = (name, store) => { try { return store.getItem(name); } catch { return null; } };
const keep = (name, value, store) => { try { value === null ? store.removeItem(name) : store.setItem(name, value); } catch { /* the server's copy remains */ } };

let deck = null;                    // what the server said: cards, views, size, pixscale, grades, marks
let at = 0, shown = -1, since = 0;  // the candidate wanted, the one on the screen, and since when
let marks = [], trail = [];         // grade and comment of every candidate; what undo takes back, step by step
let last = "";                      // what was done last, for the eye
let view = 0, zoom = 1, middle = [0, 0], smooth = true;
let queue = [], sending = false, away = false, wait = 250, refused = "";
const ready = new Map(), loading = new Set();
let resting = false;
let lesson = -1;                    // the example on the screen, with its answer; -1 in the round

// ---- cards of the round stand first, examples behind them

const round = () => deck.cards.length;
const current = () => (lesson < 0 ? at : round() + lesson);
const keyOf = (i) => (i < round() ? deck.cards[i] : deck.examples[i - round()][0]);

// ---- pictures: those that come next are here before they are wanted

function nextUngraded(from) {
  for (let step = 1; step <= deck.cards.length; step++) {
    const i = (from + step) % deck.cards.length;
    if (marks[i].grade === null) return i;
  }
  return -1;
}

function wanted() {
  const list = new Set([current()]);
  for (let i = Math.max(lesson, 0); lesson >= 0 && i < deck.examples.length; i++) list.add(round() + i);
  list.add(at);
  for (let i = nextUngraded(at); i >= 0 && list.size <= AHEAD && !list.has(i); i = nextUngraded(i)) list.add(i);
  for (const step of [1, -1, -2, 2, -3]) list.add((at + step + deck.cards.length) % deck.cards.length);
  return list;
}

async function load(i) {
  loading.add(i);
  try {
    const answer = await fetch(`card/${keyOf(i)}.png`, { signal: AbortSignal.timeout(20000) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    ready.set(i, await createImageBitmap(await answer.blob()));
    if (i === current()) draw();
    if (nearby.has(i)) thumbnails();
  } catch {
    resting = true;
    setTimeout(() => { resting = false; pump(); }, 700);
  }
  loading.delete(i);
  pump();
}

function pump() {
  if (resting) return;
  const list = wanted();
  for (const [i, strip] of ready) if (ready.size > KEPT && !list.has(i)) { strip.close(); ready.delete(i); }
  for (const i of list) {
    if (loading.size >= LANES) break;
    if (!ready.has(i) && !loading.has(i)) load(i);
  }
}

// ---- drawing

function paint(canvas, which, around, card = current()) {
  const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), size = deck.size, span = size / (around ? zoom : 1);
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d", { alpha: false });
  pen.imageSmoothingEnabled = smooth;
  pen.imageSmoothingQuality = "high";
  const [x, y] = around ? middle.map((m) => (size - span) / 2 + m) : [0, 0];
  pen.drawImage(ready.get(card), which * size + x, y, span, span, 0, 0, side, side);
}

function draw() {
  const i = current(), there = ready.has(i), picture = $("picture");
  picture.setAttribute("aria-busy", String(!there));
  if (!there) return;
  paint(picture, view, true);
  deck.views.forEach((_, i) => paint($(`view-${i}`), i, false));
  if (shown !== i) since = performance.now();
  shown = i;
  picture.dataset.card = keyOf(i);
  picture.setAttribute("aria-label", `${lesson < 0 ? `Candidate ${at + 1} of ${round()}` : `Example ${lesson + 1} of ${deck.examples.length}`}, ${deck.views[view]}`);
  $("view-name").textContent = `${deck.views[view]}${zoom > 1 ? `, ${zoom}×` : ""}`;
  const bar = 5 / deck.pixscale / deck.size * zoom;
  $("scale").firstElementChild.textContent = bar > .6 ? "1″" : "5″";
  $("scale").lastElementChild.style.width = `${Math.round((bar > .6 ? bar / 5 : bar) * picture.clientWidth)}px`;
}

function words() {
  const done = marks.filter((m) => m.grade !== null).length, mine = lesson < 0 ? marks[at] : { grade: null, comment: "" };
  document.body.classList.toggle("lesson", lesson >= 0);
  $("lesson").hidden = lesson < 0;
  $("lesson-answer").textContent = lesson < 0 ? "" : deck.examples[lesson][1];
  $("lesson-on").firstChild.textContent = lesson + 1 < deck.examples.length ? "Next example " : "Start grading ";
  $("where").textContent = lesson < 0 ? `${at + 1} of ${deck.cards.length}` : `Example ${lesson + 1} of ${deck.examples.length}`;
  $("progress").value = done;
  $("progress").max = deck.cards.length;
  $("given").textContent = mine.grade === null ? "" : mine.grade;
  $("given").style.color = mine.grade === null ? "" : `var(--${mine.grade})`;
  document.title = `${done} of ${deck.cards.length} graded`;
  for (const button of $("grades").children) button.setAttribute("aria-pressed", String(button.dataset.grade === mine.grade));
  for (const [i, button] of [...$("views").children].entries()) button.setAttribute("aria-pressed", String(i === view));
  if (document.activeElement !== $("comment")) $("comment").value = mine.comment;
  $("note").dataset.tone = done === deck.cards.length ? "done" : "";
  $("note").textContent = done === deck.cards.length ? `All ${done} graded. Go back with ← and change what you like.` : `${last}${deck.cards.length - done} to go, ${deck.grader}`;
}

function status() {
  const n = queue.length, text = $("saved");
  text.dataset.state = refused || away ? "away" : n ? "busy" : "calm";
  text.textContent = refused ? refused : away ? `server away, ${n} kept here` : n ? `saving ${n}` : "all saved";
}

function say(text) { $("live").textContent = text; }

function panel() {
  const figure = $("model"), picture = figure.querySelector("img");
  if (!deck.models || lesson >= 0 || marks[at].grade === null) {
    figure.hidden = true;
    picture.removeAttribute("src");
    return;
  }
  picture.onload = () => { figure.hidden = marks[at].grade === null; };
  picture.onerror = () => { figure.hidden = true; };
  picture.src = `model/${deck.cards[at]}.png`;
}

function show(i) {
  at = i;
  forget();
  draw();
  words();
  panel();
  pump();
}

// ---- examples with their answers, before the round and whenever asked for

function teach(i) {
  lesson = i < deck.examples.length ? i : -1;
  show(at);
  say(lesson < 0 ? `Candidate ${at + 1} of ${round()}` : `Example ${lesson + 1} of ${deck.examples.length}. ${deck.examples[lesson][1]}`);
}

// ---- more like this: the cards that look most like this one to a network

let nearby = new Map();             // card -> its button in the row

function forget() {
  nearby = new Map();
  $("near").replaceChildren();
  $("near-note").textContent = "";
}

function thumbnails() {
  for (const [i, button] of nearby) if (ready.has(i)) paint(button.firstElementChild, 0, false, i);
}

async function near() {
  if (lesson >= 0) return;
  const of = at;
  forget();
  $("near-note").textContent = "looking for cards like this";
  try {
    const answer = await fetch(`near/${deck.cards[of]}`, { signal: AbortSignal.timeout(120000) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const found = await answer.json();
    if (of !== at || lesson >= 0) return;
    $("near-note").textContent = found.why || "most like this, to a network";
    for (const key of found.cards) {
      const i = deck.cards.indexOf(key), button = element("button", { type: "button", "aria-label": `Go to candidate ${i + 1}, ${marks[i].grade ?? "not graded"}` }, element("canvas", {}), ` ${marks[i].grade ?? "–"}`);
      button.onclick = () => show(i);
      $("near").append(button);
      nearby.set(i, button);
      if (!ready.has(i) && !loading.has(i)) load(i);
    }
    thumbnails();
    say(found.why || `${found.cards.length} cards like this`);
  } catch {
    if (of === at) $("near-note").textContent = "no answer: try again";
  }
}

// ---- marks: drawn at once, kept here until the server has them on disk

const place = `grades ${location.pathname} `;
const own = kept("tab", sessionStorage) ?? crypto.randomUUID();
keep("tab", own, sessionStorage);
const store = () => keep(place + own, queue.length ? JSON.stringify(queue) : null, localStorage);

function leftovers() {
  try {
    for (const name of Object.keys(localStorage).filter((name) => name.startsWith(place))) {
      queue.push(...JSON.parse(localStorage.getItem(name)));
      localStorage.removeItem(name);
    }
  } catch { /* nothing to take over */ }
  const known = new Set(deck.cards);
  queue = queue.filter((event) => known.has(event.card));
  store();
}

function apply(i, event) {
  if (event.undo) trail.pop();
  else trail.push([i, marks[i].grade, marks[i].comment]);
  marks[i] = { grade: event.grade, comment: event.comment };
}

function mark(i, grade, comment, undo = false) {
  const seconds = undo || shown !== i ? 0 : Math.min((performance.now() - since) / 1000, 3600);
  const event = { id: crypto.randomUUID(), card: deck.cards[i], grade, comment, seconds, undo };
  apply(i, event);
  queue.push(event);
  since = performance.now();
  store();
  status();
  send();
}

async function send() {
  if (sending || refused || !queue.length) return;
  sending = true;
  try {
    const marks = queue.slice(0, 50);
    const answer = await fetch("grades", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ marks }), signal: AbortSignal.timeout(20000) });
    if (answer.status === 400) { refused = `not saved: ${(await answer.json()).error}`; throw new Error(refused); }
    if (!answer.ok) throw new Error(`${answer.status}`);
    const saved = new Set((await answer.json()).saved);
    queue = queue.filter((event) => !saved.has(event.id));
    [away, wait] = [false, 250];
    store();
    if (!queue.length && $("model").hidden) panel();
    setTimeout(send);
  } catch {
    away = true;
    wait = Math.min(wait * 2, 4000);
    setTimeout(send, wait);
  }
  sending = false;
  status();
}

// ---- what the keys do

function give(grade) {
  if (shown !== current()) { say("The picture is still on its way"); return; }
  if (lesson >= 0) { teach(lesson + 1); return; }
  const was = at + 1;
  mark(at, grade, marks[at].comment);
  const next = nextUngraded(at);
  last = `Graded ${grade}. `;
  show(next >= 0 ? next : at);
  say(next >= 0 ? `${was} graded ${grade}. Candidate ${at + 1} of ${deck.cards.length}` : `${was} graded ${grade}. All are graded`);
}

function undo() {
  if (lesson >= 0) { teach(Math.max(lesson - 1, 0)); return; }
  const step = trail.at(-1);
  if (!step) { say("Nothing to undo"); return; }
  const [i, grade, comment] = step;
  mark(i, grade, comment, true);
  last = "Taken back. ";
  show(i);
  say(`Undone. Candidate ${i + 1} is ${grade === null ? "not graded" : grade}`);
}

function go(step) {
  if (lesson >= 0) { teach(Math.max(lesson + step, 0)); return; }
  show((at + step + deck.cards.length) % deck.cards.length);
  say(`Candidate ${at + 1} of ${deck.cards.length}, ${marks[at].grade === null ? "not graded" : marks[at].grade}`);
}

function skip() {
  if (lesson >= 0) { teach(lesson + 1); return; }
  const next = nextUngraded(at);
  if (next >= 0) show(next);
  say(next >= 0 ? `Candidate ${at + 1} of ${deck.cards.length}` : "All are graded");
}

function look(i) {
  if (i >= deck.views.length) return;
  view = i;
  draw();
  words();
  say(`View: ${deck.views[i]}`);
}

function move(x, y) {
  const room = deck.size * (1 - 1 / zoom) / 2;
  middle = [x, y].map((v) => Math.max(-room, Math.min(room, v)));
  draw();
}

function magnify(factor) {
  zoom = factor === 0 ? 1 : Math.max(1, Math.min(8, zoom * factor));
  move(...(zoom === 1 ? [0, 0] : middle));
  say(`${zoom} times`);
}

const help = () => ($("help").open ? $("help").close() : $("help").showModal());
const typing = () => { if (lesson < 0) { $("comment").focus(); $("comment").select(); } };
const start = () => { if (lesson >= 0) teach(deck.examples.length); };
const DOES = {
  undo, back: () => go(-1), on: () => go(1), skip, nearer: () => magnify(2), farther: () => magnify(.5), whole: () => magnify(0),
  smoothing: () => { smooth = !smooth; draw(); say(smooth ? "Smooth" : "Pixels"); }, comment: typing, help, near, start,
  examples: () => (deck.examples.length ? teach(0) : say("There are no examples")),
  left: () => move(middle[0] - 8 / zoom, middle[1]), right: () => move(middle[0] + 8 / zoom, middle[1]),
  up: () => move(middle[0], middle[1] - 8 / zoom), down: () => move(middle[0], middle[1] + 8 / zoom),
};
const KEYS = [
  ["undo", "take the last one back", "Backspace", "u"], ["on", "next candidate, without grading", "ArrowRight"], ["back", "previous candidate", "ArrowLeft"],
  ["skip", "next one that is not graded", " "], ["comment", "comment; Enter keeps it, Esc does not", "/", "m"],
  ["nearer", "zoom in (then Shift and arrows, or drag, to move)", "+", "="], ["farther", "zoom out", "-"], ["whole", "whole stamp", "0"],
  ["smoothing", "smooth, or pixel by pixel", "s"], ["near", "more like this: the cards most like it", "l"],
  ["examples", "examples with their answers", "e"], ["start", "out of the examples, into the round", "Escape"], ["help", "this list", "?", "h"],
];
const BY_KEY = new Map(KEYS.flatMap(([does, , ...keys]) => keys.map((key) => [key, DOES[does]])));
const SHIFTED = { ArrowLeft: DOES.left, ArrowRight: DOES.right, ArrowUp: DOES.up, ArrowDown: DOES.down };
const SPELT = { Backspace: "⌫", ArrowRight: "→", ArrowLeft: "←", " ": "Space", Escape: "Esc" };

function comment(event) {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  const text = $("comment").value.trim();
  if (lesson < 0 && event.key === "Enter" && text !== marks[at].comment) mark(at, marks[at].grade, text);
  $("comment").blur();
  words();
  say(event.key === "Enter" ? "Comment kept" : "Comment left as it was");
}

function pressed(event) {
  if (event.target === $("comment")) return comment(event);
  if (event.isComposing || event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
  if ($("help").open && event.key !== "?") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === " " && event.target.closest("button")) return;
  const grade = deck.grades.find(([name]) => name[0].toLowerCase() === key);
  const does = event.ctrlKey ? undo : event.shiftKey && SHIFTED[key] ? SHIFTED[key] : grade ? () => give(grade[0]) : /^[1-9]$/.test(key) ? () => look(key - 1) : BY_KEY.get(key);
  if (!does) return;
  event.preventDefault();
  if (!(event.repeat && (grade || does === undo))) does();  // a key held down grades one candidate, not ten
}

// ---- the page

function element(name, attributes, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function furnish() {
  deck.views.forEach((name, i) => {
    const button = element("button", { type: "button", "aria-pressed": "false", "aria-label": `View ${i + 1}: ${name}`, "aria-keyshortcuts": `${i + 1}` }, element("canvas", { id: `view-${i}` }), element("kbd", {}, `${i + 1}`), ` ${name}`);
    button.onclick = () => look(i);
    $("views").append(button);
  });
  for (const [name, meaning] of deck.grades) {
    const key = name[0].toUpperCase(), button = element("button", { type: "button", "data-grade": name, "aria-pressed": "false", "aria-keyshortcuts": key, "aria-label": `${name}: ${meaning}` }, element("strong", {}, name, ...(name.length > 1 ? [" ", element("kbd", {}, key)] : [])), element("small", {}, meaning));
    button.onclick = () => give(name);
    $("grades").append(button);
    $("keys").append(element("tr", {}, element("td", {}, element("kbd", {}, key)), element("td", {}, `${name}: ${meaning}`)));
  }
  $("keys").append(element("tr", {}, element("td", {}, element("kbd", {}, "1"), " to ", element("kbd", {}, `${deck.views.length}`)), element("td", {}, deck.views.join(", "))));
  for (const [, meaning, ...keys] of KEYS) {
    $("keys").append(element("tr", {}, element("td", {}, ...keys.flatMap((key, i) => [i ? " " : "", element("kbd", {}, SPELT[key] ?? key)])), element("td", {}, meaning)));
  }
  for (const button of document.querySelectorAll("[data-does]")) button.onclick = DOES[button.dataset.does];
  $("comment").maxLength = deck.longest;
  $("help-button").onclick = $("help-close").onclick = help;
  $("picture").onpointermove = (event) => {
    const unit = deck.size / zoom / $("picture").clientWidth;
    if (event.buttons & 1) move(middle[0] - event.movementX * unit, middle[1] - event.movementY * unit);
  };
  $("picture").onwheel = (event) => magnify(event.deltaY < 0 ? 2 : .5);
  addEventListener("keydown", pressed);
  addEventListener("resize", () => { draw(); thumbnails(); });
  document.querySelector("[data-does=examples]").hidden = !deck.examples.length;
  addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
}

async function open() {
  const answer = await fetch("state");
  if (!answer.ok) throw new Error(`${answer.status}`);
  deck = await answer.json();
  const index = new Map(deck.cards.map((card, i) => [card, i]));
  marks = deck.cards.map((card) => ({ grade: deck.marks[card]?.[0] ?? null, comment: deck.marks[card]?.[1] ?? "" }));
  trail = deck.trail.map(([card, grade, text]) => [index.get(card), grade, text]);
  leftovers();
  for (const event of queue) apply(index.get(event.card), event);
  furnish();
  at = nextUngraded(deck.cards.length - 1);
  at = Math.max(at, 0);
  if (deck.examples.length && marks.every((m) => m.grade === null)) teach(0);
  else show(at);
  status();
  send();
}

open().catch(() => { $("saved").dataset.state = "away"; $("saved").textContent = "the server does not answer: reload"; });
