// Pictures that were handed out and not answered yet, kept so that the page can be opened again without a connection.
// They are this person's alone: worker.js throws them away when anybody else comes in, or a session is over.
const PICTURES = "advex-pictures-";
const SHELL = "advex-shell-";

// Browsers offer no caches without HTTPS or loopback, and may refuse them: then nothing is kept, and all else works.
export class Shelf {
  constructor(person) {
    this.person = person;
    this.name = PICTURES + person;
    this.over = false;
    this.done = Promise.resolve();
  }

  // One after the other: what is put down and taken away again must not overtake itself.
  work(task) {
    const open = async () => (globalThis.caches && !this.over ? task(await caches.open(this.name)) : undefined);
    this.done = this.done.then(open).catch(() => undefined);
    return this.done;
  }

  // key, label: of the image. files: its pictures as blobs, by name.
  keep({ key, label, files }) {
    const form = new FormData();
    form.append("label", label);
    for (const [name, blob] of Object.entries(files)) form.append(name, blob);
    return this.work((cache) => cache.put(`/kept/${key}`, new Response(form)));
  }

  drop(key) {
    return this.work((cache) => cache.delete(`/kept/${key}`));
  }

  // Whatever else is kept was answered elsewhere, or went to others.
  only(keys) {
    return this.work(async (cache) => {
      for (const request of await cache.keys()) if (!keys.has(key(request))) await cache.delete(request);
    });
  }

  // In the order in which they were kept.
  async all() {
    const images = await this.work(async (cache) => {
      const kept = [];
      for (const request of await cache.keys()) {
        const { label, ...files } = Object.fromEntries(await (await cache.match(request)).formData());
        kept.push({ key: key(request), label, files });
      }
      return kept;
    });
    return images ?? [];
  }

  // The session is over: nobody who comes next finds this person's pictures or page. Answers stay.
  async end() {
    await this.work(async () => {
      this.over = true;
      await caches.delete(this.name);
      for (const name of await caches.keys()) {
        const shell = name.startsWith(SHELL) ? await caches.open(name) : null;
        if ((await shell?.match("/"))?.headers.get("x-advex-person") === this.person) await shell.delete("/");
      }
    });
  }
}

const key = (request) => new URL(request.url).pathname.split("/").at(-1);
