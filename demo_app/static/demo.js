// Runs the experiment without leaving the page. The pages work without this script too:
// then the form leads to a page that reloads itself.

const EVERY = 250; // milliseconds between two looks at the progress

const section = () => document.getElementById("experiment");

function say(words) {
  const status = document.getElementById("status");
  if (status.textContent !== words) status.textContent = words;
}

// For all to see, not only to be read aloud.
function complain() {
  document.getElementById("status").classList.replace("hidden", "toast");
  say("The server does not answer any more. Is it still running?");
}

async function show(response) {
  const text = await response.text();
  const page = new DOMParser().parseFromString(text, "text/html");
  const hadFocus = section().contains(document.activeElement);
  section().replaceWith(page.getElementById("experiment"));
  // What had the focus is gone: keep its place in the page.
  const wrong = section().querySelector("[aria-invalid]");
  if (hadFocus) (wrong ?? section().querySelector("h2")).focus();
}

async function follow() {
  while (section()?.hasAttribute("data-running")) {
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    const now = await (await fetch("/experiment/progress")).json();
    if (now.over) {
      await show(await fetch("/experiment"));
      say(document.getElementById("verdict")?.textContent.replace(/\s+/g, " ") ?? "");
    } else {
      const bar = document.getElementById("progress");
      bar.max = now.total;
      bar.value = now.done;
      document.getElementById("count").textContent = `${now.done} of ${now.total} orders`;
      // Not more than four words from a screen reader on the way.
      const quarter = Math.floor((4 * now.done) / now.total);
      if (quarter > 0) say(`Experiment: ${quarter * 25} % done`);
    }
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
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
