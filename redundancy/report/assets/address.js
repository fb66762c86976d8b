/* The view in the page's address: class, fraction, orders, searches and image. A reload, or a link, opens the same. */

const FIELDS = { find: "find", "list-order": "list", order: "groups", "find-image": "name" }; // ids of controls: names in the address
const opening = new Map(Object.keys(FIELDS).map((id) => [id, byId(id).value]));
let written = ""; // class and image of the last entry of the history
let reading = true, read = 0; // times that the address was read

function viewNow() {
  const view = new URLSearchParams({ class: state.data.label, kept: state.data.cuts[state.cut].fraction });
  for (const [id, name] of Object.entries(FIELDS)) if (byId(id).value !== opening.get(id)) view.set(name, byId(id).value);
  if (state.row !== null) view.set("image", state.data.positions[state.row]);
  return `#view?${view}`;
}

/* Another class or image is an entry of its own in the history; a change of the rest is not. */
function writeAddress() {
  if (reading || !state.data) return;
  const place = `${state.data.label} ${state.row}`, view = viewNow();
  const change = written !== place;
  written = place;
  if (view !== location.hash) history[change ? "pushState" : "replaceState"](null, "", view);
}

async function readAddress() {
  const number = ++read;
  const [head, text] = location.hash.split(/\?(.*)/s);
  if (head !== "#view" && head !== "" && state.data) return;
  const view = new URLSearchParams(head === "#view" ? text : "");
  const cut = index.cuts.findIndex((each) => Math.abs(each.fraction - Number(view.get("kept"))) < 5e-5);
  byId("fraction").value = index.cuts.length - 1 - (view.has("kept") && cut >= 0 ? cut : index.main);
  for (const [id, name] of Object.entries(FIELDS)) byId(id).value = view.get(name) ?? opening.get(id);
  const known = index.classes.find((each) => String(each.label) === view.get("class"));
  const label = known ? known.label : firstLabel();
  const data = view.has("image") ? await loadClass(label).catch(() => null) : null;
  if (number !== read) return;
  const row = data ? data.positions.indexOf(Number(view.get("image"))) : -1;
  written = `${label} ${row < 0 ? null : row}`;
  reading = true;
  state.data = null;
  moveSlider();
  await openClass(label, row < 0 ? null : row);
  if (number !== read) return;
  if (byId("find-image").value) await findImage(false);
  else showImages([], "");
  if (number !== read) return;
  reading = false;
  if (head === "#view") showAnswer();
}

/* A link on the page leads to a class or an image; the orders that were chosen stay. */
function keepOrders(link) {
  const view = new URLSearchParams(link.hash.slice("#view?".length));
  for (const id of ["list-order", "order"]) view.set(FIELDS[id], byId(id).value);
  link.hash = `#view?${view}`;
}

for (const link of document.querySelectorAll("a[href^='#view?']")) link.addEventListener("click", () => keepOrders(link));
byId("class-view").addEventListener("shown", writeAddress);
for (const id of ["find", "list-order"]) byId(id).addEventListener("change", writeAddress);
addEventListener("popstate", readAddress);
startBrowser();
readAddress();
