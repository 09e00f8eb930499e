// Breaks a hold, after a question, with the auth token of the service if it needs one.

import { inText } from "./names.js";

const KEPT = "microlock-token";
const PATIENCE_MS = 30_000;

export class Question {
  #dialog = document.getElementById("question");
  #token = document.getElementById("question-token");
  #error = document.getElementById("question-error");
  #yes = document.getElementById("question-yes");
  #say;
  #about; // key and token of the hold, as they were shown

  /** `say(text)` announces the result. */
  constructor(say) {
    this.#say = say;
    document.getElementById("question-no").addEventListener("click", () => this.#dialog.close());
    document.getElementById("question-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#break();
    });
  }

  /** Asks whether to break a hold, or to remove a waiter. */
  ask(key, place, waits) {
    const who = place.node_id === null ? "a client without a name" : inText(place.node_id);
    this.#about = { key, token: place.token };
    this.#set("question-title", `${waits ? "Remove from the queue of" : "Break"} ${inText(key)}?`);
    this.#set(
      "question-text",
      waits
        ? `${who} waits with token ${place.token}. Its call fails, or joins the queue again at ` +
          "the end."
        : `${who} holds it with token ${place.token}. The next waiter gets the lock. The old ` +
          "holder learns of the loss, but may go on working for a while.",
    );
    this.#yes.textContent = waits ? "Remove" : "Break";
    this.#error.textContent = "";
    this.#token.hidden = true;
    this.#dialog.showModal();
    document.getElementById("question-no").focus();
  }

  async #break() {
    if (this.#yes.disabled) return;
    const field = this.#token.querySelector("input");
    const token = this.#token.hidden ? sessionStorage.getItem(KEPT) : field.value;
    this.#yes.disabled = true;
    this.#error.textContent = "";
    try {
      const answer = await fetch("break", {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          ...(token ? { Authorization: `Bearer ${asBytes(token)}` } : {}),
        },
        body: JSON.stringify(this.#about),
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (answer.status === 401) {
        sessionStorage.removeItem(KEPT);
        this.#error.textContent = token ? "This is not the token of this service." : "";
        this.#token.hidden = false;
        field.focus();
        field.select();
        return;
      }
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) {
        this.#error.textContent = said.error ?? `The service answered ${answer.status}.`;
        return;
      }
      if (token) sessionStorage.setItem(KEPT, token);
      field.value = "";
      this.#dialog.close();
      const name = inText(this.#about.key);
      this.#say(said.broken ? `Broken: ${name}` : `It had ended already: ${name}`);
    } catch {
      this.#error.textContent = "The service does not answer.";
    } finally {
      this.#yes.disabled = false;
    }
  }

  #set(id, text) {
    document.getElementById(id).textContent = text;
  }
}

// A header takes bytes only; the service reads them as UTF-8.
function asBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
