// Thumbnails come in packs: JSON in the page, or a script beside it, which a page opened from a file may load.
// A pack is read when one of its pictures is first wanted.

const KEPT_PACKS = 120;
const packs = new Map(); // number → promise of a list of base64 or null
const arrivals = new Map();

Object.defineProperty(window, "mlclipPack", {
  value: (number, pictures) => arrivals.get(number)?.(pictures),
});

function loadPack(number) {
  const { inPage, folder } = report.pictures;
  if (number < inPage) {
    const element = find(`pack-${number}`);
    const pictures = JSON.parse(element.textContent);
    element.remove();
    return Promise.resolve(pictures);
  }
  return new Promise((resolve) => {
    const script = document.createElement("script");
    const finish = (pictures) => {
      arrivals.delete(number);
      script.remove();
      resolve(pictures);
    };
    arrivals.set(number, finish);
    script.onerror = () => finish([]);
    script.src = `${encodeURIComponent(folder)}/${report.id}-${String(number).padStart(5, "0")}.js`;
    document.head.append(script);
  });
}

function packOf(number) {
  const kept = packs.get(number);
  if (kept) {
    packs.delete(number);
    packs.set(number, kept); // the latest used is the last
    return kept;
  }
  const loading = loadPack(number);
  packs.set(number, loading);
  for (const old of packs.keys()) {
    if (packs.size <= KEPT_PACKS + report.pictures.inPage) break;
    if (old >= report.pictures.inPage) packs.delete(old);
  }
  return loading;
}

async function thumbnail(picture) {
  if (report.show === "none") return null;
  const { perPack, mime } = report.pictures;
  const pictures = await packOf(Math.floor(picture / perPack));
  const data = pictures[picture % perPack];
  return data ? `data:${mime};base64,${data}` : null;
}

const isBlurred = () => document.body.classList.contains("blurred");

function startBlur() {
  const box = find("blur");
  const draw = () => document.body.classList.toggle("blurred", box.checked);
  box.checked = report.show === "blurred";
  box.addEventListener("change", draw);
  find("blur-choice").hidden = report.show === "none";
  find("detail-picture").addEventListener("click", (event) => event.target.classList.toggle("asked"));
  draw();
}

// Fill a frame with a picture; if it is given another one meanwhile, the later one stays.
async function fillFrame(frame, picture, otherwise) {
  frame.dataset.picture = picture;
  frame.replaceChildren();
  const source = await thumbnail(picture);
  if (frame.dataset.picture !== String(picture)) return;
  frame.replaceChildren(source ? make("img", { src: source, alt: "", decoding: "async", draggable: "false" }) : otherwise);
}

const isNotFetched = (row) => report.originals !== null && report.paths[row] !== null && isAddress(report.paths[row]);

// What stands in place of a missing picture, in a few words.
const placeholderOf = (row) => kindOf(row) ?? (report.show === "none" ? "left out" : isNotFetched(row) ? "not fetched" : "no picture");

// The same, in a sentence for the large view.
function whyMissing(row) {
  const path = report.paths[row];
  if (report.show === "none") return ["This report was made without pictures."];
  if (path === null) return ["No picture: it came from memory."];
  if (!isNotFetched(row)) return ["No picture: it could not be read when this report was made."];
  const link = linked(path, "Open the address");
  return ["No picture: a report fetches nothing from addresses. ", ...(link instanceof Element ? [link] : [])];
}

// Where the image itself is, if it is a file that could be read.
function originalOf(row) {
  const path = report.paths[row];
  if (report.originals === null || path === null || isAddress(path)) return null;
  try {
    const parts = path.split("/").map(encodeURIComponent).join("/");
    if (!path.startsWith("/")) return `${report.originals.split("/").map(encodeURIComponent).join("/")}/${parts}`;
    return location.protocol === "file:" ? `file://${parts}` : null;
  } catch {
    return null; // half of a surrogate pair
  }
}

// Show an image at its own size: first the thumbnail, then the image itself if it can be loaded.
async function fillStage(image, note, row) {
  const thumb = await thumbnail(row);
  const isStill = () => image.dataset.row === String(row);
  if (!isStill()) return;
  image.hidden = !thumb;
  image.classList.remove("asked");
  if (!thumb) {
    note.replaceChildren(...whyMissing(row));
    return;
  }
  image.src = thumb;
  const blurred = isBlurred() ? "Blurred: click the picture to see it. " : "";
  note.replaceChildren(blurred);
  const small = () => isStill() && note.replaceChildren(`${blurred}Thumbnail: this page cannot load the image itself.`);
  const original = originalOf(row);
  if (!original) return small();
  const large = new Image();
  large.onload = () => isStill() && (image.src = large.src);
  large.onerror = small;
  large.src = original;
}
