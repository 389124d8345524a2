// Looks again every few seconds, and replaces what is shown only where something changed: nothing jumps while one reads.
const PERIOD = 4000;
const saved = document.getElementById("saved");

async function look() {
  try {
    const answer = await fetch("/owner/live");
    if (!answer.ok) throw new Error();
    const live = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    const shown = document.getElementById("live");
    if (live.dataset.state !== shown.dataset.state) shown.replaceWith(document.adoptNode(live));
    saved.textContent = "live";
    saved.className = "pill good";
  } catch {
    saved.textContent = "no connection";
    saved.className = "pill waiting";
  }
  setTimeout(look, PERIOD);
}

// Whoever asked pictures in another window of this browser does so no longer: see annotate.js.
localStorage.setItem("advex-here", "owner");
look();
