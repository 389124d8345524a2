// The owner asks a model about one picture after another. Only the newest request counts: the one before is taken back
// here, and ends on the server too. What is shown stays until all of the next explanation has arrived: nothing flickers.
const at = (id) => document.getElementById(id);
const csrf = document.querySelector('meta[name="csrf"]').content;
const page = crypto.getRandomValues(new Uint32Array(4)).join("-");
const COUNT = 24; // thumbnails
const PAUSE = 80; // ms between what a slider says and a request
const PATIENCE = 250; // ms until a computation is worth a word
const LIMIT = Number(at("desk").dataset.bytes);

const CARDS = 7; // other models beside the chosen one
const state = { picture: null, least: false, key: null, about: null, toward: null }; // toward: the class that was chosen
let asking = null; // of the request that is on its way
let comparing = null; // of the requests to the other models
let pause, busy, browsing;

// -- the server -------------------------------------------------------------------------------------------------------

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "X-CSRF-Token": csrf, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("There is no connection. Try again in a moment.");
  }
  if (answer.ok) return answer.json();
  const problem = new Error((await answer.json().catch(() => ({}))).error ?? "Something went wrong.");
  problem.status = answer.status;
  throw problem;
}

const send = (path, body, signal) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

function trouble(sentence) {
  at("trouble").textContent = sentence;
}

function working(now) {
  clearTimeout(busy);
  const say = (text) => {
    at("saved").textContent = text;
    at("saved").className = text ? "pill waiting" : "pill";
  };
  at("explanation").setAttribute("aria-busy", String(now));
  if (now) busy = setTimeout(() => say("computing"), PATIENCE);
  else say("");
}

// -- asking -----------------------------------------------------------------------------------------------------------

function ask(soon = PAUSE) {
  if (state.picture === null || state.about === null) return;
  clearTimeout(pause);
  asking?.abort(); // what was asked before is not shown any more, also while this one waits
  asking = new AbortController();
  working(true);
  pause = setTimeout(explain, soon, asking);
}

async function explain(mine) {
  const subject = state.picture;
  const wanted = {
    page,
    model: Number(at("model").value),
    picture: subject.key,
    target: targetOf(Number(at("model").value)),
    rho: state.least ? null : Number(at("rho").value),
    explainer: at("explainer").value,
  };
  comparing?.abort();
  try {
    const { key, pictures, told: summary } = await send("/api/explore/explanations", wanted, mine.signal);
    const images = await Promise.all(pictures.map((which) => load(`/explore/explanations/${key}/${which}`)));
    if (mine !== asking) return;
    show({ key, pictures, summary }, images, subject);
    at("target").value = String(summary.target);
    trouble("");
    working(false);
    compare(wanted, state.about.models[wanted.model].classes[summary.target]);
  } catch (error) {
    if (mine !== asking || error.name === "AbortError") return; // a newer one is on its way
    working(false);
    trouble(error.message);
  }
}

// The chosen class as a model numbers it; null: the one that it finds second likeliest.
function targetOf(model, name = state.toward) {
  const place = state.about.models[model].classes.indexOf(name);
  return place < 0 ? null : place;
}

// The same picture, change and map by the other models, one after another, below the chosen model's.
async function compare(wanted, name) {
  const mine = (comparing = new AbortController());
  const others = state.about.models.map((model, number) => ({ ...model, number })).filter(({ number }) => number !== wanted.model);
  at("others").hidden = others.length === 0;
  const cards = others.slice(0, CARDS).map(card);
  at("cards").replaceChildren(...cards);
  for (const [place, { number, name: model }] of others.slice(0, CARDS).entries()) {
    const target = targetOf(number, name);
    const say = (text) => { cards[place].querySelector(".says").textContent = text; };
    if (target === null) {
      say(`${model} has no class ${name}.`);
      continue;
    }
    try {
      const request = { ...wanted, page: `${page}-${number}`, model: number, target };
      const { key, pictures, told: summary } = await send("/api/explore/explanations", request, mine.signal);
      const shown = ["changed", "map_input"].filter((which) => pictures.includes(which));
      const images = await Promise.all(shown.map((which) => load(`/explore/explanations/${key}/${which}`)));
      if (mine !== comparing) return;
      for (const [which, image] of images.entries()) {
        image.alt = `${model}, ${shown[which] === "changed" ? "changed" : "counts in the original"}: ${summary.lines[shown[which]].join(", ")}`;
        image.classList.toggle("crisp", image.naturalWidth < 200);
      }
      cards[place].querySelector(".pair").replaceChildren(...images);
      say(summary.sentences[0]);
    } catch (error) {
      if (error.name === "AbortError" || mine !== comparing) return;
      say(error.message);
    }
  }
}

