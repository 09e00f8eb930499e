// The page: all locks of the service, live.

import { follow } from "./feed.js";
import { Leases } from "./leases.js";
import { Question } from "./question.js";
import { Table } from "./table.js";

const find = (id) => document.getElementById(id);
const counted = (number, one, several) =>
  `${number.toLocaleString("en")} ${number === 1 ? one : several}`;

const question = new Question(say);
const leases = new Leases();
const table = new Table(document.querySelector("table"), leases, question);
const filter = find("filter");

// Announces the result of an action to screen readers.
function say(text) {
  find("said").textContent = text;
}

const STATES = {
  connecting: "Connecting …",
  live: "Live",
  lost: "Connection lost. Trying again …",
  blind: "The service can't reach etcd",
};

function show(state, why) {
  document.body.dataset.state = state;
  find("state").textContent = why ? `${STATES[state]}: ${why}` : STATES[state];
}

function summarise() {
  const { all, shown, waiting } = table.counts();
  const few = shown === all ? "" : `${shown.toLocaleString("en")} of `;
  find("summary").textContent = table.known
    ? `${few}${counted(all, "lock", "locks")}, ${counted(waiting, "waiter", "waiters")}`
    : "Locks: unknown";
  const nothing = find("nothing");
  nothing.hidden = shown > 0 || !table.known;
  const text = all ? "No lock or node matches." : "No locks.";
  if (nothing.textContent !== text) nothing.textContent = text;
}

// All changes until the next frame are drawn together.
let planned = false;
function draw() {
  if (planned) return;
  planned = true;
  const drawn = () => {
    planned = false;
    table.draw();
    summarise();
  };
  // A hidden page has no frames.
  if (document.hidden) setTimeout(drawn, 1000);
  else requestAnimationFrame(drawn);
}

let typed = 0;
filter.addEventListener("input", () => {
  const words = filter.value;
  history.replaceState(null, "", words ? `#${encodeURIComponent(words)}` : location.pathname);
  table.filter(words);
  draw();
  clearTimeout(typed);
  typed = setTimeout(() => say(find("summary").textContent), 800);
});

function fromAddress() {
  try {
    filter.value = decodeURIComponent(location.hash.slice(1));
  } catch {
    filter.value = ""; // not a filter of this page
  }
  table.filter(filter.value);
  draw();
}
addEventListener("hashchange", fromAddress);
fromAddress();

document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey;
  if (event.key === "/" && !typing && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    filter.focus();
  }
});

table.changed = draw;
leases.start();
follow("events", {
  state: show,
  snapshot(locks) {
    table.replace(locks);
    draw();
  },
  change(locks) {
    table.change(locks);
    draw();
  },
});
