/* Finds images of redundant groups by their names, and shows an image's group. The names are in the classes on the page, in
   a file beside it that is loaded at the first search, or, where they are too many, in the class that is open. */

const FOUND = 20; // images that are listed

// Letters with accents are written in two ways, of which macOS takes the other one for names of files.
const fold = (text) => text.normalize().toLocaleLowerCase();
const lowered = (label, rows, names) => ({ label, rows, names, low: names.map(fold) });
const namesOf = (data) => lowered(data.label, [...data.files.keys()], [...data.files.values()]);
const names = { all: null };

window.redundancyNames = (raw) => names.done(raw.map((of) =>
  lowered(of.label, unpack(of.rows, of.index), of.names.map((name) => of.prefix + name))));

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
    button.addEventListener("click", () => openClass(label, row));
    return element("li", {}, button);
  }));
  byId("images-found").hidden = !text;
  byId("images-found").textContent = text;
}

function showAll() {
  state.row = null;
  showClass();
}

async function findImage() {
  const wanted = fold(byId("find-image").value.trim());
  if (!wanted) {
    showImages([], "");
    return showAll();
  }
  const where = index.search === "class" ? " of the class that is open (the other classes lie in files of their own)" : "";
  let all;
  try {
    all = await loadNames();
  } catch {
    return showImages([], `The file ${index.search} with the names is missing: it lies beside this page.`);
  }
  if (wanted !== fold(byId("find-image").value.trim())) return;
  const exact = [], others = [];
  for (const { label, rows, names, low } of all)
    low.forEach((name, i) => {
      if (!name.includes(wanted)) return;
      const isWhole = name === wanted || name.endsWith(`/${wanted}`);
      (isWhole ? exact : others).push({ label, row: rows[i], name: names[i] });
    });
  const matches = [...exact, ...others];
  const listed = matches.length > FOUND ? `, the first ${FOUND} listed` : "";
  showImages(matches, matches.length
    ? `${count(matches.length, "image")} found${listed}${where}.`
    : `No image in a redundant group${where} has this in its name. Images that are in no group at any fraction here are kept, and are not searched.`);
  const one = exact.length === 1 ? exact[0] : matches.length === 1 ? matches[0] : null;
  if (one) openClass(one.label, one.row);
}

/* What becomes of the image that was looked for, at the slider's fraction. */
function showSought() {
  const { data, row, list } = state, [group] = list;
  for (const button of byId("images").querySelectorAll("button"))
    button.setAttribute("aria-current", button.dataset.image === `${data.label} ${row}` ? "true" : "false");
  byId("sought").hidden = row === null;
  if (row === null) return;
  const name = named(data, row), at = percent(data.cuts[state.cut].fraction);
  let text = `${name} is in no group at ${at} kept, so it stays.`;
  if (!group && data.goes.has(row)) text += ` It goes at ${percent(data.goes.get(row))} kept.`;
  if (group) text = group.rows[0] === row
    ? `${name} is kept at ${at}, and stands for ${count(group.size - 1, "other image")} of its group.`
    : `${name} goes at ${at} kept: ${named(data, group.rows[0])} of its group stands for it.`;
  byId("sought-text").textContent = text;
  byId("cards").querySelector(`[data-position="${data.positions[row]}"]`)?.closest(".shot").classList.add("sought");
}

byId("find-image").addEventListener("input", findImage);
byId("all-groups").addEventListener("click", showAll);
byId("class-view").addEventListener("shown", showSought);
