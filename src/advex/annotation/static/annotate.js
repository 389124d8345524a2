// The page that asks. What is shown is decided here; what is kept is decided by the server (see outbox.js).
import { listen } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { Shelf } from "./shelf.js";
import { Supply } from "./supply.js";
import { draw, fit } from "./view.js";

const at = (id) => document.getElementById(id);
const page = at("page").dataset;
const csrf = document.querySelector('meta[name="csrf"]').content;
const alone = page.alone === "yes";
const WORDS = { unchanged: "Yes", unsure: "Not sure", changed: "No" };
const PICTURES = { original: "Original picture", changed: "Changed picture" };
const REMEMBERED = 30;
const LONGEST = 2 ** 31 - 1; // milliseconds that the server takes
const LONG = 40; // characters of a class's name
const HERE = "advex-here"; // who uses this browser now
const PROGRESS = `advex-progress-${page.person}`;
const PRACTISED = `advex-practised-${page.person}`;

const state = {
  current: null,
  began: 0,
  history: [], // { client, image }: what can be taken back; the first may be of before this page was opened
  answered: 0,
  left: 0,
  zoom: 0,
  original: !alone,
  difference: false,
  practising: false,
  ...JSON.parse(localStorage.getItem(PROGRESS)), // until the server says more
};

const pace = new Pace();
const shelf = new Shelf(page.person);
const outbox = new Outbox({
  person: page.person,
  csrf,
  changed: showSaved,
  kept: settled,
  refused: (event, sentence) => {
    supply.stale = true;
    trouble(`An answer was not saved: ${sentence}`);
  },
  elsewhere: followed,
});
const supply = new Supply({ outbox, shelf, ready: arrived, counts: counted });

// -- answering --------------------------------------------------------------------------------------------------------

function answer(word) {
  if (state.current === null || at("instructions")?.open) return;
  if (state.practising) {
    practised(word);
    return;
  }
  const image = state.current;
  const milliseconds = Math.min(LONGEST, Math.round(performance.now() - state.began));
  const client = given({ kind: "answer", image: image.key, answer: word, milliseconds });
  if (client === null) return;
  state.history.push({ client, image });
  if (state.history.length > REMEMBERED) release(state.history.shift().image);
  pace.add(milliseconds);
  move(1);
  flash(word);
  at("trouble").textContent = "";
  show(supply.take(), `${WORDS[word]}. Next`);
}

// Returns the client id of what waits now in the browser, or null where it keeps nothing.
function given(event) {
  const client = crypto.randomUUID?.() ?? unique();
  try {
    outbox.add({ ...event, client });
    return client;
  } catch {
    trouble("This browser cannot store answers (its storage is full or disabled): the answer was not accepted.");
    return null;
  }
}

function move(by) {
  supply.moves++;
  state.answered = Math.max(0, state.answered + by);
  state.left = Math.max(0, state.left - by);
}

function unique() {
  // Without HTTPS or loopback browsers offer no randomUUID.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function undo() {
  const taken = state.history.at(-1);
  if (taken === undefined) return;
  const { client: undoes, image } = taken;
  if (given({ kind: "undo", undoes, image: image.key }) === null) return;
  state.history.pop();
  if (state.history.length === 0) supply.stale = true; // the server knows what came before
  if (state.current !== null) supply.putBack(state.current);
  supply.known.add(image.key);
  shelf.keep(image);
  move(-1);
  show(image, "Undone. Again");
}

function release(image) {
  for (const each of [image.original, image.changed]) if (each) URL.revokeObjectURL(each.src);
  supply.known.delete(image.key);
}

// The server has it: unless it was taken back meanwhile, nothing of it is needed after a reload.
function settled({ kind, image }) {
  const open = [state.current, ...supply.images].some((each) => each?.key === image);
  if (kind === "answer" && !open) shelf.drop(image);
  if (state.current === null && outbox.length === 0) supply.fill();
}

// Another window of the same person gave an answer, or took one back.
function followed({ kind, image, undoes }) {
  supply.moves++;
  supply.stale = true;
  if (kind === "undo") {
    supply.known.delete(image);
    state.history = state.history.filter(({ client }) => client !== undoes);
    showProgress();
  } else if (state.current?.key === image) {
    show(supply.take(), "Answered in another window. Next");
  } else {
    supply.drop(image);
  }
}

