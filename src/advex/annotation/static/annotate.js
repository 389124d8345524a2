// The page that asks. What is shown is decided here; what is kept is decided by the server (see outbox.js).
import { Outbox } from "./outbox.js";
import { Supply, load } from "./supply.js";
import { draw, fit } from "./view.js";

const at = (id) => document.getElementById(id);
const page = at("page").dataset;
const alone = page.alone === "yes";
const WORDS = { unchanged: "unchanged", unsure: "unsure", changed: "no longer the class" };
const REMEMBERED = 30;

const state = {
  current: null,
  began: 0,
  history: [], // { client, image }: what can be taken back
  answered: 0,
  left: 0,
  last: null, // of the server: the answer before this page was opened
  times: [],
  zoom: 0,
  original: !alone,
  difference: false,
};

const outbox = new Outbox({
  person: page.person,
  csrf: document.querySelector('meta[name="csrf"]').content,
  changed: showSaved,
  refused: (event, sentence) => trouble(`An answer was not kept: ${sentence}`),
});
const supply = new Supply({ waiting: () => outbox.events.map((event) => event.image), ready: arrived });

// -- answering --------------------------------------------------------------------------------------------------------

function answer(word) {
  if (state.current === null) return;
  const client = crypto.randomUUID?.() ?? unique();
  const image = state.current;
  const milliseconds = Math.round(performance.now() - state.began);
  outbox.add({ kind: "answer", client, image: image.key, answer: word, milliseconds });
  state.history.push({ client, image });
  if (state.history.length > REMEMBERED) release(state.history.shift().image);
  state.times.push(Date.now());
  supply.moves++;
  state.answered++;
  state.left = Math.max(0, state.left - 1);
  flash(word);
  at("trouble").textContent = "";
  show(supply.take() ?? null, `${WORDS[word]}. `);
}

function unique() {
  // Without HTTPS or loopback browsers offer no randomUUID.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function undo() {
  let taken = state.history.pop();
  if (taken === undefined && state.last !== null) {
    try {
      taken = { client: state.last.client, image: await load(state.last.image) };
    } catch {
      trouble("The last picture cannot be loaded now.");
      return;
    }
    state.last = null;
  }
  if (taken === undefined) return;
  outbox.add({ kind: "undo", client: crypto.randomUUID?.() ?? unique(), undoes: taken.client, image: taken.image.key });
  if (state.current !== null) supply.putBack(state.current);
  supply.known.add(taken.image.key);
  supply.moves++;
  state.answered = Math.max(0, state.answered - 1);
  state.left++;
  state.times.pop();
  show(taken.image, "Undone. ");
}

function release(image) {
  for (const each of [image.original, image.changed]) if (each) URL.revokeObjectURL(each.src);
  supply.forget(image.key);
}

// -- showing ----------------------------------------------------------------------------------------------------------

function arrived() {
  if (supply.progress) {
    ({ answered: state.answered, left: state.left } = supply.progress);
    if (state.history.length === 0) state.last = supply.progress.last;
    supply.progress = null;
  }
  if (state.current === null) show(supply.take() ?? null);
  else showProgress();
}

function show(image, heard = "") {
  state.current = image;
  at("question").hidden = image === null;
  at("message").hidden = image !== null;
  at("page").classList.toggle("idle", image === null);
  if (image === null) {
    message();
  } else {
    if (alone) state.original = false;
    at("label").textContent = image.label;
    at("changed").src = image.changed.src;
    if (image.original) at("original").src = image.original.src;
    else at("original").removeAttribute("src");
    lay();
    state.began = performance.now();
    at("heard").textContent = `${heard}Next: still ${image.label}?`;
  }
  showProgress();
}

function message() {
  let told = ["Loading", "The next pictures are on their way."];
  if (supply.problem === "out") told = ["Please open your personal link again", "Your answers are kept in this browser."];
  else if (supply.problem === "offline" || !navigator.onLine)
    told = ["No connection", "You have seen all pictures that were loaded. Your answers are kept; this page goes on by itself."];
  else if (supply.finished) told = ["All done", "Thank you. There is nothing left to judge; you may close this page."];
  const changed = at("told").textContent !== told[0];
  at("told").textContent = told[0];
  at("more").textContent = told[1];
  if (changed) at("heard").textContent = told.join(". ");
}

