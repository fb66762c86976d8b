"use strict";
/* The class browser: which images go at each fraction. Reads JSON that the page holds, or loads a class's own file.
   Everything from outside enters the page as text. */

const index = JSON.parse(document.getElementById("index").textContent);
const PAGE = 24; // cards added at a time
const ROUNDING = 1e-12; // dissimilarities below this are those of identical images
const LISTED = 60; // positions that a card without pictures lists
const byId = (id) => document.getElementById(id);

/* An element with attributes and children; a child that is no element is text. */
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

const whole = (number) => number.toLocaleString("en-US");
const count = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const spell = (number) => (number === null ? "–" : small(number));
const percent = (share) => `${+(100 * share).toFixed(2)}%`;
/* A dissimilarity with three significant digits, as in the tables. */
function small(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < ROUNDING) return "0";
  if (value >= 1e-4) return value.toPrecision(3);
  return value.toExponential(2).replace("e-", "e−");
}

function unpack(text, kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new { "<u2": Uint16Array, "<u4": Uint32Array, "<f4": Float32Array }[kind](bytes.buffer);
}

/* One fraction of a class: its groups, each with the rows of its images, the kept one first. */
function unpackCut(raw, type) {
  const [rows, sizes, outside] = ["rows", "sizes", "outside"].map((name) => unpack(raw[name], type));
  const [distances, heights, outsideDistance, own, second] =
    ["distances", "heights", "outside_distance", "own", "second"].map((name) => unpack(raw[name], "<f4"));
  const groups = [];
  let start = 0;
  sizes.forEach((size, number) => {
    const inGroup = distances.subarray(start, start + size);
    groups.push({
      rows: rows.subarray(start, start + size), distances: inGroup, size, height: heights[number],
      spread: inGroup.reduce((most, each) => Math.max(most, each)), described: number < raw.pictured,
      outside: outside[number], outsideDistance: outsideDistance[number], own: own[number], second: second[number],
    });
    start += size;
  });
  return { fraction: raw.fraction, kept: raw.kept, groups };
}

function unpackClass(raw) {
  const found = {
    label: raw.label, name: raw.name, images: raw.images, shown: raw.shown, positions: unpack(raw.positions, "<u4"),
    cuts: raw.cuts.map((cut) => unpackCut(cut, raw.index)), pictures: new Map(), goes: new Map(), files: new Map(),
    merges: null,
  };
  unpack(raw.pictures.rows, raw.index).forEach((row, i) => found.pictures.set(row, raw.pictures.data[i]));
  if (raw.files)
    unpack(raw.files.rows, raw.index).forEach((row, i) => found.files.set(row, raw.files.prefix + raw.files.names[i]));
  // Largest fraction at which an image goes: fractions descend, so the first one met stays.
  for (const cut of found.cuts)
    for (const group of cut.groups)
      for (const row of group.rows.subarray(1)) if (!found.goes.has(row)) found.goes.set(row, cut.fraction);
  // Pictures that were chosen for one group may show another one too.
  for (const cut of found.cuts) {
    for (const group of cut.groups)
      group.pictured = group.described ||
        (found.pictures.has(group.rows[0]) && group.rows.subarray(1, found.shown).some((row) => found.pictures.has(row)));
    cut.pictured = cut.groups.filter((group) => group.pictured).length;
  }
  if (raw.merges)
    found.merges = {
      left: unpack(raw.merges.left, raw.index), right: unpack(raw.merges.right, raw.index),
      heights: unpack(raw.merges.heights, "<f4"),
    };
  return found;
}

const loaded = new Map();
const arriving = new Map();
window.redundancyClass = (raw) => arriving.get(raw.label)?.(unpackClass(raw));