// -- before it begins -------------------------------------------------------------------------------------------------

// Whoever has answered nothing yet, in a project with instructions, reads these and answers one picture for practice: an
// original beside itself.
function prepare() {
  if (page.practice !== "yes" || localStorage.getItem(PRACTISED)) return;
  if (state.answered > 0) {
    localStorage.setItem(PRACTISED, "yes");
    return;
  }
  state.practising = true;
  at("instructions").showModal();
}

function practised(word) {
  if (word !== "unchanged") {
    trouble("Look again: both pictures are the same here, so the answer is Yes. (This is not saved.)");
    return;
  }
  state.practising = false;
  localStorage.setItem(PRACTISED, "yes");
  trouble("");
  show(state.current, "Correct. From now on, answers count. Picture");
}

// -- showing ----------------------------------------------------------------------------------------------------------

function arrived() {
  if (supply.problem === "out" && !outbox.over) over();
  else if (state.current === null && supply.images.length > 0) show(supply.take(), "Picture");
  else if (state.current === null) message();
  showProgress();
}

async function counted({ answered, left, last }) {
  Object.assign(state, { answered, left });
  showProgress();
  if (last === null || state.history.length > 0) return;
  const { moves } = supply;
  const image = await supply.load(last.image).catch(() => null);
  if (image === null || moves !== supply.moves || state.history.length > 0) return;
  state.history.push({ client: last.client, image });
  showProgress();
}

function show(image, heard) {
  state.current = image;
  if (image !== null && image.original === null) state.practising = false;
  const focused = document.activeElement;
  at("question").hidden = image === null;
  at("message").hidden = image !== null;
  at("page").classList.toggle("idle", image === null);
  if (image === null) {
    message();
  } else {
    if (alone) state.original = false;
    const practising = state.practising && image.original !== null;
    at("practice").hidden = !practising;
    at("article").textContent = article(image.label);
    at("label").textContent = image.label;
    at("question-title").classList.toggle("long", image.label.length > LONG);
    // The decoded elements themselves: another one with the same source would load it once more.
    for (const [name, alt] of Object.entries(PICTURES)) {
      const shown = practising && name === "changed" ? image.original.cloneNode() : image[name];
      at(name).replaceWith(Object.assign(shown ?? new Image(), { id: name, alt }));
    }
    lay();
    state.began = performance.now();
    // With its number, also since what is the same as before would not be read again.
    const total = state.answered + state.left;
    at("heard").textContent = `${heard} ${state.answered + 1} of ${total}: still ${article(image.label)}${image.label}?`;
  }
  showProgress();
  keepFocus(focused);
}

// An article for names that take one: a single word in small letters.
function article(label) {
  if (!/^[a-z][a-z-]+$/.test(label)) return "";
  return /^[aeiou]/.test(label) ? "an " : "a ";
}

// Whoever is at a button that goes away finds the message instead, and the button again with the next picture.
function keepFocus(focused) {
  if (state.current === null && focused !== document.body && focused.offsetParent === null) {
    state.focused = focused;
    at("message").focus();
  } else if (state.current !== null && focused === at("message")) {
    state.focused?.focus();
  }
}

const MESSAGES = {
  offline: ["No connection", "You have seen all loaded pictures. Your answers are saved; this page continues by itself."],
  busy: ["One moment", "The server is busy. Your answers are saved; this page continues by itself."],
};

function message() {
  let notice = MESSAGES[supply.problem] ?? ["Loading", "The next pictures will appear shortly."];
  if (supply.problem === "out") notice = ["Please open your personal link again", `Your session is over.${waiting()}`];
  else if (!supply.problem && supply.finished && state.answered > 0)
    notice = ["All done", "Thank you. There is nothing left to judge; you may close this page."];
  else if (!supply.problem && supply.finished)
    notice = ["Nothing to judge", "There are no pictures for you now. Please check back later."];
  const changed = at("notice").textContent !== notice[0];
  at("notice").textContent = notice[0];
  at("more").textContent = notice[1];
  if (changed) at("heard").textContent = notice.join(". ");
}

