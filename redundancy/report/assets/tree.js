/* The dendrogram of a class, or of one of its groups, drawn when it is asked for. Leaves are rows, merges lie to the
   right of them at their height. */

const LEAVES = 48; // rows of a drawing; what is more is folded
const NAME = 14; // letters of an image's name
const ROW = 30, THUMB = 26, LABEL = 172, RIGHT = 16, TOP = 34;
const SVG = "http://www.w3.org/2000/svg";

const drawn = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function openTree(groups) {
  state.tree = groups;
  const tree = byId("tree");
  if (tree.open) drawTree();
  tree.open = true;
  tree.scrollIntoView({ block: "nearest" });
  tree.querySelector("summary").focus({ preventScroll: true });
}

/* The cluster of a cut that holds an image: up from the image as long as merges are made. */
function rootOf(data, row, kept) {
  const { left, right } = data.merges, end = data.images + (data.images - kept);
  if (!data.parents) {
    data.parents = new Int32Array(data.images + left.length).fill(-1);
    for (const side of [left, right]) side.forEach((child, merge) => { data.parents[child] = data.images + merge; });
  }
  let node = row;
  while (data.parents[node] >= 0 && data.parents[node] < end) node = data.parents[node];
  return node;
}

/* Groups from the list as long as their images are few enough; at least one. */
function fitting(list) {
  const chosen = [];
  let images = 0;
  for (const group of list) {
    if (chosen.length && images + group.size > LEAVES) break;
    chosen.push(group);
    images += group.size;
  }
  return chosen;
}

/* Roots opened, highest merge first, until there are enough rows. Returns the set of merges that are drawn open. */
function opened(data, roots) {
  const { images: n, merges } = data;
  const open = new Set();
  const closed = roots.filter((node) => node >= n);
  let rows = roots.length;
  while (closed.length && rows < LEAVES) {
    closed.sort((a, b) => merges.heights[a - n] - merges.heights[b - n]);
    const node = closed.pop();
    open.add(node);
    rows += 1;
    for (const child of [merges.left[node - n], merges.right[node - n]]) if (child >= n) closed.push(child);
  }
  return open;
}

function imagesBelow(data, node) {
  const found = [], waiting = [node];
  while (waiting.length) {
    const each = waiting.pop();
    if (each < data.images) found.push(each);
    else waiting.push(data.merges.left[each - data.images], data.merges.right[each - data.images]);
  }
  return found;
}

function peek(data, row, text) {
  const source = pictureSource(data, row);
  const parts = [element("figcaption", {}, text)];
  if (source) parts.unshift(element("img", { src: source, alt: text, width: 2 * index.width, height: 2 * index.height }));
  byId("peek").replaceChildren(...parts);
}

function leaf(data, node, y, keptRows) {
  const below = imagesBelow(data, node);
  const row = below.find((each) => keptRows.has(each)) ?? below.find((each) => data.pictures.has(each)) ?? below[0];
  const kept = below.some((each) => keptRows.has(each));
  const position = data.positions[row];
  const text = below.length > 1 ? `${count(below.length, "image")}, folded, one is position ${position}${told(data, row)}`
    : `position ${position}, ${kept ? "kept" : "dropped"}${told(data, row)}`;
  const made = drawn("g", { class: kept ? "leaf kept" : "leaf", tabindex: "0", role: "img", "aria-label": text });
  made.append(drawn("rect", { class: "hit", x: 0, y: y - ROW / 2, width: LABEL + 30, height: ROW }));
  const source = pictureSource(data, row);
  if (source) {
    made.append(drawn("image", { href: source, x: 2, y: y - THUMB / 2, width: THUMB, height: THUMB }));
    made.append(drawn("rect", { class: "frame", x: 2, y: y - THUMB / 2, width: THUMB, height: THUMB }));
  }
  const name = shortName(data, row), most = kept ? NAME - " kept".length + 1 : NAME;
  const short = name.length > most ? `${name.slice(0, most - 1)}…` : name;
  const shown = below.length > 1 ? count(below.length, "image") : `${short}${kept ? " kept" : ""}`;
  made.append(drawn("text", { x: THUMB + 10, y: y + 4 }, shown));
  for (const event of ["focus", "mouseenter"]) made.addEventListener(event, () => peek(data, row, text));
  return made;
}

