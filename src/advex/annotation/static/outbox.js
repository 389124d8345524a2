// Answers on their way. Each is kept in this browser until the server has said that it is committed: also without a
// connection, and when the page is closed. They are sent one after the other, in the order in which they were given.
// In localStorage: it is written before the next picture is shown, where IndexedDB would still be at work when a tab dies.
const SOON = 1000;
const LATE = 30000;
const PATIENCE = 15000; // then it is sent again: twice does no harm

export class Outbox {
  // person: the key of whoever answers here; others' answers in this browser stay theirs.
  // changed: called with how many wait, and why. kept: called with an event that the server has. refused: called with
  // an event and a sentence, for what is not kept. elsewhere: called with an event of another window.
  constructor({ person, csrf, changed, kept, refused, elsewhere }) {
    Object.assign(this, { csrf, changed, kept, refused, elsewhere });
    this.prefix = `advex-${person}-`;
    this.pause = SOON;
    this.sending = false;
    this.over = false;
    this.stop = new AbortController();
    for (const name of ["online", "offline"]) addEventListener(name, () => this.wake());
    addEventListener("storage", ({ key, newValue }) => {
      if (!key?.startsWith(this.prefix)) return;
      if (newValue !== null) this.elsewhere(JSON.parse(newValue));
      else this.tell();
    });
  }

  keys() {
    const keys = [];
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(this.prefix)) keys.push(key);
    }
    return keys.sort();
  }

  get events() {
    return this.keys().map((key) => JSON.parse(localStorage.getItem(key))).filter((event) => event !== null);
  }

  get length() {
    return this.keys().length;
  }

  // Keys of the images whose answers wait, and are not taken back.
  answered() {
    const last = new Map(this.events.map(({ image, kind }) => [image, kind]));
    return new Set([...last.keys()].filter((image) => last.get(image) === "answer"));
  }

  // Raises what the browser raises where it keeps nothing.
  add(event) {
    // Ordered by time, and by number where a clock was set back.
    const last = this.keys().at(-1);
    const after = last ? Number(last.slice(this.prefix.length).split("-")[0]) + 1 : 0;
    const order = String(Math.max(Date.now(), after)).padStart(16, "0");
    localStorage.setItem(`${this.prefix}${order}-${event.client}`, JSON.stringify(event));
    this.send();
  }

  tell(why = "") {
    this.changed(this.length, this.over ? "out" : why);
  }

  wake() {
    this.stop.abort();
    this.stop = new AbortController();
    this.pause = SOON;
    this.send();
  }

  async send() {
    if (this.over) this.tell();
    if (this.sending || this.over) return;
    this.sending = true;
    clearTimeout(this.timer);
    let again = false;
    this.tell("sending");
    for (let key = this.keys()[0]; key !== undefined && !again && !this.over; key = this.keys()[0]) {
      // Another window may have sent it just now.
      const event = JSON.parse(localStorage.getItem(key));
      if (event === null) continue;
      const outcome = await this.post(event);
      again = outcome === "later";
      this.over = outcome === "out";
      if (outcome === "kept") this.done(key, event);
      else this.tell(this.why);
    }
    this.sending = false;
    if (again) {
      this.timer = setTimeout(() => this.send(), this.pause);
      this.pause = Math.min(LATE, 2 * this.pause);
    } else if (this.length === 0) {
      this.tell();
    }
  }

  done(key, event) {
    localStorage.removeItem(key);
    this.pause = SOON;
    this.kept(event);
    this.tell("sending");
  }

  // "kept" (or never to be), "later", or "out": the session is over. Leaves in `why` what stands in the way.
  async post(event) {
    const { kind, client, undoes, image, answer: given, milliseconds } = event;
    const body = kind === "undo" ? { client, undoes } : { client, image, answer: given, milliseconds };
    const patience = AbortSignal.timeout(PATIENCE);
    let answer;
    try {
      answer = await fetch(kind === "undo" ? "/api/undo" : "/api/answers", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": this.csrf },
        body: JSON.stringify(body),
        signal: AbortSignal.any?.([this.stop.signal, patience]) ?? patience,
      });
      if ([404, 409, 422].includes(answer.status)) this.refused(event, (await answer.json()).error);
    } catch {
      this.why = "offline";
      // Now something of worth is here alone: some browsers ask, others decide by themselves.
      this.persisted ??= navigator.storage?.persist?.().catch(() => undefined) ?? true;
      return "later";
    }
    if (answer.ok || [404, 409, 422].includes(answer.status)) return "kept";
    if (answer.status === 401 || answer.status === 403) return "out";
    this.why = "trouble";
    return "later";
  }
}
