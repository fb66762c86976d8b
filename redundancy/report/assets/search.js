/* Finds images by their names or positions, and shows an image's group. Both are in the classes on the page, in a file
   beside it that is loaded at the first search, or, where they are too many, in the class that is open. */

const FOUND = 20; // images that are listed

const lowered = (label, positions, rows, names) => ({ label, positions, rows, names, low: names.map(fold) });
const namesOf = (data) => lowered(data.label, data.positions, [...data.files.keys()], [...data.files.values()]);
const names = { all: null };

window.redundancyNames = (raw) => names.done(raw.map((of) => lowered(of.label, unpack(of.positions, "<u4"),
  of.files ? unpack(of.files.rows, of.index) : [], of.files ? of.files.names.map((name) => of.files.prefix + name) : [])));

function loadNames() {
  if (index.search === "class") return Promise.resolve(state.data ? [namesOf(state.data)] : []);
  names.all ??= index.search === "page"
    ? Promise.all(index.classes.map(async (each) => namesOf(await loadClass(each.label))))
    : new Promise((done, fail) => {
      names.done = done;
      const script = element("script", { src: index.search });
      script.addEventListener("error", () => { names.all = null; fail(new Error("missing")); });
      document.head.append(script);
    });
  return names.all;
}

function showImages(matches, text) {
  byId("images").hidden = !matches.length;
  byId("images").replaceChildren(...matches.slice(0, FOUND).map(({ label, row, name }) => {
    const button = element("button", { type: "button", "data-image": `${label} ${row}` }, element("bdi", {}, name));
    button.addEventListener("click", async () => { await openClass(label, row); showAnswer(); });
    return element("li", {}, button);
  }));
  byId("images-found").hidden = !text;
  byId("images-found").textContent = text;
}

/* Leaves the image that was looked for, also one whose class is still being loaded. */
function showAll() {
  const { data, row, wanted } = state;
  if (data && (row !== null || wanted !== data.label)) openClass(data.label);
}

/* The image of a position, if there is one; then those with this whole name, and those with it in their names. */
function matchesOf(all, wanted, position) {
  const placed = [], exact = [], others = [];
  for (const { label, positions, rows, names, low } of all) {
    const at = positions.indexOf(position), file = names[rows.indexOf(at)];
    if (at >= 0) placed.push({ label, row: at, name: `position ${position}${file === undefined ? "" : ` · ${file}`}` });
    low.forEach((name, i) => {
      if (rows[i] === at || !name.includes(wanted)) return;
      const isWhole = name === wanted || name.endsWith(`/${wanted}`);
      (isWhole ? exact : others).push({ label, row: rows[i], name: names[i] });
    });
  }
  return { placed, exact, others };
}

/* What the search says: how many images it found, and why it found no position or no image. */
function toldOf({ placed, exact, others }, position) {
  const number = placed.length + exact.length + others.length, inClass = index.search === "class";
  const where = inClass ? " of the class that is open (the other classes lie in files of their own)" : "";
  const complete = index.classes.reduce((sum, each) => sum + each.images, 0) === index.images;
  const said = number ? [`${count(number, "image")} found${number > FOUND ? `, the first ${FOUND} listed` : ""}${where}.`] : [];
  if (position >= 0 && !placed.length)
    said.push(`No training image${where || (complete ? "" : " of the classes listed here")} has position ${position}.`);
  if (!number && index.named)
    said.push(`Not found among the names of the images of redundant groups${where}. A training image that is in no group is kept` +
      `${index.kept ? ` (${index.kept} lists the names)` : ""}; or the name is misspelt, or the image was held out` +
      `${complete ? "" : ", or its class is not listed here"}.`);
  else if (!number && position < 0) said.push("Images have no names here: look for a position.");
  return said.join(" ");
}

/* Lists the images that are looked for; opens the one that is meant, unless the address says what is open. */
async function findImage(opening = true) {
  const wanted = fold(byId("find-image").value.trim());
  const show = (matches, text, one) => {
    showImages(matches, text);
    if (opening && one) return openClass(one.label, one.row);
    return opening ? showAll() : undefined;
  };
  if (!wanted) return show([], "");
  let all;
  try {
    all = await loadNames();
  } catch {
    return show([], `The file ${index.search} with the names is missing: it lies beside this page.`);
  }
  if (wanted !== fold(byId("find-image").value.trim())) return;
  const position = /^\d+$/.test(wanted) ? Number(wanted) : -1;
  const found = matchesOf(all, wanted, position), { placed, exact, others } = found;
  const meant = [...placed, ...exact], matches = [...meant, ...others];
  const one = meant.length === 1 ? meant[0] : matches.length === 1 ? matches[0] : null;
  return show(matches, toldOf(found, position), one);
}

/* What becomes of the image that was looked for, at the slider's fraction. */
function showSought() {
  const { data, row, list } = state, [group] = list;
  for (const button of byId("images").querySelectorAll("button"))
    button.setAttribute("aria-current", button.dataset.image === `${data.label} ${row}` ? "true" : "false");
  byId("sought").hidden = row === null;
  if (row === null) return;
  const name = data.files.get(row) ?? `The image of position ${data.positions[row]}`, at = percent(data.cuts[state.cut].fraction);
  let text = `${name} is in no group at ${at} kept, so it stays.`;
  if (!group && data.goes.has(row)) text += ` It goes at ${percent(data.goes.get(row))} kept.`;
  if (group) text = group.rows[0] === row
    ? `${name} is kept at ${at}, and stands for ${count(group.size - 1, "other image")} of its group.`
    : `${name} goes at ${at} kept: ${named(data, group.rows[0])} of its group stands for it.`;
  byId("sought-text").textContent = text;
  byId("cards").querySelector(`[data-position="${data.positions[row]}"]`)?.closest(".shot").classList.add("sought");
}

byId("find-image").addEventListener("input", () => findImage());
byId("find-image").addEventListener("keydown", async (event) => {
  if (event.key !== "Enter") return;
  await findImage();
  if (byId("images").querySelector("[aria-current=true]")) showAnswer();
  else byId("images").querySelector("button")?.click();
});
byId("all-groups").addEventListener("click", showAll);
byId("class-view").addEventListener("shown", showSought);
