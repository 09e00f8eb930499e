// The table: a group of rows for each lock. Only the groups of locks that changed are touched, and
// only so many are made as somebody has scrolled to.

import { inText, named } from "./names.js";

const AT_ONCE = 100;
// Of one lock.
const MOST_WAITERS = 200;

export class Table {
  known = false; // a first snapshot came
  changed = () => {}; // called when there is something to draw

  #table;
  #more;
  #leases;
  #question;
  #locks = new Map(); // by key
  #keys = []; // sorted
  #sorted = true;
  #groups = new Map(); // by key, of those that are in the table
  #stale = new Set(); // keys of groups that show an older state
  #words = "";
  #limit = AT_ONCE;
  #shown = 0;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(table, more, leases, question) {
    this.#table = table;
    this.#more = more;
    for (const each of table.querySelectorAll("thead, tr, th")) withRole(each);
    this.#leases = leases;
    this.#question = question;
    const grow = () => {
      this.#limit += AT_ONCE;
      this.changed();
    };
    more.querySelector("button").addEventListener("click", grow);
    const near = new IntersectionObserver(
      (entries) => entries.some((each) => each.isIntersecting) && grow(),
      { rootMargin: "600px" },
    );
    near.observe(more);
    table.addEventListener("click", (event) => this.#clicked(event));
  }

  // What came.

  replace(locks) {
    this.known = true;
    const before = this.#locks;
    this.#locks = new Map(locks.map((lock) => [lock.key, lock]));
    this.#sorted = false;
    for (const key of this.#groups.keys()) {
      const now = this.#locks.get(key);
      if (!now || !same(before.get(key), now)) this.#stale.add(key);
    }
  }

