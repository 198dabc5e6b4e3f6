// How long ago things were, in the words of words.py: the server renders them once, and
// this keeps them up to date.

const WORDS = { ago, duration, roughly };

// Write each time in `root` as seen from this moment, in seconds since 1970.
export function tellTimes(root, at) {
  for (const element of root.querySelectorAll("[data-since]")) {
    // By another worker's clock it may be a little later.
    const seconds = Math.max(0, at - Number(element.dataset.since));
    const words = WORDS[element.dataset.as](seconds);
    if (element.textContent !== words) element.textContent = words;
  }
}

export function ago(seconds) {
  if (seconds < 1) return "just now";
  return seconds < 59.5 ? `${seconds.toFixed(0)} s ago` : `${roughly(seconds + 0.5)} ago`;
}

export function roughly(seconds) {
  if (seconds < 60) return "less than a minute";
  const minutes = Math.trunc(seconds / 60);
  return minutes < 60 ? `${minutes} min` : duration(minutes * 60);
}

export function duration(seconds) {
  if (seconds < 0.9995) {
    const milliseconds = seconds * 1000;
    return `${milliseconds.toFixed(milliseconds < 9.95 ? 1 : 0)} ms`;
  }
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.trunc(whole / 60);
  if (minutes < 60) return `${minutes} min ${twoDigits(whole % 60)} s`;
  const hours = Math.trunc(minutes / 60);
  if (hours < 24) return `${hours} h ${twoDigits(minutes % 60)} min`;
  return `${Math.trunc(hours / 24)} d ${twoDigits(hours % 24)} h`;
}

function twoDigits(number) {
  return String(number).padStart(2, "0");
}
