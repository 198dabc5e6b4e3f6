// Turn `old` into `fresh`, keeping the nodes that are equal, so focus and selection stay.
export function merge(old, fresh, keep = []) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = fresh.data;
    return;
  }
  // The button of a job may be armed, see arming.js.
  if (isSameForm(old, fresh)) return;
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !keep.includes(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const kept = new Set([...fresh.children].map((child) => child.id));
  const known = new Map();
  for (const child of [...old.children])
    if (child.id && !kept.has(child.id)) child.remove();
    else if (child.id) known.set(child.id, child);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    // White space may be missing on one side. Remove it here instead of moving elements,
    // which would lose the focus.
    while (at?.nodeType === Node.TEXT_NODE && !at.data.trim() && at.nodeName !== child.nodeName) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
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

function isSameForm(old, fresh) {
  return (
    old.nodeName === "FORM" &&
    fresh.nodeName === "FORM" &&
    old.getAttribute("action") === fresh.getAttribute("action") &&
    !old.querySelector("button")?.disabled
  );
}
