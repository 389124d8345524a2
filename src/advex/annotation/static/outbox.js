// Answers on their way. Each is kept in this browser until the server has said that it is committed: also without a
// connection, and when the page is closed. They are sent one after the other, in the order in which they were given.
const SOON = 1000;
const LATE = 30000;
const PATIENCE = 15000; // then it is sent again: twice does no harm

export class Outbox {
  // person: the key of whoever answers here; others' answers in this browser stay theirs.
  // changed: called with how many wait, and why. refused: called with an event and a sentence, for what is not kept.
  constructor({ person, csrf, changed, refused }) {
    Object.assign(this, { csrf, changed, refused });
    this.prefix = `advex-${person}-`;
    this.pause = SOON;
    this.sending = false;
    addEventListener("online", () => this.send());
    addEventListener("storage", () => this.tell());
  }

  keys() {
    const found = [];
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(this.prefix)) found.push(key);
    }
    return found.sort();
  }

  get events() {
    return this.keys().map((key) => JSON.parse(localStorage.getItem(key)));
  }

  get length() {
    return this.keys().length;
  }

  add(event) {
    // Ordered by time, and by number where a clock was set back.
    const last = this.keys().at(-1);
    const after = last ? Number(last.slice(this.prefix.length).split("-")[0]) + 1 : 0;
    const order = String(Math.max(Date.now(), after)).padStart(16, "0");
    localStorage.setItem(`${this.prefix}${order}-${event.client}`, JSON.stringify(event));
    this.send();
  }

  tell(why = "") {
    this.changed(this.length, why);
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    let again = false;
    this.tell("sending");
    for (let key = this.keys()[0]; key !== undefined; key = this.keys()[0]) {
      const outcome = await this.post(JSON.parse(localStorage.getItem(key)));
      if (outcome === "kept") {
        localStorage.removeItem(key);
        this.pause = SOON;
        this.tell("sending");
      } else {
        again = outcome === "later";
        break;
      }
    }
    this.sending = false;
    if (again) {
      this.timer = setTimeout(() => this.send(), this.pause);
      this.pause = Math.min(LATE, 2 * this.pause);
    } else if (this.length === 0) {
      this.tell();
    }
  }

  // "kept" (or never to be), "later", or "out": the session is over.
  async post(event) {
    const { kind, client, undoes, image, answer: given, milliseconds } = event;
    const body = kind === "undo" ? { client, undoes } : { client, image, answer: given, milliseconds };
    let answer;
    try {
      answer = await fetch(kind === "undo" ? "/api/undo" : "/api/answers", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": this.csrf },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch {
      this.tell("offline");
      return "later";
    }
    if (answer.ok) return "kept";
    if (answer.status === 401 || answer.status === 403) {
      this.tell("out");
      return "out";
    }
    if ([404, 409, 422].includes(answer.status)) {
      this.refused(event, (await answer.json()).error);
      return "kept";
    }
    this.tell("trouble");
    return "later";
  }
}