/* The axis: heights from 0 to the highest merge. */
function scaleOf(x, highest, bottom) {
  const scale = drawn("g", { class: "scale" });
  for (let i = 0; i <= 4; i++) {
    const value = (highest * i) / 4;
    scale.append(drawn("path", { d: `M${x(value)} ${TOP - 4}V${bottom}` }));
    scale.append(drawn("text", { x: x(value), y: TOP - 8, "text-anchor": i === 4 ? "end" : "middle" }, small(value)));
  }
  scale.append(drawn("text", { x: LABEL, y: 12 }, "dissimilarity (1 − cos) at which images join"));
  return scale;
}

function drawTree() {
  const { data } = state;
  const show = (drawing) => byId("tree-drawing").replaceChildren(drawing);
  if (!data?.merges) return show(element("p", { class: "none" }, "The merges are not in this workdir."));
  const { images: n, merges } = data, cut = data.cuts[state.cut];
  let groups = (state.tree ?? []).filter((group) => cut.groups.includes(group));
  const chosen = groups.length > 0;
  if (!chosen) groups = fitting(state.list);
  byId("tree-all").hidden = !chosen;
  byId("peek").replaceChildren();
  if (!groups.length) return show(element("p", { class: "none" }, "There is no redundant group."));
  const roots = groups.map((group) => rootOf(data, group.rows[0], cut.kept));
  const keptRows = new Set(groups.map((group) => group.rows[0]));
  const open = opened(data, roots);
  const heightOf = (node) => (node < n ? 0 : merges.heights[node - n]);
  const highest = Math.max(...roots.map(heightOf));
  const flat = highest < ROUNDING, top = flat ? 1 : highest * 1.08;
  const width = Math.max(320, Math.min(860, byId("tree-drawing").clientWidth || 600));
  const x = (height) => LABEL + (height / top) * (width - LABEL - RIGHT);

  const lines = drawn("g", { class: "lines" }), leaves = drawn("g", {});
  let rows = 0;
  /* Draws a node and returns its y; its own line goes from its height to that of the merge above. */
  function draw(node, above) {
    let y;
    if (open.has(node)) {
      const height = heightOf(node);
      const [first, last] = [merges.left[node - n], merges.right[node - n]].map((child) => draw(child, height));
      lines.append(drawn("path", { d: `M${x(height)} ${first}V${last}` }));
      y = (first + last) / 2;
    } else {
      y = TOP + ROW * (rows + 0.5);
      rows += 1;
      leaves.append(leaf(data, node, y, keptRows));
    }
    if (above !== null) lines.append(drawn("path", { d: `M${x(open.has(node) ? heightOf(node) : 0)} ${y}H${x(above)}` }));
    return y;
  }
  // Where groups stand side by side, a short stem marks each one's root.
  for (const root of roots) draw(root, roots.length > 1 && root >= n ? Math.min(top, heightOf(root) + top * 0.02) : null);

  const bottom = TOP + ROW * rows + 4;
  const scale = flat ? drawn("g", { class: "scale" }, drawn("text", { x: LABEL, y: 12 }, "all images are identical to the network")) : scaleOf(x, highest, bottom);
  // Merges up to a fraction's height are made at it.
  const marks = drawn("g", { class: "marks" });
  for (const each of flat ? [] : data.cuts) {
    const merge = n - each.kept - 1;
    if (merge < 0 || merge >= merges.heights.length || merges.heights[merge] > top) continue;
    const at = x(merges.heights[merge]);
    marks.append(drawn("path", { d: `M${at} ${TOP - 4}V${bottom}` }));
    marks.append(drawn("text", { x: at - 3, y: bottom + 12, "text-anchor": "end" }, percent(each.fraction)));
  }
  const what = chosen ? `the group of ${called(data, groups[0].rows[0])}`
    : `${count(groups.length, "group")} of ${count(cut.groups.length, "group")}, in the order of the list`;
  byId("tree-what").textContent = `Drawn: ${what}, ${data.name}. Dashed: where the cut of each fraction lies.`;
  const height = bottom + 18;
  show(drawn("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `Dendrogram of ${what}`,
  }, scale, marks, lines, leaves));
}

byId("tree-all").addEventListener("click", () => { state.tree = null; drawTree(); });
