// A cancel is two steps on the same button: the first one arms it for some seconds, and it
// says which job it means. One button is armed at a time.

const ARMED = 5_000; // milliseconds
const NOT_BEFORE = 400; // a double click is one step

let armed = null; // { form, at, timer, words, label }

// Is this the second step? Else the button is armed.
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

// Make it the button that it was.
export function disarm(form) {
  if (!form || armed?.form !== form) return;
  clearTimeout(armed.timer);
  const button = form.querySelector("button");
  button.textContent = armed.words;
  button.setAttribute("aria-label", armed.label);
  button.classList.remove("armed");
  armed = null;
}

// A job that has left the page is not cancelled any more.
export function disarmUnlessThere() {
  if (armed && !armed.form.isConnected) disarm(armed.form);
}

// A key that is held down presses once.
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.target.closest("form.cancel")) event.preventDefault();
});
