"use strict";
/* Tables that sort when a heading is pressed, hints where something is wider than the screen, details opened for print, and
   the page's own workdir in the command of `export`. */

(() => {
  const value = (cell) => {
    const text = cell.textContent.trim(), number = Number(text.replaceAll(",", "").replace("−", "-"));
    return text === "–" ? Infinity : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true }));

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const each of headings) each.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
        rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  const wide = [...document.querySelectorAll(".scroll, .panel")].map((box) => {
    const hint = document.createElement("p");
    hint.className = "soft hint";
    hint.textContent = "Wider than the screen: scroll it sideways →";
    hint.hidden = true;
    box.before(hint);
    return [box, hint];
  });
  const mark = () => { for (const [box, hint] of wide) hint.hidden = box.scrollWidth <= box.clientWidth + 1; };
  addEventListener("resize", mark);
  for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", mark);
  mark();

  const command = document.getElementById("export"), at = location.pathname.match(/^(.+)\/report\/[^/]+$/);
  if (command && at && location.protocol === "file:") {
    try {
      const folder = decodeURIComponent(at[1]);
      const quoted = /[^\w@%+=:,./-]/.test(folder) ? `'${folder.replaceAll("'", "'\\''")}'` : folder;
      command.textContent = command.textContent.replace("--workdir DIR", () => `--workdir ${quoted}`);
    } catch { /* a path that is no text */ }
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], #tree)")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
