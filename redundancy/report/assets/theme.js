"use strict";
/* The button that changes between light and dark; the reader's choice is remembered where the browser allows it. */

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  try {
    const chosen = localStorage.getItem("redundancy-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch { /* pages from disk may have no storage */ }
  button.hidden = false;
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    show();
    try { localStorage.setItem("redundancy-theme", root.dataset.theme); } catch { /* as above */ }
  });
})();
