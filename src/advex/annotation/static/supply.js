// The images that come next, loaded before they are asked for.
const LOW = 8;
const MORE = 12;
const MOST = 50; // that the server hands out at once
const RETRY = 3000;
const PATIENCE = 10000; // a connection may be neither there nor gone
const OVER = ["401", "403"]; // nobody's session, or somebody else's

// files: pictures as blobs, by name. Decoded, so that they are shown at once.
async function opened({ key, label, files }) {
  const image = { key, label, files, original: null, changed: null };
  for (const [name, blob] of Object.entries(files)) {
    image[name] = new Image();
    image[name].src = URL.createObjectURL(blob);
    await image[name].decode();
  }
  return image;
}

export class Supply {
  // ready: called when something arrived or ran out. counts: called with how far the server says that we are.
  constructor({ outbox, shelf, ready, counts }) {
    Object.assign(this, { outbox, shelf, ready, counts });
    this.images = [];
    this.known = new Set();
    this.broken = new Set();
    this.finished = false;
    this.opened = false; // something was here, from the server or from the shelf
    this.moves = 0; // answers and undos so far
    this.stale = false;
    this.problem = ""; // "", "offline", "busy", or "out": the session is over
    this.stop = new AbortController();
    // Either may be wrong, as of a server on this machine: both only say that it is worth looking at once.
    for (const name of ["online", "offline"]) addEventListener(name, () => this.wake());
  }

  take() {
    const image = this.images.shift() ?? null;
    this.fill();
    return image;
  }

  putBack(image) {
    this.images.unshift(image);
  }

  // Answered in another window. Returns whether it was to come here.
  drop(key) {
    const before = this.images.length;
    this.images = this.images.filter((image) => image.key !== key);
    return this.images.length < before;
  }

  end() {
    this.images = [];
    this.problem = "out";
    clearTimeout(this.timer);
  }

  wake() {
    this.early = true;
    this.stop.abort();
    this.stop = new AbortController();
    this.fill(true);
  }

  // again: although there was a problem, whose time has come.
  async fill(again = false) {
    const enough = this.problem ? !again : this.images.length >= LOW;
    if (this.filling || enough || this.problem === "out") return;
    this.filling = true;
    this.early = false;
    clearTimeout(this.timer);
    try {
      await this.fetch();
      if (this.problem !== "out") this.problem = "";
    } catch (error) {
      if (this.problem !== "out") this.problem = problem(error);
      if (this.problem === "offline" && !this.opened) await this.unpack();
    }
    this.opened = true;
    this.filling = false;
    if (["offline", "busy"].includes(this.problem)) this.retry(this.early ? 0 : RETRY);
    this.ready();
  }

  retry(pause) {
    this.timer = setTimeout(() => this.fill(true), pause);
  }

  async get(path) {
    const patience = AbortSignal.timeout(PATIENCE);
    const signal = AbortSignal.any?.([this.stop.signal, patience]) ?? patience;
    const answer = await fetch(path, { signal });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer;
  }

  async load({ key, label }) {
    const picture = async (which) => (await this.get(`/pictures/${key}/${which}`)).blob();
    const without = (error) => {
      if (error.message !== "404") throw error;
    };
    const [original, changed] = await Promise.all([picture("original").catch(without), picture("changed")]);
    return opened({ key, label, files: { ...(original && { original }), changed } });
  }

  // What the server counts is the truth, unless something is on its way to it, or was given since it was asked.
  async ask(path) {
    const { moves } = this;
    const calm = this.outbox.length === 0;
    const content = await (await this.get(path)).json();
    this.stale = !calm || moves !== this.moves;
    if (!this.stale) this.counts(content.progress ?? content);
    return content;
  }

  // How far we are, once everything has arrived that was on its way.
  async count() {
    this.stale = false;
    await this.ask("/api/progress").catch(() => (this.stale = true));
  }

  async fetch() {
    // Images that were handed out before come first: some are here already, some are answered but not sent.
    const late = this.outbox.answered();
    const count = Math.min(MOST, LOW + MORE + late.size);
    const { moves } = this;
    const { images } = await this.ask(`/api/next?count=${count}`);
    // What was taken back since is not among them, and is kept all the same.
    if (moves === this.moves) this.shelf.only(new Set(images.map(({ key }) => key)));
    for (const key of this.outbox.answered()) late.add(key);
    const fresh = images.filter(({ key }) => !this.known.has(key) && !late.has(key) && !this.broken.has(key));
    for (const each of fresh) await this.add(each);
    this.finished = fresh.length === 0 && late.size === 0;
    // All that came was on its way already: ask again once it has arrived.
    if (fresh.length === 0 && late.size > 0) this.retry(this.outbox.length > 0 ? RETRY : 0);
  }

  async add(each) {
    let image;
    try {
      image = await this.load(each);
    } catch (error) {
      if (!["404", "500"].includes(error.message) && error.name !== "EncodingError") throw error;
      this.broken.add(each.key);
      return;
    }
    this.shelf.keep(image);
    this.arrive(image);
  }

  // Opened without a connection: what was kept goes on.
  async unpack() {
    const late = this.outbox.answered();
    for (const each of await this.shelf.all()) {
      const image = late.has(each.key) ? null : await opened(each).catch(() => null);
      if (image !== null) this.arrive(image);
    }
  }

  arrive(image) {
    if (this.known.has(image.key) || this.problem === "out") return;
    this.known.add(image.key);
    this.images.push(image);
    this.ready();
  }
}

function problem({ message }) {
  if (OVER.includes(message)) return "out";
  return /^\d+$/.test(message) ? "busy" : "offline";
}
