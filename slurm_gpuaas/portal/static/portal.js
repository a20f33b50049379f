// Everything works without this file. It lets a secret be copied with one press and leads the eye to what went wrong.
"use strict";

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = button.dataset.copied;
  });
}

const wrong = document.getElementById("alert") ?? document.querySelector("[aria-invalid=true]");
if (wrong) wrong.focus();

// The menu is a <details>: open beside the page, closed above it on a phone.
const menu = document.getElementById("menu");
if (menu) {
  const wide = matchMedia("(min-width: 60rem)");
  const fit = () => { menu.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.open && !wide.matches) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
}
