// The images that come next, loaded before they are asked for.
const LOW = 8;
const MORE = 12;
const RETRY = 3000;
const PATIENCE = 10000; // a connection may be neither there nor gone

function get(path) {
  return fetch(path, { signal: AbortSignal.timeout(PATIENCE) });
}

async function picture(key, which) {
  const answer = await get(`/pictures/${key}/${which}`);
  if (answer.status === 404 && which === "original") return null;
  if (!answer.ok) throw new Error(String(answer.status));
  const url = URL.createObjectURL(await answer.blob());
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

export async function load({ key, label }) {
  const [original, changed] = await Promise.all([picture(key, "original"), picture(key, "changed")]);
  return { key, label, original, changed };
}

export class Supply {
  // waiting: how many events, and on which images, are not sent yet. ready: called when something arrived or ran out.
  constructor({ waiting, ready }) {
    Object.assign(this, { waiting, ready });
    this.images = [];
    this.known = new Set();
    this.broken = new Set();
    this.finished = false;
    this.moves = 0; // answers and undos so far
    this.stale = false;
    this.problem = "";
    addEventListener("online", () => this.fill());
  }

  take() {
    const image = this.images.shift();
    this.fill();
    return image;
  }

  putBack(image) {
    this.images.unshift(image);
  }

  forget(key) {
    this.known.delete(key);
  }

  async fill() {
    if (this.filling || this.images.length >= LOW) return;
    this.filling = true;
    clearTimeout(this.timer);
    try {
      await this.fetch();
      this.problem = "";
    } catch (error) {
      this.problem = error.message === "401" ? "out" : "offline";
      if (this.problem === "offline") this.timer = setTimeout(() => this.fill(), RETRY);
    }
    this.filling = false;
    this.ready();
  }

  // How far we are, once everything has arrived that was on its way.
  async count() {
    this.stale = false;
    const moves = this.moves;
    try {
      const answer = await get("/api/progress");
      if (answer.ok && moves === this.moves) {
        this.progress = await answer.json();
        this.ready();
      }
    } catch {
      this.stale = true;
    }
  }

  async fetch() {
    // Images that were handed out before come first: some are here already, some are answered but not sent.
    const waiting = this.waiting();
    const moves = this.moves;
    const count = Math.min(50, MORE + this.images.length + waiting.length + 1);
    const answer = await get(`/api/next?count=${count}`);
    if (!answer.ok) throw new Error(String(answer.status));
    const found = await answer.json();
    // What the server counts is the truth, unless something was answered meanwhile.
    if (waiting.length === 0 && moves === this.moves) this.progress = found.progress;
    this.stale = waiting.length > 0;
    const late = new Set(waiting);
    const fresh = found.images.filter(({ key }) => !this.known.has(key) && !late.has(key) && !this.broken.has(key));
    for (const each of fresh) {
      let image;
      try {
        image = await load(each);
      } catch (error) {
        if (error.message !== "404" && error.message !== "500") throw error;
        this.broken.add(each.key);
        continue;
      }
      this.known.add(each.key);
      this.images.push(image);
      this.ready();
    }
    this.finished = fresh.length === 0 && waiting.length === 0;
    // All that came was on its way already: ask again once it has arrived.
    if (fresh.length === 0 && waiting.length > 0) this.timer = setTimeout(() => this.fill(), RETRY);
  }
}
