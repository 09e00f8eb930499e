// The time left of holds: asked for those on the screen, and counted down in between.

const EVERY_MS = 3_000;
const SOON_MS = 150;
// After so long an answer is not shown any more.
const OLD_MS = 10_000;
// The most leases in one request.
const MOST = 100;

export class Leases {
  #cells = new Map(); // the lease of each cell on the screen
  #ends = new Map(); // when each lease ends, by the clock of this page, in ms
  #seen = new IntersectionObserver((entries) => this.#look(entries), { rootMargin: "50px" });
  #answered = 0;
  #soon = 0;
  #asking = false;

  start() {
    setInterval(() => document.hidden || this.#ask(), EVERY_MS);
    setInterval(() => document.hidden || this.#count(), 1_000);
    document.addEventListener("visibilitychange", () => document.hidden || this.#ask());
  }

  /** Shows the time left of the lease in this cell. */
  show(cell, lease) {
    if (cell.dataset.lease === lease) return;
    cell.dataset.lease = lease;
    if (this.#cells.has(cell)) {
      this.#cells.set(cell, lease);
      this.#askSoon();
    }
    this.#write(cell, lease);
    this.#seen.observe(cell);
  }

  /** This cell is gone. */
  forget(cell) {
    this.#seen.unobserve(cell);
    this.#cells.delete(cell);
  }

  #look(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        this.#cells.set(target, target.dataset.lease);
        if (!this.#ends.has(target.dataset.lease)) this.#askSoon();
        this.#write(target, target.dataset.lease);
      } else {
        this.#cells.delete(target);
      }
    }
  }

  #askSoon() {
    this.#soon ||= setTimeout(() => this.#ask(), SOON_MS);
  }

  async #ask() {
    clearTimeout(this.#soon);
    this.#soon = 0;
    const ids = [...new Set(this.#cells.values())].slice(0, MOST);
    if (!ids.length || this.#asking) return;
    this.#asking = true;
    try {
      const query = new URLSearchParams(ids.map((id) => ["id", id]));
      const answer = await fetch(`leases?${query}`, { signal: AbortSignal.timeout(OLD_MS) });
      if (!answer.ok) return;
      const { leases } = await answer.json();
      const now = (this.#answered = performance.now());
      const old = this.#ends;
      this.#ends = new Map(ids.map((id) => [id, now + 1_000 * (leases[id] ?? 0)]));
      for (const [id, end] of this.#ends) {
        // Answers are whole seconds: the countdown since the last answer is finer.
        const before = old.get(id);
        if (before !== undefined && Math.abs(before - end) < 1_000) this.#ends.set(id, before);
      }
      this.#count();
    } catch {
      // The stream reports that the connection is lost.
    } finally {
      this.#asking = false;
    }
  }

  #count() {
    for (const [cell, lease] of this.#cells) this.#write(cell, lease);
  }

  #write(cell, lease) {
    const now = performance.now();
    const end = now - this.#answered < OLD_MS ? this.#ends.get(lease) : undefined;
    const left = end === undefined ? null : Math.max(0, Math.round((end - now) / 1_000));
    const text = left === null ? "…" : duration(left);
    if (cell.textContent !== text) cell.textContent = text;
    cell.classList.toggle("ends", left !== null && left <= 3);
  }
}

function duration(seconds) {
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 6_000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400).toLocaleString("en")} d`;
}