function lay() {
  const { current } = state;
  const shown = { original: state.original && current.original !== null, changed: true, difference: state.difference };
  for (const [name, there] of Object.entries(shown)) at(`${name}-tile`).hidden = !there;
  at("show-original").setAttribute("aria-pressed", String(state.original));
  at("show-difference").setAttribute("aria-pressed", String(state.difference));
  at("show-difference").disabled = current.original === null;
  if (state.difference && current.original !== null) at("gain").textContent = draw(at("difference"), current);
  at("scale").textContent = fit(at("tiles"), current.changed, state.zoom);
}

function showProgress() {
  const total = state.answered + state.left;
  at("bar").max = Math.max(1, total);
  at("bar").value = state.answered;
  at("count").textContent = `${state.answered.toLocaleString("en")} of ${total.toLocaleString("en")}${pace()}`;
  at("undo").disabled = state.history.length === 0 && state.last === null;
  for (const id of ["show-difference", "smaller", "larger", "show-original"]) at(id).disabled = state.current === null;
}

function pace() {
  const recent = state.times.slice(-21);
  if (recent.length < 3) return "";
  const minutes = (recent.at(-1) - recent[0]) / 60000;
  return ` · ${Math.round((recent.length - 1) / Math.max(minutes, 1e-3)).toLocaleString("en")} a minute`;
}

function showSaved(waiting, why) {
  const pill = at("saved");
  const some = `${waiting} answer${waiting === 1 ? "" : "s"} waiting`;
  const told = {
    offline: [`offline · ${some}`, "waiting"],
    trouble: [`server busy · ${some}`, "waiting"],
    out: [`signed out · ${some}`, "waiting"],
  }[why];
  // While all is well one answer is always on its way: nothing flickers for that.
  const [text, kind] = told ?? (waiting > 1 ? [`sending ${waiting}`, "busy"] : ["all kept", "good"]);
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${kind}`;
  if (why === "out") {
    trouble("Your session is over. Open your personal link again: the answers that wait are then sent.");
    supply.problem = "out";
  }
  if (waiting > 0) return;
  if (supply.stale) supply.count();
  if (state.current === null) supply.fill();
}

function trouble(sentence) {
  at("trouble").textContent = sentence;
}

function flash(word) {
  const button = document.querySelector(`[data-answer="${word}"]`);
  button.classList.remove("flash");
  void button.offsetWidth;
  button.classList.add("flash");
}

// -- hands ------------------------------------------------------------------------------------------------------------

const toggle = (name) => () => {
  if (state.current === null) return;
  state[name] = !state[name];
  lay();
};
const zoom = (by) => () => {
  if (state.current === null) return;
  state.zoom = Math.max(-20, Math.min(40, state.zoom + by));
  lay();
};

for (const button of document.querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => answer(button.dataset.answer));
}
const actions = {
  undo: undo,
  "show-original": toggle("original"),
  "show-difference": toggle("difference"),
  smaller: zoom(-1),
  larger: zoom(1),
};
for (const [id, act] of Object.entries(actions)) at(id).addEventListener("click", act);

// By what is printed on a key, or by where it is: digits and letters lie elsewhere on some keyboards.
const KEYS = {
  1: () => answer("unchanged"),
  2: () => answer("unsure"),
  3: () => answer("changed"),
  ArrowLeft: () => answer("unchanged"),
  ArrowDown: () => answer("unsure"),
  ArrowRight: () => answer("changed"),
  u: undo,
  d: actions["show-difference"],
  o: () => alone && actions["show-original"](),
  "+": actions.larger,
  "=": actions.larger,
  "-": actions.smaller,
};
const PLACES = { Digit1: 1, Digit2: 2, Digit3: 3, Numpad1: 1, Numpad2: 2, Numpad3: 3, KeyU: "u", KeyD: "d", KeyO: "o" };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // Arrows choose among the colours, and move a zoomed picture.
  const own = event.key.startsWith("Arrow") && event.target.closest?.("input, .frame[tabindex]");
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()] ?? KEYS[PLACES[event.code]];
  if (own || act === undefined) return;
  event.preventDefault();
  act();
});

new ResizeObserver(() => state.current !== null && lay()).observe(at("main"));
addEventListener("resize", () => state.current !== null && lay());
outbox.send();
supply.fill();
