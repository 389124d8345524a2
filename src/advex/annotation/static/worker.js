// Keeps the page that asks, its modules and its style, so that it opens again without a connection; shelf.js keeps the
// pictures. The server always comes first: what is kept is shown only where nothing answers. Nothing else is touched.
// As it is served, a line with VERSION stands before this file: a digest of all static files.
const SHELL = `advex-shell-${VERSION}`;
const PICTURES = "advex-pictures-";
const MODULES = ["annotate", "keys", "outbox", "pace", "shelf", "supply", "theme", "view"];
const FILES = [...MODULES.map((name) => `/static/${name}.js`), "/static/style.css", "/static/icon.svg"];
const PATIENCE = 5000;
const GONE = [502, 503, 504]; // by a proxy, for a server that does not answer

addEventListener("install", (event) => event.waitUntil(fill()));
addEventListener("activate", (event) => event.waitUntil(tidy()));
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== location.origin) return;
  if (pathname === "/") event.respondWith(page(event.request));
  else if (FILES.includes(pathname)) event.respondWith(file(event.request));
});

async function fill() {
  await (await caches.open(SHELL)).addAll(FILES);
  await remember(await fetch("/"));
  await skipWaiting();
}

// What an earlier version kept.
async function tidy() {
  const old = (await caches.keys()).filter((name) => name.startsWith("advex-shell-") && name !== SHELL);
  await Promise.all(old.map((name) => caches.delete(name)));
  await clients.claim();
}

async function page(request) {
  const answer = await fetch(request).catch(() => null);
  if (answer === null || GONE.includes(answer.status)) return (await kept("/")) ?? answer ?? Response.error();
  await remember(answer.clone());
  return answer;
}

async function file(request) {
  const { pathname } = new URL(request.url);
  const answer = await fetch(request, { signal: AbortSignal.timeout(PATIENCE) }).catch(() => null);
  if (!answer?.ok) return (await kept(pathname)) ?? answer ?? Response.error();
  await (await caches.open(SHELL)).put(pathname, answer.clone());
  return answer;
}

async function kept(path) {
  return (await caches.open(SHELL)).match(path);
}

// Only an annotator's page names its person. Any other one says that the session of whoever was here is over.
async function remember(answer) {
  if (!answer.ok && answer.status !== 401) return;
  const person = answer.headers.get("x-advex-person");
  const shell = await caches.open(SHELL);
  if (person) await shell.put("/", answer);
  else await shell.delete("/");
  for (const name of await caches.keys()) {
    if (name.startsWith(PICTURES) && name !== PICTURES + person) await caches.delete(name);
  }
}
