// Cancelling takes two presses of the same button: the first arms it for some seconds, while
// it says which job it would cancel. One button is armed at a time.

const ARMED = 5_000; // milliseconds
const NOT_BEFORE = 400; // a double click is one step

let armed = null; // { form, at, timer, words, label }

// Returns whether this is the second press; if not, arms the button.
export function askOnce(form) {
  const now = performance.now();
  if (armed?.form === form) {
    if (now - armed.at < NOT_BEFORE) return false;
    disarm(form);
    return true;
  }
  disarm(armed?.form);
  const button = form.querySelector("button");
  const { job, name } = form.dataset;
  armed = {
    form,
    at: now,
    timer: setTimeout(() => disarm(form), ARMED),
    words: button.textContent,
    label: button.getAttribute("aria-label"),
  };
  button.textContent = `Cancel ${job}?`;
  button.setAttribute("aria-label", `Cancel job ${job}, ${name}? Press again to cancel it`);
  button.classList.add("armed");
  return false;
}

// Turn the button back into what it was.
export function disarm(form) {
  if (!form || armed?.form !== form) return;
  clearTimeout(armed.timer);
  const button = form.querySelector("button");
  button.textContent = armed.words;
  button.setAttribute("aria-label", armed.label);
  button.classList.remove("armed");
  armed = null;
}

// Once a job has left the page, its button cannot be pressed a second time.
export function disarmUnlessThere() {
  if (armed && !armed.form.isConnected) disarm(armed.form);
}

// A key that is held down counts as one press.
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.target.closest("form.cancel")) event.preventDefault();
});