/* A class, of this page or of a file beside it. A file, not fetch(), which pages opened from disk may not use. */
function loadClass(label) {
  if (!loaded.has(label)) {
    const inside = byId(`class-${label}`);
    loaded.set(label, inside ? Promise.resolve(unpackClass(JSON.parse(inside.textContent))) : new Promise((done, fail) => {
      arriving.set(label, done);
      const script = element("script", { src: index.classes.find((each) => each.label === label).file });
      script.addEventListener("error", () => { loaded.delete(label); fail(new Error("missing")); });
      document.head.append(script);
    }));
  }
  return loaded.get(label);
}

const state = { data: null, cut: index.main, more: PAGE, list: [], row: null }; // row: of an image that was looked for

function pictureSource(data, row) {
  const base64 = data.pictures.get(row);
  return base64 === undefined ? null : `data:image/${index.kind === "png" ? "png" : "webp"};base64,${base64}`;
}

/* An image's file, and from which fraction on it goes. */
function told(data, row) {
  const file = data.files.has(row) ? `, ${data.files.get(row)}` : "";
  return file + (data.goes.has(row) ? `, goes at ${percent(data.goes.get(row))} kept` : "");
}

const called = (data, row) => data.files.get(row) ?? `position ${data.positions[row]}`;
const named = (data, row) => data.files.get(row) ?? String(data.positions[row]);

/* The last part of an image's name. */
const shortName = (data, row) => (data.files.has(row) ? data.files.get(row).split("/").pop() : String(data.positions[row]));

/* An image with its role, its dissimilarity to the kept one, and its name. */
function shot(data, row, role, kept, distance) {
  const note = row === kept ? role : `${role === "dropped" ? "goes" : role} ${small(distance)}`;
  const position = data.positions[row], source = pictureSource(data, row);
  const alt = `${role} image, position ${position}`;
  const picture = source === null
    ? element("span", { class: "nopicture", "data-position": position }, `position ${position}`)
    : element("img", { src: source, width: index.width, height: index.height, alt, title: alt + told(data, row),
      "data-position": position, "data-role": role });
  const name = element("bdi", { class: "name", title: named(data, row) }, shortName(data, row));
  if (source === null || row === kept) return element("span", { class: `shot ${role}` }, picture, element("span", {}, note), name);
  const button = element("button", { type: "button", class: "enlarge", "aria-label": `Enlarge: ${alt}, beside the kept one` }, picture);
  button.addEventListener("click", () => openPair(data, kept, row, role, distance));
  return element("span", { class: `shot ${role}` }, button, element("span", {}, note), name);
}

/* Why the kept image of a group was kept, with the numbers that the rule compared. */
function reason(group) {
  if (!Number.isFinite(group.own)) return "";
  const own = small(group.own), second = small(group.second);
  const words = {
    cosine_raw_mean: `${own} from the group’s mean`,
    cosine_unit_mean: `${own} from the mean of the group’s unit vectors`,
    medoid: `mean dissimilarity to the others ${own}`,
    minimax: `farthest other of the group at ${own}`,
  }[index.rule] ?? `${own}`;
  if (group.own === group.second) return `Kept: ${words}, as near as another; the lower position wins.`;
  return `Kept: ${words}; the next best ${second}.`;
}

function card(data, group) {
  const facts = [count(group.size, "image"), `spread ${small(group.spread)}`];
  if (Number.isFinite(group.height)) facts.push(`height ${small(group.height)}`);
  const body = element("li", {
    class: "group", "data-size": group.size, "data-spread": group.spread, "data-kept": data.positions[group.rows[0]],
  });
  const head = element("div", { class: "facts" }, element("span", {}, facts.join(" · ")));
  if (data.merges) {
    const label = `Tree of the group of ${called(data, group.rows[0])}`;
    const button = element("button", { type: "button", class: "quiet", "aria-label": label }, "Tree");
    button.addEventListener("click", () => openTree([group]));
    head.append(button);
  }
  body.append(head);
  if (!group.pictured) {
    const rest = Array.from(group.rows.subarray(1, LISTED), (row) => named(data, row)).join(", ");
    const more = group.size > LISTED ? ` and ${count(group.size - LISTED, "more image")}` : "";
    body.append(element("p", {}, element("b", {}, `kept ${named(data, group.rows[0])}`), `, dropped ${rest}${more}`));
    return body;
  }
  const row = element("div", { class: "row" });
  group.rows.subarray(0, data.shown).forEach((each, i) => {
    row.append(shot(data, each, i ? "dropped" : "kept", group.rows[0], group.distances[i]));
  });
  if (group.outside < data.images)
    row.append(shot(data, group.outside, "outside", group.rows[0], group.outsideDistance));
  body.append(row);
  if (group.size > data.shown) body.append(element("p", {}, `${count(group.size, "image")} (${data.shown} shown)`));
  const why = reason(group);
  if (why) body.append(element("p", { class: "why" }, why));
  return body;
}

