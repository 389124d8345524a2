// Keys, by what is printed on them, or by where they are: digits and letters lie elsewhere on some keyboards.
const KEPT = "advex-keys";
const PLACES = { Digit1: 1, Digit2: 2, Digit3: 3, Numpad1: 1, Numpad2: 2, Numpad3: 3, KeyU: "u", KeyD: "d", KeyO: "o" };

export function listen({ answer, undo, difference, original, larger, smaller }) {
  const acts = {
    1: () => answer("unchanged"),
    2: () => answer("unsure"),
    3: () => answer("changed"),
    ArrowLeft: () => answer("unchanged"),
    ArrowDown: () => answer("unsure"),
    ArrowRight: () => answer("changed"),
    u: undo,
    d: difference,
    o: original,
    "+": larger,
    "=": larger,
    "-": smaller,
  };
  const on = choice();
  addEventListener("keydown", (event) => {
    if (!on() || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    // Arrows choose among the colours, and move a zoomed picture.
    const own = event.key.startsWith("Arrow") && event.target.closest?.("input, .frame[tabindex]");
    const act = acts[event.key] ?? acts[event.key.toLowerCase()] ?? acts[PLACES[event.code]];
    if (own || act === undefined) return;
    event.preventDefault();
    act();
  });
}

// Single keys get in the way of those who speak to their computer. Returns what tells whether they are on.
function choice() {
  const button = document.getElementById("keys");
  let on = localStorage.getItem(KEPT) !== "off";
  const show = () => {
    button.setAttribute("aria-pressed", String(on));
    document.getElementById("page").classList.toggle("keyless", !on);
  };
  button.addEventListener("click", () => {
    on = !on;
    localStorage.setItem(KEPT, on ? "on" : "off");
    show();
  });
  show();
  return () => on;
}
