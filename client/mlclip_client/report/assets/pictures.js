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
  const { perPack, mime } = report.pictures;
  const pictures = await packOf(Math.floor(picture / perPack));
  const data = pictures[picture % perPack];
  return data ? `data:${mime};base64,${data}` : null;
}

// Fill a frame with a picture; a frame that is given another one meanwhile keeps the later.
async function fillFrame(frame, picture, otherwise) {
  frame.dataset.picture = picture;
  frame.replaceChildren();
  const source = await thumbnail(picture);
  if (frame.dataset.picture !== String(picture)) return;
  frame.replaceChildren(source ? make("img", { src: source, alt: "", decoding: "async", draggable: "false" }) : otherwise);
}

// Where the image itself is, if it is a file that could be read.
function originalOf(row) {
  const path = report.paths[row];
  if (report.originals === null || path === null) return null;
  try {
    const parts = path.split("/").map(encodeURIComponent).join("/");
    if (!path.startsWith("/")) return `${report.originals.split("/").map(encodeURIComponent).join("/")}/${parts}`;
    return location.protocol === "file:" ? `file://${parts}` : null;
  } catch {
    return null; // half of a surrogate pair
  }
}

async function fillStage(image, row) {
  const thumb = await thumbnail(row);
  if (image.dataset.row !== String(row)) return;
  image.hidden = !thumb;
  if (!thumb) return;
  image.src = thumb;
  const original = originalOf(row);
  if (!original) return;
  const large = new Image();
  large.onload = () => {
    if (image.dataset.row === String(row)) image.src = large.src;
  };
  large.src = original;
}