const ORDERS = {
  size: (a, b) => b.size - a.size || a.spread - b.spread,
  smallest: (a, b) => a.size - b.size || a.spread - b.spread,
  widest: (a, b) => b.spread - a.spread || b.size - a.size,
  tightest: (a, b) => a.spread - b.spread || b.size - a.size,
};

function showCards(added = false) {
  const { data, list } = state;
  const cards = byId("cards");
  if (!added) cards.replaceChildren();
  const there = cards.children.length;
  cards.append(...list.slice(there, state.more).map((group) => card(data, group)));
  const shown = cards.children.length;
  byId("more").hidden = shown >= list.length;
  byId("more").textContent = `Show ${Math.min(PAGE, list.length - shown)} more`;
  byId("shown").textContent = list.length ? `${whole(shown)} of ${count(list.length, "group")} shown` : "";
}

/* The class at the slider's fraction. */
function showClass() {
  const { data } = state;
  if (!data) return;
  const cut = data.cuts[state.cut], total = index.cuts[state.cut];
  const gone = data.images - cut.kept;
  byId("class-title").textContent = data.name;
  byId("counts").textContent =
    `At ${percent(cut.fraction)} kept, ${count(gone, "image")} of ${whole(data.images)} ` +
    `${gone === 1 ? "goes" : "go"}, in ${count(cut.groups.length, "redundant group")}; ` +
    `${whole(total.dropped)} of ${count(index.images, "image")} in all classes.`;
  const without = cut.groups.length - cut.pictured;
  byId("pictured-label").textContent =
    `only groups with pictures (${whole(cut.pictured)} of ${whole(cut.groups.length)})`;
  byId("pictured").disabled = !without || !cut.pictured;
  const only = byId("pictured").checked && cut.pictured > 0;
  const wanted = (group) => (state.row === null ? group.pictured || !only : group.rows.includes(state.row));
  state.list = cut.groups.filter(wanted).sort(ORDERS[byId("order").value]);
  state.more = PAGE;
  showCards();
  byId("no-groups").hidden = cut.groups.length > 0;
  if (byId("tree").open) drawTree();
  byId("class-view").dispatchEvent(new Event("shown"));
}

/* Shows a class, or the group of one of its images. */
async function openClass(label, row = null) {
  for (const button of byId("classes").querySelectorAll("button"))
    button.setAttribute("aria-current", button.dataset.label === String(label) ? "true" : "false");
  byId("class-view").setAttribute("aria-busy", "true");
  state.wanted = label;
  try {
    const data = await loadClass(label);
    if (state.wanted !== label) return;
    state.data = data;
    state.tree = null;
    state.row = row;
    showClass();
  } catch {
    byId("counts").textContent = "The file of this class is missing: it lies in the folder “classes” beside this page.";
    byId("cards").replaceChildren();
  } finally {
    byId("class-view").setAttribute("aria-busy", "false");
  }
}

/* Moves the page to the class or group that was asked for; it may lie under a long list. */
const showAnswer = () => byId("class-view").scrollIntoView();

