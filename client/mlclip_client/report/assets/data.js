// The data of the page: compressed blocks become arrays, once, at the start.

const find = (id) => document.getElementById(id);

async function readBlock(name) {
  const element = find(`block-${name}`);
  if (!element) return null;
  const text = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function readJson(name) {
  const block = await readBlock(name);
  return block && JSON.parse(new TextDecoder().decode(block));
}

async function readNumbers(name, Type) {
  const block = await readBlock(name);
  return block && new Type(block);
}

async function readHead(facts, number) {
  const head = {
    ...facts,
    starts: await readNumbers(`${number}-starts`, Uint32Array),
    classOf: await readNumbers(`${number}-classes`, Uint32Array),
    scores: await readNumbers(`${number}-scores`, Uint16Array),
    own: await readNumbers(`${number}-selected`, Uint8Array),
    answered: await readNumbers(`${number}-answered`, Uint8Array),
    novelty: await readNumbers(`${number}-novelty`, Float32Array),
    reasons: await readNumbers(`${number}-reasons`, Uint32Array),
    which: await readNumbers(`${number}-which`, Uint32Array),
    weights: await readNumbers(`${number}-weights`, Float32Array),
  };
  head.labels = facts.sources.length ? facts.sources[0].labels : "";
  return head;
}

async function loadReport() {
  const meta = await readJson("meta");
  const loaded = {
    ...meta,
    count: meta.rows,
    paths: await readJson("paths"),
    kinds: await readJson("kinds"),
    messages: await readJson("messages"),
    hashes: await readJson("hashes"),
    sizes: await readNumbers("sizes", Float64Array),
    seconds: await readNumbers("seconds", Float64Array),
    neighbours: await readNumbers("neighbours", Int32Array),
    cosines: await readNumbers("cosines", Float32Array),
    heads: [],
  };
  for (const [number, facts] of meta.heads.entries()) loaded.heads.push(await readHead(facts, number));
  loaded.sameAs = groupsOf(loaded.hashes);
  return loaded;
}

// Rows with the same content: hash → rows, for hashes that occur more than once.
function groupsOf(hashes) {
  const groups = new Map();
  if (!hashes) return groups;
  hashes.forEach((hash, row) => {
    if (hash === null) return;
    if (groups.has(hash)) groups.get(hash).push(row);
    else groups.set(hash, [row]);
  });
  for (const [hash, rows] of groups) if (rows.length < 2) groups.delete(hash);
  return groups;
}

let report;

const pathOf = (row) => report.paths[row] ?? "(image from memory)";
const nameOf = (path) => path.split("/").pop() || path;
const kindOf = (row) => report.kinds.texts[report.kinds.index[row]] ?? null;
const messageOf = (row) => report.messages.texts[report.messages.index[row]] ?? "";
const copiesOf = (row) => (report.hashes && report.sameAs.get(report.hashes[row])) || [];