function card({ name, number }) {
  const box = Object.assign(document.createElement("article"), { className: "card" });
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.setAttribute("aria-label", `Show ${name} large`);
  button.addEventListener("click", () => {
    at("model").value = String(number);
    at("model").dispatchEvent(new Event("change"));
  });
  box.append(button, Object.assign(document.createElement("div"), { className: "pair" }));
  box.append(Object.assign(document.createElement("p"), { className: "says", textContent: "…" }));
  return box;
}

async function load(path) {
  const image = new Image();
  image.src = path;
  try {
    await image.decode();
  } catch {
    throw new Error("A picture could not be loaded. Try again in a moment.");
  }
  return image;
}

function show({ key, pictures, summary }, images, subject) {
  state.key = key;
  at("empty").hidden = true;
  at("result").hidden = false;
  at("name").textContent = subject.name;
  at("note").textContent = subject.note;
  at("sentences").textContent = summary.sentences.join(" ");
  for (const view of document.querySelectorAll(".view[data-which]")) {
    const { which } = view.dataset;
    const image = images[pictures.indexOf(which)];
    view.hidden = image === undefined;
    if (image === undefined) continue;
    image.alt = `${view.querySelector("figcaption").textContent}: ${summary.lines[which].join(", ")}`;
    image.classList.toggle("crisp", image.naturalWidth < 200);
    view.querySelector("img").replaceWith(image);
    view.querySelector(".lines").textContent = summary.lines[which].join(" · ");
  }
  at("legend").textContent = summary.no_maps
    ? `No maps: ${summary.no_maps}`
    : "In the maps, orange counts for the class and blue against it; both share one scale.";
  at("shares").replaceChildren(...summary.shares.map(row));
  if (state.least) showSize(summary.rmse);
  at("save").disabled = false;
  at("save").textContent = "Save to the report";
  at("kept").textContent = "";
}

function row({ name, before, after, size, target }) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  if (target) head.append(Object.assign(document.createElement("span"), { className: "mark", textContent: "target" }));
  const bar = Object.assign(document.createElement("progress"), { max: 100, value: size });
  bar.setAttribute("aria-hidden", "true");
  head.append(bar);
  const cells = [before, after].map((text) => Object.assign(document.createElement("td"), { className: "number", textContent: text }));
  line.append(head, ...cells);
  return line;
}

// -- choosing ---------------------------------------------------------------------------------------------------------

function options(select, texts, first = 0) {
  select.replaceChildren(...texts.map((text, number) => new Option(text, number)));
  select.value = String(first);
}

function showTargets() {
  const model = Number(at("model").value);
  options(at("target"), state.about.models[model].classes, targetOf(model) ?? 0);
}

function showSize(rho) {
  at("size").value = rho.toFixed(3);
  if (state.least) at("rho").value = String(rho);
  at("rho").setAttribute("aria-valuetext", `RMSE ${rho.toFixed(3)}`);
}

function setLeast(least) {
  state.least = least;
  at("least").setAttribute("aria-pressed", String(least));
}

function choose(picture) {
  state.picture = picture;
  ask(0);
}

// A radio button with a thumbnail: one stop for Tab, and arrows move on.
function thumbnail(picture) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "picture", value: picture.key });
  input.checked = picture.key === state.picture?.key;
  input.addEventListener("change", () => choose(picture));
  const image = Object.assign(new Image(), { src: `/explore/pictures/${picture.key}`, alt: picture.name });
  label.title = picture.name;
  label.append(input, image);
  return label;
}

