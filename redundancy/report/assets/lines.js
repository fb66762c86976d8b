"use strict";
/* Figure 2 with many methods: buttons choose the lines that stand out; the rest is faint. Pointing at a button shows its line. */

(() => {
  const box = document.getElementById("lines");
  if (!box) return;
  const figure = box.closest("figure");
  const buttons = [...box.querySelectorAll("button[data-line]")];
  const parts = (number) => figure.querySelectorAll(`[id^="figure2-line${number}-"]`);
  const on = (button) => button.getAttribute("aria-pressed") === "true";
  const show = (pointed) => {
    const none = !buttons.some(on);
    for (const button of buttons) {
      const faint = pointed ? button !== pointed : !on(button) && !none;
      for (const part of parts(button.dataset.line)) part.classList.toggle("faint", faint);
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => { button.setAttribute("aria-pressed", String(!on(button))); show(); });
    for (const [begin, end] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
      button.addEventListener(begin, () => show(button));
      button.addEventListener(end, () => show());
    }
  }
  box.hidden = false;
  show();
})();