function waiting() {
  const number = outbox.length;
  if (number === 0) return "";
  const some = number === 1 ? "One answer waits in this browser and is" : `${number} answers wait in this browser and are`;
  return ` ${some} sent then.`;
}

// The session is over, or somebody else's: what was handed out is shown no longer. Answers wait for the next one.
function over() {
  outbox.over = true;
  supply.end();
  state.history = [];
  at("page").classList.add("over");
  shelf.end();
  show(null);
  outbox.tell();
}

function lay() {
  const { current } = state;
  const shown = { original: state.original && current.original !== null, changed: true, difference: state.difference };
  for (const [name, visible] of Object.entries(shown)) at(`${name}-tile`).hidden = !visible;
  at("show-original").setAttribute("aria-pressed", String(state.original));
  at("show-difference").setAttribute("aria-pressed", String(state.difference));
  at("show-difference").disabled = current.original === null;
  if (state.difference && current.original !== null) at("gain").textContent = draw(at("difference"), current);
  at("scale").textContent = fit(at("tiles"), current.changed, state.zoom);
}

function showProgress() {
  const { answered, left } = state;
  const total = answered + left;
  const text = `${answered.toLocaleString("en")} of ${total.toLocaleString("en")}${pace.text(left)}`;
  at("bar").max = Math.max(1, total);
  at("bar").value = answered;
  at("count").textContent = total > 0 ? text : "\u00a0";
  // Not `disabled`: that would take the focus away from whoever takes back as much as there is.
  at("undo").setAttribute("aria-disabled", String(state.history.length === 0));
  if (total > 0) remember({ answered, left });
}

// For the next time that the page is opened, until the server says more. Where nothing can be kept, it is only shown late.
function remember(progress) {
  try {
    localStorage.setItem(PROGRESS, JSON.stringify(progress));
  } catch {
    return;
  }
}

const SAVED = { offline: "offline", trouble: "server busy", out: "signed out" };

function showSaved(number, why) {
  // While all is well one answer is always on its way: nothing flickers for that.
  const text = SAVED[why] ?? (number > 1 ? "sending" : "All answers saved");
  // Only a change of what is said is read aloud, not every number.
  if (at("saved").textContent !== text) at("saved").textContent = text;
  at("queue").textContent = text === "All answers saved" ? "" : text === "sending" ? ` ${number}` : ` · ${number} waiting`;
  at("pill").className = `pill ${SAVED[why] ? "waiting" : text === "sending" ? "busy" : "good"}`;
  if (why === "out" && supply.problem !== "out") over();
  if (number > 0 || why) return;
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

async function leave() {
  if (outbox.length > 0) {
    trouble("Not yet: some answers have not been sent.");
    return;
  }
  if (!confirm("Sign out on this device? You can come back with your personal link.")) return;
  try {
    await fetch("/api/leave", { method: "POST", headers: { "X-CSRF-Token": csrf } });
    await shelf.end();
    location.replace("/");
  } catch {
    trouble("There is no connection: you are still signed in.");
  }
}

const toggle = (name) => () => {
  if (state.current === null || state.practising) return;
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
at("begin")?.addEventListener("click", () => at("instructions").close());
at("read")?.addEventListener("click", () => at("instructions").showModal());
at("instructions")?.addEventListener("close", () => { state.began = performance.now(); });
const actions = {
  undo,
  leave,
  "show-original": toggle("original"),
  "show-difference": toggle("difference"),
  smaller: zoom(-1),
  larger: zoom(1),
};
for (const [id, act] of Object.entries(actions)) at(id).addEventListener("click", act);

listen({
  answer,
  undo,
  difference: actions["show-difference"],
  original: () => alone && actions["show-original"](),
  larger: actions.larger,
  smaller: actions.smaller,
});

new ResizeObserver(() => state.current !== null && lay()).observe(at("main"));
addEventListener("resize", () => state.current !== null && lay());
// Somebody else came in by this browser: what is asked for from here on would be theirs.
addEventListener("storage", ({ key, newValue }) => key === HERE && newValue !== page.person && over());
localStorage.setItem(HERE, page.person);
prepare();
outbox.send();
supply.fill();
navigator.serviceWorker?.register("/worker.js").catch(() => undefined);
