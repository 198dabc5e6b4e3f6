// Keeps the page up to date with the snapshots of its stream, and asks before a job is
// cancelled. Without this script the page shows the same, has to be reloaded by hand, and
// cancelling leads to a page that asks.

import { askOnce, disarm, disarmUnlessThere } from "./arming.js";
import { heldBy, holdWhile, showHeld } from "./holding.js";
import { merge } from "./merging.js";
import { tellTimes } from "./words.js";

const live = document.getElementById("live");
const statusLine = document.getElementById("status");
const pauseButton = document.getElementById("pause");
const RETRY = 10_000; // milliseconds, when the server has refused the stream
const ANSWER = 8_000; // for which it is said what has come of a click

let source = null;
let paused = false;
let retry = 0;
let state = "";
let answering = 0;
let outdated = false; // there was a section that this page does not have
let at = 0; // the moment that the last snapshot shows
const latest = new Map(); // the sections that have arrived and are not shown yet, by id

function show(text) {
  // Setting the same text again would make screen readers repeat it.
  if (statusLine.textContent !== text) statusLine.textContent = text;
}

// Show the state of the page.
function say(text) {
  state = text;
  if (!answering) show(state);
}

// Show the outcome of a click for some seconds.
function answer(text) {
  clearTimeout(answering);
  show(text);
  answering = setTimeout(() => {
    answering = 0;
    show(state);
  }, ANSWER);
}

// -- the stream -------------------------------------------------------------------------

function connect() {
  clearTimeout(retry);
  source?.close();
  source = null;
  if (paused) return say("Paused");
  if (document.hidden) return;
  source = new EventSource(live.dataset.stream);
  source.addEventListener("snapshot", (event) => {
    update(event.data);
    say(outdated ? "Reload the page: the server has another version now" : "Live");
  });
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return say("Not connected: trying again");
    say("No live updates: trying again soon, or reload the page");
    retry = setTimeout(connect, RETRY);
  });
}

// A hidden tab costs the server nothing.
document.addEventListener("visibilitychange", connect);
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && connect());

pauseButton.addEventListener("click", () => {
  paused = !paused;
  pauseButton.textContent = paused ? "Resume" : "Pause";
  connect();
});

// -- snapshots --------------------------------------------------------------------------

// A snapshot has the sections of the page that have changed; the first one has all of them.
function update(html) {
  const snapshot = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
  at = Number(snapshot.dataset.at);
  for (const section of snapshot.children) latest.set(section.id, section);
  outdated ||= [...latest.keys()].some((id) => !document.getElementById(id));
  const held = heldBy();
  if (held) updateAround(held);
  else updateAll();
}

function updateAll() {
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  const section = focused?.closest("section, .title");
  for (const [id, fresh] of latest) {
    const old = document.getElementById(id);
    if (old) merge(old, fresh);
  }
  latest.clear();
  // In the whole page: which process has answered is told in its header.
  tellTimes(document, at);
  if (focused && !focused.isConnected) section?.querySelector("[tabindex='-1']")?.focus();
  disarmUnlessThere();
  offerCopies();
}

// While somebody is in a table, nothing on the page moves. Figures change within the room
// that they have, and jobs that are over are paled and can no longer be cancelled.
function updateAround(held) {
  for (const room of live.querySelectorAll(".figures, .charts"))
    room.style.blockSize = `${room.getBoundingClientRect().height}px`;
  for (const figures of live.querySelectorAll(".figures, figure")) {
    const fresh = inLatest(`#${figures.id}`);
    if (fresh) merge(figures, fresh.cloneNode(true), ["style"]);
    tellTimes(figures, at);
  }
  if (latest.has(held.closest("section").id))
    for (const row of held.querySelectorAll("tr[id^='job-']")) paleIfOver(row);
  showHeld(held);
}

function paleIfOver(row) {
  const button = row.querySelector("form.cancel button");
  if (!button || row.classList.contains("over")) return;
  // A job that has started is in another table now, and can be cancelled as before.
  if (inLatest(`#${CSS.escape(row.id)} form.cancel`)) return;
  row.classList.add("over");
  disarm(row.querySelector("form.cancel"));
  button.disabled = true;
}

// The first match among the sections that are not shown yet, or null.
function inLatest(selector) {
  for (const section of latest.values()) {
    const found = section.matches(selector) ? section : section.querySelector(selector);
    if (found) return found;
  }
  return null;
}

holdWhile(live, () => {
  for (const element of live.querySelectorAll(".figures, .charts"))
    element.removeAttribute("style");
  updateAll();
});

// -- cancelling -------------------------------------------------------------------------

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form.cancel")) return;
  event.preventDefault();
  if (!askOnce(form)) return;
  const job = `Job ${form.dataset.job} (${form.dataset.name})`;
  let words = `${job} could not be cancelled: try again, or look at its page`;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
    });
    // A visitor who was logged out is redirected to a login page, which is no answer.
    if (!response.redirected) words = (await response.json()).says ?? words;
  } catch {}
  answer(words);
  // For those who use the keyboard: the focus leaves the row, which may go now.
  if (form.contains(document.activeElement) && document.activeElement.matches(":focus-visible"))
    form.closest("section, .title")?.querySelector("[tabindex='-1']")?.focus();
});

// -- copying ----------------------------------------------------------------------------

// Only where the browser lets a page write to the clipboard: over TLS.
function offerCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll(".copy-text")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy-text");
  if (!button) return;
  try {
    const response = await fetch(button.dataset.text);
    if (!response.ok || response.redirected) throw new Error();
    await navigator.clipboard.writeText(await response.text());
    answer("Copied");
  } catch {
    answer("It could not be copied: open it as plain text");
  }
});

offerCopies();
pauseButton.hidden = false;
connect();
