/* Two images of a group side by side, enlarged, with a map of their differences, and their files where they can be reached. */

let pairs = 0; // that were opened
const PAIR = 320; // pixels of an enlarged image's longer side

function pairFigure(picture, caption) {
  return element("figure", {}, picture, element("figcaption", {}, ...caption));
}

/* The URL of an image's file; null where it is not known. */
function original(data, row) {
  if (!index.originals || !data.files.has(row)) return null;
  try {
    return index.originals + data.files.get(row).split("/").map(encodeURIComponent).join("/");
  } catch {
    return null; // a name that is no text
  }
}

async function loadPicture(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

/* A canvas with the absolute differences of two pictures of one size, the greatest one white; and that one, of 255. */
function differences(first, second) {
  const [width, height] = [first.naturalWidth, first.naturalHeight];
  const canvas = element("canvas", { width, height, role: "img", "aria-label": "map of differences" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = [first, second].map((image) => {
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  });
  const made = context.createImageData(width, height);
  let most = 0;
  for (let i = 0; i < made.data.length; i++) {
    made.data[i] = i % 4 === 3 ? 255 : Math.abs(pixels[0][i] - pixels[1][i]);
    if (i % 4 !== 3) most = Math.max(most, made.data[i]);
  }
  for (let i = 0; i < made.data.length; i++) if (i % 4 !== 3 && most) made.data[i] *= 255 / most;
  context.putImageData(made, 0, 0);
  return [canvas, most];
}

async function openPair(data, kept, row, role, distance) {
  const dialog = byId("pair"), outside = role === "outside", number = ++pairs;
  const scale = PAIR / Math.max(index.width, index.height);
  const size = { width: Math.round(scale * index.width), height: Math.round(scale * index.height) };
  const roles = [[kept, "kept"], [row, outside ? "outside the group" : "goes"]];
  byId("pair-title").textContent = outside ? "The kept image and its neighbour outside the group" : "The kept image and one that goes";
  const captions = roles.map(([each, what]) => [element("b", {}, what), " ", element("bdi", { class: "name" }, named(data, each))]);
  const sources = roles.map(([each]) => pictureSource(data, each));
  const figures = roles.map(([, what], i) => (sources[i] === null ? element("span", { class: "nopicture" }, "no picture on this page")
    : element("img", { src: sources[i], ...size, alt: `${what}, enlarged` })));
  byId("pair-files").replaceChildren();
  byId("pair-images").replaceChildren(...figures.map((each, i) => pairFigure(each, captions[i])));
  const seen = `The dissimilarity of the two is ${small(distance)}. The map compares the pictures of this page, which have the size ` +
    "that the network saw or a small multiple of it, not the files.";
  byId("pair-note").textContent = seen;
  dialog.showModal();
  if (sources.every((each) => each !== null)) {
    const loaded = await Promise.all(sources.map(loadPicture));
    if (number !== pairs) return;
    const [canvas, most] = differences(...loaded);
    canvas.style.width = `${size.width}px`;
    byId("pair-images").append(pairFigure(canvas, [element("b", {}, "difference"),
      most ? ` largest difference of a pixel: ${most} of 255; the map is brightened to show it` : " identical pixels"]));
  }
  const files = roles.map(([each]) => original(data, each));
  if (files.includes(null)) return;
  try {
    const loaded = await Promise.all(files.map(loadPicture));
    if (number !== pairs) return;
    loaded.forEach((image, i) => {
      image.alt = `${roles[i][1]}, the file`;
      image.className = "original";
    });
    byId("pair-files").append(...loaded.map((image, i) =>
      pairFigure(image, [element("b", {}, `${roles[i][1]}, the file`), ` ${image.naturalWidth} × ${image.naturalHeight}`])));
  } catch {
    if (number === pairs) byId("pair-note").textContent = `${seen} The files of the images cannot be reached from here.`;
  }
}

byId("pair-close").addEventListener("click", () => byId("pair").close());
