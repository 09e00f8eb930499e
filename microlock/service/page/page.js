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

// What screen readers are told beside the state of the connection: what somebody asked for.
function say(text) {
  find("said").textContent = text;
}

const STATES = {
  connecting: "Connecting …",
  live: "Live",
  lost: "Connection lost. Trying again …",
  blind: "The service does not hear from etcd",
};

function show(state, why) {
  document.body.dataset.state = state;
  find("state").textContent = why ? `${STATES[state]}: ${why}` : STATES[state];
}

function summarise() {
  const { all, shown, waiting } = table.counts();
  const few = shown === all ? "" : `${shown.toLocaleString("en")} of `;
  find("summary").textContent =
    `${few}${counted(all, "lock", "locks")}, ${counted(waiting, "waiter", "waiters")}`;
  const nothing = find("nothing");
  nothing.hidden = shown > 0 || !table.known;
  const text = all ? "No lock or node is called so." : "No locks.";
  if (nothing.textContent !== text) nothing.textContent = text;
}

// What comes is drawn with the next frame, however much it is.
let planned = false;
function draw() {
  if (planned) return;
  planned = true;
  const drawn = () => {
    planned = false;
    table.draw();
    summarise();
  };
  // A page that nobody sees has no frames.
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
    filter.value = ""; // no text of ours
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
