// Runs the experiment and the steps of the tour without leaving the page. The pages also
// work without this script: then the forms lead to pages that reload themselves.

const EVERY = 250; // milliseconds between two requests for the progress
const PATIENCE = 15000; // milliseconds to wait until a killed server is back

const section = () => document.getElementById("experiment");

function say(words, look = "hidden") {
  const status = document.getElementById("status");
  status.className = look;
  if (status.textContent !== words) status.textContent = words;
}

// Show an error visibly, not only to screen readers.
function complain(error) {
  // The text of a 403 response is a complete sentence to show.
  const words = error?.message?.startsWith("403: ") ? error.message.slice(5) : "";
  say(words || "The server does not answer any more. Is it still running?", "toast");
}

async function show(response) {
  const text = await response.text();
  const page = new DOMParser().parseFromString(text, "text/html");
  const hadFocus = section().contains(document.activeElement);
  section().replaceWith(page.getElementById("experiment"));
  // The element that had the focus is gone: focus something in the same place.
  const wrong = section().querySelector("[aria-invalid]");
  if (hadFocus) (wrong ?? section().querySelector("h2")).focus();
}

async function follow() {
  while (section()?.hasAttribute("data-running")) {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    const response = await fetch("/experiment/progress");
    // After a kill, the next server knows nothing of this experiment.
    const now = response.ok ? await response.json() : { over: true };
    if (now.over) {
      await show(await fetch("/experiment"));
      say(document.getElementById("verdict")?.textContent.replace(/\s+/g, " ") ?? "");
    } else {
      const bar = document.getElementById("progress");
      bar.max = now.total;
      bar.value = now.done;
      document.getElementById("count").textContent = `${now.done} of ${now.total} orders`;
      // At most four announcements from a screen reader along the way.
      const quarter = Math.floor((4 * now.done) / now.total);
      if (quarter > 0) say(`Experiment: ${quarter * 25} % done`);
    }
  }
}

const parse = async (response) =>
  new DOMParser().parseFromString(await response.text(), "text/html");

const pause = () => new Promise((resolve) => setTimeout(resolve, EVERY));

// Fetch, and try again if the server dies meanwhile: there will be another one.
async function persist(...request) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    try {
      return await fetch(...request);
    } catch (error) {
      if (Date.now() > end) throw error;
      await pause();
    }
  }
}

// Replace the status of a step with the fresh one.
function renew(id, page) {
  const now = document.getElementById(id);
  const fresh = page.getElementById(id);
  if (fresh === null) return null;
  if (now.contains(document.activeElement)) {
    now.closest("section").querySelector("h2").focus({ preventScroll: true });
  }
  now.replaceWith(fresh);
  return fresh;
}

const followed = new Set();

async function followStep(id) {
  if (followed.has(id)) return;
  followed.add(id);
  try {
    let now = document.getElementById(id);
    while (now?.hasAttribute("data-running")) {
      await pause();
      now = renew(id, await parse(await persist(now.dataset.now)));
      if (now && !now.hasAttribute("data-running")) tell(now);
    }
  } finally {
    followed.delete(id);
  }
}

const tell = (now) => say(now.querySelector("p").textContent.replace(/\s+/g, " ").trim());

async function takeStep(form) {
  const id = form.closest("section").querySelector(".now").id;
  const body = new URLSearchParams(new FormData(form));
  let response;
  try {
    response = await fetch(form.action, { method: "POST", body });
  } catch {
    // The server may have died before it answered: ask the next one for the status.
    response = await persist(document.getElementById(id).dataset.now);
  }
  if (!response.ok) throw new Error(await response.text());
  const now = renew(id, await parse(response));
  if (now) tell(now);
  await followStep(id);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.matches("[data-step]")) {
    event.preventDefault();
    await takeStep(form).catch(complain);
    return;
  }
  if (!form.matches("[data-experiment]")) return;
  event.preventDefault();
  try {
    const body = new URLSearchParams(new FormData(form));
    await show(await fetch(form.action, { method: "POST", body }));
    say(section().hasAttribute("data-running") ? "The experiment has begun." : "");
    await follow();
  } catch {
    complain();
  }
});

follow().catch(complain);
for (const now of document.querySelectorAll(".now[data-running]")) {
  followStep(now.id).catch(complain);
}