  change(locks) {
    for (const lock of locks) {
      if (same(this.#locks.get(lock.key), lock)) continue;
      const there = lock.holders.length || lock.waiters.length;
      if (there ? !this.#locks.has(lock.key) : this.#locks.has(lock.key)) this.#sorted = false;
      if (there) this.#locks.set(lock.key, lock);
      else this.#locks.delete(lock.key);
      this.#stale.add(lock.key);
    }
  }

  filter(words) {
    this.#words = words.trim().toLowerCase();
    this.#limit = AT_ONCE;
  }

  counts() {
    let waiting = 0;
    for (const lock of this.#locks.values()) waiting += lock.waiters.length;
    return { all: this.#locks.size, shown: this.#shown, waiting };
  }

  // Drawing it.

  draw() {
    if (!this.#sorted) {
      this.#keys = [...this.#locks.keys()].sort();
      this.#sorted = true;
    }
    const keys = this.#words ? this.#keys.filter((key) => this.#fits(key)) : this.#keys;
    const wanted = keys.slice(0, this.#limit);
    this.#shown = keys.length;
    this.#more.hidden = keys.length <= this.#limit;
    this.#remove(new Set(wanted));
    let next = this.#table.tBodies[0] ?? null;
    for (const key of wanted) {
      const group = this.#group(key);
      if (group === next) next = next.nextElementSibling;
      else this.#table.insertBefore(group, next);
    }
    this.#stale.clear();
  }

  #fits(key) {
    const lock = this.#locks.get(key);
    // The same as long as the lock is: it is looked at for each key that is typed.
    lock.text ??= [key, ...[...lock.holders, ...lock.waiters].map((place) => place.node_id ?? "")]
      .join("\n")
      .toLowerCase();
    return lock.text.includes(this.#words);
  }

  #remove(wanted) {
    for (const [key, group] of this.#groups) {
      if (wanted.has(key)) continue;
      const focused = group.contains(document.activeElement);
      const near = group.nextElementSibling ?? group.previousElementSibling;
      group.querySelectorAll(".left").forEach((cell) => this.#leases.forget(cell));
      group.remove();
      this.#groups.delete(key);
      // Whoever goes by keyboard is not thrown back to the top of the page.
      if (focused) (near?.querySelector("button") ?? document.getElementById("filter")).focus();
    }
  }

  #group(key) {
    const group = this.#groups.get(key);
    if (group && !this.#stale.has(key)) return group;
    const lock = this.#locks.get(key);
    const shown = group ?? this.#made(lock);
    if (group) this.#fill(group, lock);
    else this.#groups.set(key, shown);
    if (this.#stale.has(key) && !this.#still.matches) {
      shown.animate({ backgroundColor: ["var(--news)", "transparent"] }, 1_500);
    }
    return shown;
  }

  #made(lock) {
    const group = withRole(document.createElement("tbody"));
    group.dataset.key = lock.key;
    const row = withRole(group.insertRow());
    const head = withRole(named("th", lock.key));
    head.scope = "rowgroup";
    head.className = "lock";
    row.append(head, cell("kind", lock.kind), ...this.#place(), cell("queue"));
    this.#fill(group, lock);
    return group;
  }

  #place() {
    return [cell("who"), cell("token"), cell("left"), cell("act")];
  }

  /** Has the group show this state: what is the same stays as it is, and keeps its focus. */
  #fill(group, lock) {
    const [first] = group.rows;
    const holders = lock.holders.length ? lock.holders : [null];
    while (group.rows.length > holders.length) {
      const last = group.rows[group.rows.length - 1];
      this.#leases.forget(last.querySelector(".left"));
      last.remove();
    }
    while (group.rows.length < holders.length) {
      withRole(group.insertRow()).append(...this.#place());
    }
    for (const name of ["lock", "kind", "queue"]) {
      first.querySelector(`.${name}`).rowSpan = holders.length;
    }
    first.querySelector(".kind").textContent = lock.kind;
    holders.forEach((holder, number) => this.#fillPlace(group.rows[number], holder));
    this.#fillQueue(first.querySelector(".queue"), lock.waiters);
  }

  #fillPlace(row, holder) {
    const shown = holder ? `${holder.token} ${holder.lease} ${holder.node_id} ${holder.role}` : "";
    if (row.dataset.shown === shown) return;
    row.dataset.shown = shown;
    const [who, token, left, act] = ["who", "token", "left", "act"].map((name) =>
      row.querySelector(`.${name}`),
    );
    if (!holder) {
      this.#leases.forget(left);
      delete left.dataset.lease;
      for (const each of [token, left, act]) each.replaceChildren();
      who.replaceChildren(named("span", null, "nobody yet"));
      return;
    }
    who.replaceChildren(...described(holder));
    token.textContent = holder.token;
    this.#leases.show(left, holder.lease);
    if (!act.firstChild) act.append(button("Break"));
    about(act.firstChild, holder, "Break");
  }

  #fillQueue(cell, waiters) {
    if (!waiters.length) {
      cell.replaceChildren();
      return;
    }
    let details = cell.querySelector("details");
    if (!details) {
      details = document.createElement("details");
      details.append(document.createElement("summary"), document.createElement("ol"));
      cell.replaceChildren(details);
      details.addEventListener("toggle", () => this.#fillList(details));
    }
    details.waiters = waiters;
    const [first] = waiters;
    const others = waiters.length > 1 ? document.createTextNode(` and ${waiters.length - 1} more`) : "";
    details.querySelector("summary").replaceChildren(named("span", first.node_id, "no name"), others);
    this.#fillList(details);
  }

  #fillList(details) {
    const list = details.querySelector("ol");
    if (!details.open) {
      list.replaceChildren();
      return;
    }
    const waiters = details.waiters.slice(0, MOST_WAITERS);
    const there = new Map([...list.children].map((item) => [item.dataset.token, item]));
    const items = waiters.map((waiter) => {
      const known = there.get(String(waiter.token));
      if (known) return known;
      const item = document.createElement("li");
      item.dataset.token = waiter.token;
      const remove = about(button("Remove"), waiter, "Remove");
      item.append(...described(waiter), remove);
      return item;
    });
    const hidden = details.waiters.length - waiters.length;
    if (hidden) {
      const rest = document.createElement("li");
      rest.className = "rest";
      rest.textContent = `and ${hidden.toLocaleString("en")} more`;
      items.push(rest);
    }
    const same = items.length === list.children.length && items.every((item, at) => list.children[at] === item);
    if (!same) list.replaceChildren(...items);
  }

  #clicked(event) {
    const clicked = event.target.closest("button");
    const lock = this.#locks.get(clicked?.closest("tbody")?.dataset.key);
    if (!lock) return;
    const has = (place) => String(place.token) === clicked.value;
    const holder = lock.holders.find(has);
    const waiter = lock.waiters.find(has);
    if (holder ?? waiter) this.#question.ask(lock.key, holder ?? waiter, !holder);
  }
}

function same(one, other) {
  return JSON.stringify({ ...one, text: 0 }) === JSON.stringify({ ...other, text: 0 });
}

const ROLES = { THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

// On a phone these are laid out as blocks, and are a table still.
function withRole(element) {
  const head = element.parentElement ? "columnheader" : "rowheader";
  element.setAttribute("role", ROLES[element.tagName] ?? head);
  return element;
}

function cell(name, text = "") {
  const made = withRole(document.createElement("td"));
  made.className = name;
  made.textContent = text;
  return made;
}

function button(text) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  return made;
}

function about(button, place, act) {
  button.value = place.token;
  const who = place.node_id === null ? "no name" : inText(place.node_id);
  button.setAttribute("aria-label", `${act} ${who}, token ${place.token}`);
  return button;
}

function described(place) {
  const who = named("span", place.node_id, "no name");
  if (!place.role) return [who];
  const role = document.createElement("span");
  role.className = "role";
  role.textContent = place.role;
  return [who, " ", role];
}
