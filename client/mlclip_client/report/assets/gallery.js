// The gallery: only the cells in sight, and a few around them, exist.

const GAP = 10;
const CAPTION = 46;
const AROUND = 2; // lines kept above and below what is in sight
const grid = { columns: 1, width: 0, height: 0, cells: new Map(), active: 0 };

function measure() {
  const box = find("gallery");
  const style = getComputedStyle(box);
  const room = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  grid.columns = Math.max(room < 360 ? 2 : 1, Math.floor((room + GAP) / (168 + GAP)));
  grid.width = Math.floor((room - GAP * (grid.columns - 1)) / grid.columns);
  grid.height = Math.round(grid.width * 0.78) + CAPTION;
}

// Draw anew after a change of what is shown.
function drawGallery() {
  measure();
  for (const cell of grid.cells.values()) cell.remove();
  grid.cells.clear();
  grid.active = Math.max(0, Math.min(grid.active, shown.length - 1));
  const lines = Math.ceil(shown.length / grid.columns);
  find("canvas").style.height = `${Math.max(0, lines * (grid.height + GAP) - GAP)}px`;
  drawCells();
}

function drawCells() {
  const box = find("gallery");
  const line = grid.height + GAP;
  const from = Math.max(0, Math.floor(box.scrollTop / line) - AROUND) * grid.columns;
  const to = Math.min(shown.length, (Math.ceil((box.scrollTop + box.clientHeight) / line) + AROUND) * grid.columns);
  for (const [place, cell] of grid.cells) {
    if (place >= from && place < to) continue;
    cell.remove();
    grid.cells.delete(place);
  }
  for (let place = from; place < to; place++) {
    if (!grid.cells.has(place)) {
      grid.cells.set(place, makeCell(place));
      find("canvas").append(grid.cells.get(place));
    }
  }
  markActive();
}

function makeCell(place) {
  const row = shown[place];
  const frame = make("div", { class: "frame" });
  fillFrame(frame, row, placeholderOf(row));
  const cell = make(
    "div",
    {
      class: "cell", role: "option", id: `cell-${place}`, "aria-selected": "false", "aria-posinset": place + 1,
      "aria-setsize": shown.length, title: visible(pathOf(row)), "data-row": row,
    },
    frame,
    make("div", { class: "caption" }, make("div", { class: "said" }, ...captionOf(row)), make("div", { class: "name" }, given(nameOf(pathOf(row))))),
    corrections.has(row) ? make("span", { class: "badge" }, "checked") : null,
  );
  const x = (place % grid.columns) * (grid.width + GAP);
  const y = Math.floor(place / grid.columns) * (grid.height + GAP);
  cell.style.transform = `translate(${x}px, ${y}px)`;
  cell.style.width = `${grid.width}px`;
  cell.style.height = `${grid.height}px`;
  return cell;
}

function captionOf(row) {
  const kind = kindOf(row);
  if (kind !== null && !corrections.has(row)) return [make("span", { class: "warn" }, visible(kind))];
  const wanted = state.labels.map((index) => head().classes[index]);
  const names = [...corrections.labels(row)].sort((a, b) => wanted.includes(b) - wanted.includes(a));
  if (!names.length) return [make("span", { class: "soft" }, "no label")];
  return names.slice(0, 4).flatMap((name) => {
    const score = scoreOf(row, head().classes.indexOf(name));
    return [make("b", {}, given(name)), make("span", { class: "score" }, score === null ? "" : shortScore(score))];
  });
}

function markActive() {
  for (const [place, cell] of grid.cells) {
    cell.classList.toggle("active", place === grid.active);
    cell.setAttribute("aria-selected", place === grid.active);
  }
  const box = find("gallery");
  if (grid.cells.has(grid.active)) box.setAttribute("aria-activedescendant", `cell-${grid.active}`);
  else box.removeAttribute("aria-activedescendant");
}

function moveTo(place) {
  if (!shown.length) return;
  grid.active = Math.max(0, Math.min(shown.length - 1, place));
  const box = find("gallery");
  const top = Math.floor(grid.active / grid.columns) * (grid.height + GAP);
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + grid.height > box.scrollTop + box.clientHeight) box.scrollTop = top + grid.height + GAP * 2 - box.clientHeight;
  drawCells();
}

function goToTop() {
  grid.active = 0;
  find("gallery").scrollTop = 0;
}

function startGallery() {
  const box = find("gallery");
  let frame = 0;
  box.addEventListener("scroll", () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawCells);
  });
  new ResizeObserver(() => {
    if (box.clientWidth) drawGallery();
  }).observe(box);
  box.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) openDetail(shown.indexOf(Number(cell.dataset.row)));
  });
  box.addEventListener("keydown", (event) => {
    const page = grid.columns * Math.max(1, Math.floor(box.clientHeight / (grid.height + GAP)));
    const places = {
      ArrowRight: grid.active + 1, ArrowLeft: grid.active - 1,
      ArrowDown: grid.active + grid.columns, ArrowUp: grid.active - grid.columns,
      PageDown: grid.active + page, PageUp: grid.active - page, Home: 0, End: shown.length - 1,
    };
    if (event.key in places) moveTo(places[event.key]);
    else if (event.key === "Enter" || event.key === " ") openDetail(grid.active);
    else return;
    event.preventDefault();
  });
}
