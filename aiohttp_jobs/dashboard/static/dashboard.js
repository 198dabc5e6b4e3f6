// Keeps the page up to date by the snapshots of its stream. Without this script the page
// shows the same, and is reloaded by hand.

const live = document.getElementById("live");
const statusLine = document.getElementById("status");
const pauseButton = document.getElementById("pause");
const RETRY = 10_000; // milliseconds, when the server has refused the stream

let source = null;
let paused = false;
let retry = 0;
let state = "";
let answering = 0;

function show(text) {
  // Only what has changed is read out.
  if (statusLine.textContent !== text) statusLine.textContent = text;
}

// Say how the page stands.
function say(text) {
  state = text;
  if (!answering) show(state);
}

// Say for some seconds what has come of a click.
function answer(text) {
  clearTimeout(answering);
  show(text);
  answering = setTimeout(() => {
    answering = 0;
    show(state);
  }, 4000);
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
    say("Live");
  });
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return say("Not connected: trying again");
    say("No live updates: trying again soon, or reload the page");
    retry = setTimeout(connect, RETRY);
  });
}

// A tab that nobody sees costs the server nothing.
document.addEventListener("visibilitychange", connect);
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && connect());

pauseButton.addEventListener("click", () => {
  paused = !paused;
  pauseButton.textContent = paused ? "Go on" : "Pause";
  connect();
});

// -- snapshots --------------------------------------------------------------------------

function update(html) {
  const { body } = new DOMParser().parseFromString(html, "text/html");
  // Who has answered stands elsewhere, and is another process after a restart.
  const process = body.querySelector("#process");
  if (process) merge(document.getElementById("process"), process);
  process?.remove();
  const fresh = live.cloneNode(false);
  fresh.append(...body.childNodes);
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  const section = focused?.closest("section, .title");
  merge(live, fresh);
  if (focused && !focused.isConnected) section?.querySelector("[tabindex='-1']")?.focus();
}

// Change `old` into `fresh`, and keep what is equal: the focus and the selection stay.
function merge(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const kept = new Set([...fresh.children].map((child) => child.id));
  const known = new Map();
  for (const child of [...old.children])
    if (child.id && !kept.has(child.id)) child.remove();
    else if (child.id) known.set(child.id, child);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    let same = known.get(child.id);
    if (!child.id && at && !at.id && at.nodeName === child.nodeName) same = at;
    if (!same) {
      old.insertBefore(child, at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else old.insertBefore(same, at);
    merge(same, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// -- cancelling -------------------------------------------------------------------------

live.addEventListener("submit", async (event) => {
  const form = event.target;
  event.preventDefault();
  let words = "could not be cancelled";
  try {
    const response = await fetch(form.action, { method: "POST" });
    // It led to the job's page, and not to a log-in. Behind a proxy another process may
    // have answered that, which does not know the job.
    if (response.url === form.action.replace(/\/cancel$/, "")) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      words = page.querySelector(".facts .word")?.textContent ?? "being cancelled";
    }
  } catch {}
  answer(`The job: ${words}`);
});

pauseButton.hidden = false;
connect();
