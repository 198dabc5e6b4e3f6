// While a pointer, a finger or the focus is in the rows of a table, they do not move: else
// a click may hit another one than was meant. Not for ever: a mouse that was left there
// holds them until it has not moved for some seconds.

const AFTER_TOUCH = 8_000; // milliseconds that a finger's last touch holds
const AFTER_MOVE = 10_000; // and a mouse's last move

let pointed = null; // the rows that the mouse is in
let touched = null; // those that a finger was on last
let focused = null; // those that the keyboard's focus is in
let touching = 0;
let moving = 0;
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

  function point(rows) {
    clearTimeout(moving);
    pointed = rows;
    if (rows) moving = setTimeout(() => point(null), AFTER_MOVE);
    changed();
  }
  const isMouse = (event) => event.pointerType === "mouse" || event.pointerType === "pen";

  // A row that moves to where the mouse is, when it holds nothing any more, is no move.
  let last = "";
  for (const name of ["pointerover", "pointermove", "pointerdown"])
    live.addEventListener(name, (event) => {
      const at = `${event.clientX},${event.clientY}`;
      if (!isMouse(event) || (name === "pointerover" && at === last)) return;
      last = at;
      point(rowsOf(event));
    });
  live.addEventListener("pointerleave", () => point(null));
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
