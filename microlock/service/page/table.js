// The table: a group of rows for each lock. Only groups on or near the screen exist, however many
// locks there are, and only changed groups are drawn again.

import { inText, named } from "./names.js";

// Groups kept above the screen, and below it.
const AROUND = 30;
// The window of groups moves by so many.
const STEP = 10;
// The most waiters shown for a lock.
const MOST_WAITERS = 200;

export class Table {
  known = false; // whether a first snapshot has come
  changed = () => {}; // called when there is something to draw

  #table;
  #above = space();
  #below = space();
  #leases;
  #question;
  #locks = new Map(); // by key
  #keys = []; // sorted
  #sorted = true;
  #groups = new Map(); // by key: the groups in the table
  #stale = new Set(); // keys of groups that show an older state
  #open = new Set(); // keys of locks whose queue is unfolded
  #words = "";
  #shown = 0;
  #from = 0; // the first in the table, counted among those that match the filter
  #height = 40; // of a group, on the average
  #width = 0; // of the page, when the height was measured; 0: never
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(table, leases, question) {
    this.#table = table;
    this.#leases = leases;
    this.#question = question;
    for (const each of table.querySelectorAll("thead, tr, th")) withRole(each);
    table.append(this.#above, this.#below);
    table.addEventListener("click", (event) => this.#clicked(event));
    const moved = () => this.#begins() !== this.#from && this.changed();
    addEventListener("scroll", moved, { passive: true });
    addEventListener("resize", () => this.changed());
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
    this.#shown = keys.length;
    this.#from = this.#begins();
    const wanted = keys.slice(this.#from, this.#from + this.#size());
    this.#remove(new Set(wanted));
    let next = this.#above.nextElementSibling;
    for (const key of wanted) {
      const group = this.#group(key);
      if (group === next) next = next.nextElementSibling;
      else this.#table.insertBefore(group, next);
    }
    this.#stale.clear();
    if (this.#width !== innerWidth && wanted.length) {
      const top = this.#above.getBoundingClientRect().bottom;
      this.#height = (this.#below.getBoundingClientRect().top - top) / wanted.length;
      this.#width = innerWidth;
      this.changed(); // draws as many as fit on the screen
    }
    this.#fillSpace(this.#above, this.#from);
    this.#fillSpace(this.#below, keys.length - this.#from - wanted.length);
  }

  /** The number of groups in the table. */
  #size() {
    return Math.ceil(innerHeight / this.#height) + 2 * AROUND + STEP;
  }

  /** The first group that should be in the table, from the scroll position. */
  #begins() {
    const gone = -this.#above.getBoundingClientRect().top / this.#height;
    const from = Math.floor((gone - AROUND) / STEP) * STEP;
    return Math.max(0, Math.min(from, this.#shown - this.#size()));
  }

  /** Makes an empty space as high as so many groups. */
  #fillSpace(space, number) {
    space.rows[0].cells[0].style.height = `${number * this.#height}px`;
  }

  #fits(key) {
    const lock = this.#locks.get(key);
    // Kept with the lock: it is read at each keystroke.
    lock.text ??= [key, ...[...lock.holders, ...lock.waiters].map((place) => place.node_id ?? "")]
      .join("\n")
      .toLowerCase();
    return lock.text.includes(this.#words);
  }

  #remove(wanted) {
    for (const [key, group] of this.#groups) {
      if (wanted.has(key)) continue;
      const focused = !this.#locks.has(key) && group.contains(document.activeElement);
      const next = group.nextElementSibling;
      const near = next === this.#below ? group.previousElementSibling : next;
      group.querySelectorAll(".left").forEach((cell) => this.#leases.forget(cell));
      group.remove();
      this.#groups.delete(key);
      // The keyboard focus must not go back to the top of the page.
      if (focused) (near.querySelector("button") ?? document.getElementById("filter")).focus();
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

  /** Shows this state in the group. Unchanged parts stay, and keep their focus. */
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
    this.#fillQueue(first.querySelector(".queue"), lock);
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

  #fillQueue(cell, { key, waiters }) {
    if (!waiters.length) {
      cell.replaceChildren();
      return;
    }
    let details = cell.querySelector("details");
    if (!details) {
      details = document.createElement("details");
      details.append(document.createElement("summary"), document.createElement("ol"));
      cell.replaceChildren(details);
      details.open = this.#open.has(key);
      details.addEventListener("toggle", () => {
        if (details.open) this.#open.add(key);
        else this.#open.delete(key);
        this.#fillList(details);
      });
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

// On a phone CSS lays these out as blocks; the roles keep them a table.
function withRole(element) {
  const head = element.parentElement ? "columnheader" : "rowheader";
  element.setAttribute("role", ROLES[element.tagName] ?? head);
  return element;
}

function space() {
  const made = document.createElement("tbody");
  made.className = "space";
  made.ariaHidden = "true";
  made.insertRow().insertCell().colSpan = 7;
  return made;
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
