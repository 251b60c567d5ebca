// One image: its labels with scores, what explains them, and a person's corrections.

const BEST_LABELS = 12;
const detail = { place: -1, row: -1, offered: [] };

function openDetail(place) {
  if (place < 0 || place >= shown.length) return;
  detail.place = place;
  showRow(shown[place]);
  if (!find("detail").open) find("detail").showModal();
}

// A row that the filters may hide: a neighbour or a copy.
function showRow(row) {
  detail.row = row;
  const place = shown[detail.place] === row ? detail.place : shown.indexOf(row);
  if (place >= 0) {
    detail.place = place;
    moveTo(place);
  }
  drawDetail();
  find("detail").querySelector(".side").scrollTop = 0;
}

function drawDetail() {
  const row = detail.row;
  const image = find("detail-picture");
  if (image.dataset.row !== String(row)) {
    image.dataset.row = row;
    image.removeAttribute("src");
    image.alt = visible(pathOf(row));
    find("detail-missing").replaceChildren();
    fillStage(image, find("detail-missing"), row);
  }
  find("detail-path").replaceChildren(linked(pathOf(row)));
  find("detail-facts").textContent = factsOf(row).join(" · ");
  find("detail-error").textContent = kindOf(row) === null ? "" : `${visible(kindOf(row))}: ${visible(messageOf(row))}`;
  find("detail-state").textContent = !corrections.has(row) ? "" : isChanged(row) ? "changed by you" : "confirmed by you";
  find("detail-reset").disabled = !corrections.has(row);
  const hidden = shown[detail.place] !== row;
  find("detail-place").textContent = hidden ? "outside the filters" : `${number(detail.place + 1)} / ${number(shown.length)}`;
  drawDetailLabels();
  drawRelated(row);
}

function factsOf(row) {
  const facts = [];
  if (report.sizes && !Number.isNaN(report.sizes[row])) facts.push(`${number(report.sizes[row])} bytes`);
  if (report.seconds && !Number.isNaN(report.seconds[row])) facts.push(`${report.seconds[row].toFixed(3)} s`);
  if (report.hashes && report.hashes[row]) facts.push(`sha256 ${report.hashes[row].slice(0, 16)}…`);
  if (noveltyOf(row) !== null) facts.push(`novelty ${noveltyOf(row).toFixed(2)}`);
  if (answered(row) && head().sources.length === 1) facts.push(`${head().sources[0].model}, version ${head().sources[0].version}`);
  return facts.map(visible);
}

function drawDetailLabels() {
  const row = detail.row;
  const said = corrections.labels(row);
  const selected = selectedNames(row);
  const entries = [];
  const isSelected = selector();
  for (let entry = first(row); entry < last(row); entry++) {
    if (entries.length >= BEST_LABELS && !isSelected(entry)) continue;
    entries.push([head().classes[head().classOf[entry]], head().scores[entry] / report.scale]);
  }
  const listed = new Set(entries.map(([name]) => name));
  entries.push(...said.filter((name) => !listed.has(name)).map((name) => [name, scoreOf(row, head().classes.indexOf(name))]));
  detail.offered = entries.map(([name]) => name);
  find("detail-labels").replaceChildren(
    ...entries.map(([name, score], place) => detailLabel(name, score, place, said.includes(name), selected.includes(name))),
  );
}

function detailLabel(name, score, place, isSaid, isSelected) {
  const row = detail.row;
  const difference = corrections.has(row) && isSaid !== isSelected ? (isSaid ? " added" : " removed") : "";
  const track = make("span", { class: "track" }, bar(score ?? 0));
  return make(
    "li", {},
    make(
      "label", {},
      make("span", { class: "key", "aria-hidden": "true" }, place < 9 ? String(place + 1) : ""),
      make("input", { type: "checkbox", checked: isSaid, onchange: () => toggleDetail(name, true) }),
      make("span", {}, given(name), make("span", { class: "changed" }, difference)),
      make("span", { class: "soft" }, score === null ? "not listed" : longScore(score)),
      score === null ? null : track,
    ),
  );
}

function toggleDetail(name, keepFocus = false) {
  corrections.toggle(detail.row, name);
  afterCorrection();
  if (keepFocus) find("detail-labels").querySelectorAll("input")[detail.offered.indexOf(name)]?.focus();
}

// The gallery keeps its rows while a detail is open, so that the next image is the one that was next.
function afterCorrection() {
  drawDetail();
  drawSummary();
  drawAgreement();
  const cell = grid.cells.get(detail.place);
  if (cell && shown[detail.place] === detail.row) {
    cell.replaceWith(makeCell(detail.place));
    grid.cells.set(detail.place, find(`cell-${detail.place}`));
    markActive();
  }
}

function step(by) {
  openDetail(Math.max(0, Math.min(shown.length - 1, detail.place + by)));
}

function confirmDetail() {
  corrections.set(detail.row, corrections.labels(detail.row));
  afterCorrection();
  if (shown[detail.place] === detail.row) step(1);
}

function resetDetail() {
  corrections.reset(detail.row);
  afterCorrection();
}

function addDetail(event) {
  event.preventDefault();
  const input = find("detail-new");
  const name = input.value.trim().normalize("NFC");
  if (name && !corrections.labels(detail.row).includes(name)) toggleDetail(name);
  input.value = "";
}

function suggest() {
  const words = find("detail-new").value.trim().toLowerCase();
  const fitting = words ? head().classes.filter((name) => name.toLowerCase().includes(words)).slice(0, 40) : [];
  find("detail-known").replaceChildren(...fitting.map((name) => make("option", { value: name })));
}

function detailKey(event) {
  if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const acts = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), c: confirmDetail, r: resetDetail };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-9]$/.test(key) && detail.offered[key - 1] !== undefined) toggleDetail(detail.offered[key - 1]);
  else if (key in acts) acts[key]();
  else return;
  event.preventDefault();
}

function startDetail() {
  find("detail").addEventListener("keydown", detailKey);
  find("detail").addEventListener("close", () => {
    find("gallery").focus();
    refresh();
  });
  find("detail-close").addEventListener("click", () => find("detail").close());
  find("detail-confirm").addEventListener("click", confirmDetail);
  find("detail-reset").addEventListener("click", resetDetail);
  find("detail-previous").addEventListener("click", () => step(-1));
  find("detail-next").addEventListener("click", () => step(1));
  find("detail-add").addEventListener("submit", addDetail);
  find("detail-new").addEventListener("input", suggest);
}
