// While a pointer, a finger or the focus is in the rows of a table, they do not move: else
// a click may hit another one than was meant.

const AFTER_TOUCH = 8_000; // milliseconds that a finger's last touch holds

let pointed = null; // the rows that the mouse is in
let touched = null; // those that a finger was on last
let focused = null; // those that the keyboard's focus is in
let touching = 0;
let held = null;

// The part of the page that holds it, or null.
export function heldBy() {
  for (const rows of [pointed, touched, focused])
    if (rows?.isConnected) return rows;
  return null;
}

// Say so beside the table.
export function showHeld(rows) {
  if (held !== rows) held?.closest("table")?.classList.remove("is-held");
  held = rows;
  held?.closest("table")?.classList.add("is-held");
}

// Watch what is in `live`; call `release` when nothing holds it any more.
export function holdWhile(live, release) {
  function changed() {
    const rows = heldBy();
    if (rows || !held) return;
    showHeld(null);
    release();
  }
  const rowsOf = (event) => event.target.closest?.("tbody") ?? null;

  live.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse" && event.pointerType !== "pen") return;
    pointed = rowsOf(event);
    changed();
  });
  live.addEventListener("pointerleave", () => {
    pointed = null;
    changed();
  });
  document.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    clearTimeout(touching);
    touched = live.contains(event.target) ? rowsOf(event) : null;
    touching = setTimeout(() => {
      touched = null;
      changed();
    }, AFTER_TOUCH);
    changed();
  });
  live.addEventListener("focusin", (event) => {
    // Not what a mouse has clicked: that one holds by itself while it is there.
    focused = event.target.matches(":focus-visible") ? rowsOf(event) : null;
    changed();
  });
  live.addEventListener("focusout", () => {
    focused = null;
    queueMicrotask(changed);
  });
}
