// Which images are shown, in which order; and what is redrawn when something changes.

// Text, which rows, how many.
const SHOWS = {
  all: ["All images", () => true, () => report.count],
  some: ["With a label", (row) => answered(row) && hasSelected(row), () => counted.answered - counted.none],
  none: ["Without a label", (row) => answered(row) && !hasSelected(row), () => counted.none],
  error: ["With an error", (row) => report.kinds.index[row] >= 0, () => report.errors],
  checked: ["Checked by you", (row) => corrections.has(row), () => corrections.byRow.size],
  unchecked: ["Not checked yet", (row) => !corrections.has(row), () => report.count - corrections.byRow.size],
  changed: ["Changed by you", (row) => isChanged(row), () => [...corrections.byRow.keys()].filter(isChanged).length],
  novel: ["Novel: beyond 99 % of validation", (row) => noveltyOf(row) >= NOVEL, () => report.paths.filter((_, row) => noveltyOf(row) >= NOVEL).length],
  copies: ["Same file elsewhere", (row) => copiesOf(row).length > 1, () => [...report.sameAs.values()].flat().length],
};
const OFFERED = { copies: () => report.sameAs.size > 0, novel: () => report.heads.some((each) => each.novelty) };
const NOVEL = 0.99;

const noveltyOf = (row) => (head().novelty && !Number.isNaN(head().novelty[row]) ? head().novelty[row] : null);

const answered = (row) => Boolean(head().answered && head().answered[row]);

function hasSelected(row) {
  const isSelected = selector();
  for (let entry = first(row); entry < last(row); entry++) if (isSelected(entry)) return true;
  return false;
}

function isChanged(row) {
  if (!corrections.has(row)) return false;
  const said = corrections.labels(row);
  const selected = selectedNames(row);
  return said.length !== selected.length || said.some((name) => !selected.includes(name));
}

function isShown(row, words) {
  if (words && !lowerPath(row).includes(words)) return false;
  if (state.kind !== null && kindOf(row) !== state.kind) return false;
  if (state.message !== null && messageOf(row) !== state.message) return false;
  if (!SHOWS[state.show][1](row)) return false;
  if (!state.labels.length) return true;
  const here = selectedClasses(row);
  return state.labels.every((number) => here.includes(number));
}

let lowerPaths = null;
function lowerPath(row) {
  lowerPaths ??= report.paths.map((path) => (path ?? "").toLowerCase());
  return lowerPaths[row];
}

function shownRows() {
  const words = state.text.toLowerCase();
  const rows = [];
  for (let row = 0; row < report.count; row++) if (isShown(row, words)) rows.push(row);
  if (state.sort === "input") return rows;
  const number = state.labels.at(-1) ?? null;
  const sign = state.sort === "low" ? 1 : -1;
  const scores = new Map(rows.map((row) => [row, state.sort === "novel" ? noveltyOf(row) : scoreOf(row, number)]));
  return rows.sort((a, b) => {
    const [left, right] = [scores.get(a), scores.get(b)];
    if (left === null || right === null) return (left === null) - (right === null) || a - b;
    return sign * (left - right) || a - b;
  });
}

let shown = [];
let counted = null;
let waiting = false;

// Draw everything that depends on the state, at most once per frame.
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawAll();
  });
}

function drawAll() {
  counted = tally();
  shown = shownRows();
  drawSummary();
  drawThreshold();
  drawFilters();
  drawGallery();
  if (!find("view-labels").hidden) drawLabels();
  if (!find("view-errors").hidden) drawErrors();
}

function change(part) {
  Object.assign(state, part);
  if (!("threshold" in part)) goToTop();
  refresh();
}

function filterBy(labels) {
  change({ labels, show: "all", kind: null, message: null });
  openTab("images");
}
