// A personal link is /enter#TOKEN: what follows the # never leaves the browser by itself. It is exchanged for a cookie
// that scripts cannot read, and is gone from the address bar before anything else happens.
const token = location.hash.slice(1);
history.replaceState(null, "", "/enter");
const said = document.getElementById("said");

function fail(sentence) {
  document.querySelector("h1").textContent = "This did not work";
  said.textContent = sentence;
}

async function enter() {
  if (!token) {
    fail("Please open your complete personal link.");
    return;
  }
  try {
    const answer = await fetch("/api/session", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Advex": "enter" },
      body: JSON.stringify({ token }),
    });
    if (answer.ok) location.replace("/");
    else fail((await answer.json()).error);
  } catch {
    fail("There is no connection. Open the link again in a moment.");
  }
}

enter();
