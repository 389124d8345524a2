// The choice of colours, kept in this browser. The style sheet does the rest.
const kept = localStorage.getItem("advex-theme");
const inputs = [...document.querySelectorAll('input[name="theme"]')];
for (const input of inputs) {
  input.checked = input.value === (kept ?? "auto");
  input.addEventListener("change", () => localStorage.setItem("advex-theme", input.value));
}