const goneOf = (of) => of.images - of.kept[state.cut];
const least = (value) => (a, b) => (value(a) === value(b) ? 0 : value(a) - value(b));
const settled = (value) => (value === null ? Infinity : value < ROUNDING ? 0 : value);
const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
const LIST_ORDERS = {
  stored: (a, b) => a.label - b.label,
  name: byName,
  dropped: least((of) => -goneOf(of) / of.images),
  groups: least((of) => -of.groups[state.cut]),
  largest: least((of) => -of.largest[state.cut]),
  tightest: least((of) => settled(of.mean[state.cut])),
  height: least((of) => settled(of.height[state.cut])),
};
/* Among equals the class with the largest group comes first, then names decide. */
const inTurn = (order) => (a, b) => LIST_ORDERS[order](a, b) || LIST_ORDERS.largest(a, b) || byName(a, b) || a.label - b.label;
const LIST_MEANINGS = {
  tightest: ", by the mean dissimilarity within their groups, least first",
  height: ", by the dissimilarity at which merging stopped, least first",
};
const LIST_NOTES = {
  groups: (of) => count(of.groups[state.cut], "group"),
  largest: (of) => `group of ${whole(of.largest[state.cut])}`,
  tightest: (of) => `mean ${spell(of.mean[state.cut])}`,
  height: (of) => `cut at ${spell(of.height[state.cut])}`,
};

/* Text as it is searched: without case and accents, and ß as ss. macOS writes accents of file names as letters of their own. */
const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toUpperCase().toLowerCase();

function showList() {
  const wanted = fold(byId("find").value.trim()), order = byId("list-order").value;
  const found = index.classes.filter((each) => fold(each.name).includes(wanted));
  found.sort(inTurn(order));
  const note = LIST_NOTES[order] ?? ((of) => `${whole(goneOf(of))} of ${whole(of.images)} go`);
  byId("classes").replaceChildren(...found.map((each) => {
    const open = state.wanted === each.label ? "true" : "false";
    const button = element("button", { type: "button", "data-label": each.label, "aria-current": open },
      element("bdi", {}, each.name), " ", element("span", {}, note(each)));
    button.addEventListener("click", () => openClass(each.label));
    return element("li", {}, button);
  }));
  byId("found").textContent = count(found.length, "class") + (wanted ? ` of ${whole(index.classes.length)}` : "") +
    (LIST_MEANINGS[order] ?? "");
}

/* The slider counts from the smallest fraction, the cuts from the largest. */
function moveSlider() {
  const slider = byId("fraction");
  state.cut = index.cuts.length - 1 - Number(slider.value);
  const text = percent(index.cuts[state.cut].fraction);
  byId("fraction-text").textContent = text;
  slider.setAttribute("aria-valuetext", `${text} kept`);
  showList();
  showClass();
}

/* Arrow keys, Home and End move through a list of buttons. */
function moveInList(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")], at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  buttons[Math.max(0, Math.min(to, buttons.length - 1))].focus();
}

function startBrowser() {
  const slider = byId("fraction");
  slider.max = index.cuts.length - 1;
  slider.value = index.cuts.length - 1 - index.main;
  slider.disabled = index.cuts.length < 2;
  byId("ticks").replaceChildren(...index.cuts.map((cut) => element("span", {}, percent(cut.fraction))).reverse());
  slider.addEventListener("input", moveSlider);
  byId("find").addEventListener("input", showList);
  byId("find").addEventListener("keydown", (event) => {
    const first = byId("classes").querySelector("button");
    if (event.key !== "Enter" || !first) return;
    first.click();
    showAnswer();
  });
  for (const list of [byId("classes"), byId("images")]) list.addEventListener("keydown", moveInList);
  byId("list-order").addEventListener("change", showList);
  byId("order").addEventListener("change", showClass);
  byId("pictured").addEventListener("change", showClass);
  byId("more").addEventListener("click", () => { state.more += PAGE; showCards(true); });
  byId("tree").addEventListener("toggle", () => { if (byId("tree").open) drawTree(); });
  byId("browser").hidden = false;
  moveSlider();
}

/* The class that is open at first: the first one with a group. */
const firstLabel = () => (index.classes.find((each) => each.groups[state.cut]) ?? index.classes[0]).label;