async function browse() {
  browsing?.abort();
  const mine = (browsing = new AbortController());
  const label = at("label").value;
  const start = Math.max(0, Math.floor(Number(at("number").value) || 0));
  const query = new URLSearchParams({ start, count: COUNT, ...(label && { label }) });
  try {
    const examples = await call(`/api/explore/pictures?${query}`, { signal: mine.signal });
    const names = state.about.labels.map(({ name }) => name);
    const pictures = examples.map(({ number, id, label: of }) => ({
      key: String(number),
      name: of === null ? id : `${names[of]}, no. ${number}`,
      note: of === null || id === String(number) ? "" : id,
    }));
    if (state.picture === null && pictures.length > 0) choose(pictures[0]); // something to look at, to begin with
    at("thumbnails").replaceChildren(...pictures.map(thumbnail));
    at("back").disabled = start === 0;
    const total = label ? state.about.labels[Number(label)].count : state.about.count;
    at("on").disabled = start + COUNT >= total;
    trouble("");
  } catch (error) {
    if (error.name !== "AbortError") trouble(error.message);
  }
}

function turn(by) {
  at("number").value = String(Math.max(0, Number(at("number").value) + by));
  browse();
}

// -- files and saving -------------------------------------------------------------------------------------------------

async function take(file) {
  if (!file) return;
  if (file.size > LIMIT) {
    trouble(`The file has ${(file.size / 1e6).toFixed(1)} MB; at most ${LIMIT / 1e6} MB are allowed.`);
    return;
  }
  trouble("");
  working(true);
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const { key, name, note } = await call(`/api/explore/pictures?${new URLSearchParams({ name: file.name.slice(-200) })}`, { method: "POST", body: file, headers });
    const entry = thumbnail({ key, name, note });
    at("own").hidden = false;
    at("own").prepend(entry);
    entry.querySelector("input").checked = true;
    choose({ key, name, note });
  } catch (error) {
    working(false);
    trouble(error.message);
  }
}

async function save() {
  const { key } = state;
  at("save").disabled = true;
  try {
    const { folder, total, report } = await send("/api/explore/saved", { key });
    if (key !== state.key) return;
    at("save").textContent = "Saved";
    const link = Object.assign(document.createElement("a"), { href: "/explore/report", target: "_blank", rel: "noopener" });
    link.textContent = total === 1 ? "the report" : `the report, with ${total} explanations`;
    at("kept").replaceChildren(`Saved in ${folder}; see `, link, ` (${report}).`);
  } catch (error) {
    at("save").disabled = false;
    trouble(error.message);
  }
}

// -- the beginning ----------------------------------------------------------------------------------------------------

async function begin() {
  try {
    state.about = await call("/api/explore");
  } catch (error) {
    trouble(error.message);
    return;
  }
  const { models, labels, explainers } = state.about;
  options(at("model"), models.map(({ name }) => name));
  at("explainer").replaceChildren(...explainers.map(({ spec, name }) => Object.assign(new Option(name, spec), { title: spec })));
  document.querySelector(".of-class").hidden = labels.length < 2;
  labels.forEach(({ name, count }, number) => at("label").append(new Option(`${name} (${count})`, number)));
  showTargets();
  showSize(Number(at("rho").value));
  await browse();
}

at("choices").addEventListener("submit", (event) => event.preventDefault());
at("model").addEventListener("change", () => { showTargets(); ask(0); });
at("explainer").addEventListener("change", () => ask(0));
at("target").addEventListener("change", () => {
  state.toward = at("target").selectedOptions[0].textContent;
  ask(0);
});
at("rho").addEventListener("input", () => {
  setLeast(false);
  showSize(Number(at("rho").value));
  ask();
});
at("least").addEventListener("click", () => {
  setLeast(!state.least);
  if (!state.least) showSize(Number(at("rho").value));
  ask(0);
});
at("label").addEventListener("change", () => { at("number").value = "0"; browse(); });
at("number").addEventListener("change", browse);
at("back").addEventListener("click", () => turn(-COUNT));
at("on").addEventListener("click", () => turn(COUNT));
at("file").addEventListener("change", () => { take(at("file").files[0]); at("file").value = ""; });
at("save").addEventListener("click", save);
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) at("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

begin();
