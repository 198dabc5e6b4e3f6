// While a pointer, a finger or the focus is in the rows of a table, they do not move, or a
// click might hit another row than was meant. But not forever: a mouse that was left there
// no longer holds them once it has not moved for some seconds.

const AFTER_TOUCH = 8_000; // milliseconds that a finger's last touch holds
const AFTER_MOVE = 10_000; // and a mouse's last move

let pointed = null; // the rows that the mouse is in
let touched = null; // those that a finger was on last
let focused = null; // those that the keyboard's focus is in
let touching = 0;
let moving = 0;
let held = null;

// The rows that somebody is in, or null.
export function heldBy() {
  for (const rows of [pointed, touched, focused])
    if (rows?.isConnected) return rows;
  return null;
}

// Say beside the table that its rows are held.
export function showHeld(rows) {
  if (held !== rows) held?.closest("table")?.classList.remove("is-held");
  held = rows;
  held?.closest("table")?.classList.add("is-held");
}

// Watch what happens in `live`; call `release` when nothing is held any longer.
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

  // A row that moves under a resting mouse is no move of the mouse.
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
    // Not focus that comes from a mouse click: the mouse holds the rows while it is there.
    focused = event.target.matches(":focus-visible") ? rowsOf(event) : null;
    changed();
  });
  live.addEventListener("focusout", () => {
    focused = null;
    queueMicrotask(changed);
  });
}
