// What is selected: by each label's own threshold, as the rows have it, or by one threshold for all labels.
// Entries of an image stand best first.

const state = {
  head: 0,
  threshold: null, // null: each label's own
  labels: [], // numbers of the chosen classes
  text: "",
  show: "all",
  kind: null,
  message: null,
  sort: "input",
};
const NO_HEAD = {
  name: "", classes: [], sources: [], complete: false, floor: 0, listed: 0, notes: [], labels: "",
  starts: null, classOf: [], scores: [], own: [],
};

const head = () => report.heads[state.head] ?? NO_HEAD;
const first = (row) => (head().starts ? head().starts[row] : 0);
const last = (row) => (head().starts ? head().starts[row + 1] : 0);
const stored = (threshold) => Math.round(threshold * report.scale);

function selector() {
  const { own, scores } = head();
  if (state.threshold === null) return (entry) => own[entry] === 1;
  const least = stored(state.threshold);
  return (entry) => scores[entry] >= least;
}

function selectedClasses(row) {
  const chosen = [];
  const isSelected = selector();
  for (let entry = first(row); entry < last(row); entry++) if (isSelected(entry)) chosen.push(head().classOf[entry]);
  return chosen;
}

const selectedNames = (row) => selectedClasses(row).map((number) => head().classes[number]);

// Counts over all images: per class, in all, without any label, gained and lost against the labels' own thresholds,
// and images that may have further labels over the threshold which the rows do not list.
function tally() {
  const { classes, classOf, scores, own, complete, floor, listed, answered } = head();
  const result = { perClass: new Uint32Array(classes.length), total: 0, answered: 0, none: 0, gained: 0, lost: 0, hiding: 0 };
  const isSelected = selector();
  const least = state.threshold === null ? null : stored(state.threshold);
  for (let row = 0; row < report.count; row++) {
    if (!answered || !answered[row]) continue;
    result.answered++;
    const from = first(row);
    const to = last(row);
    let here = 0;
    for (let entry = from; entry < to; entry++) {
      const now = isSelected(entry);
      if (now) {
        result.perClass[classOf[entry]]++;
        here++;
      }
      if (now && !own[entry]) result.gained++;
      if (!now && own[entry]) result.lost++;
    }
    result.total += here;
    if (!here) result.none++;
    if (least === null) continue;
    const limit = from + listed - 1;
    if (complete ? state.threshold < floor : limit >= to || scores[Math.max(limit, from)] >= least) result.hiding++;
  }
  return result;
}

// How scores are spread: of one class, or, without one, of each image's best label.
function spread(number, bins) {
  const { classOf, scores, own } = head();
  const result = { counts: new Uint32Array(bins), lowestIn: Infinity, highestOut: -Infinity };
  for (let row = 0; row < report.count; row++) {
    for (let entry = first(row); entry < last(row); entry++) {
      if (number !== null && classOf[entry] !== number) continue;
      const score = scores[entry] / report.scale;
      result.counts[Math.min(bins - 1, Math.floor(score * bins))]++;
      if (number === null) break;
      if (own[entry]) result.lowestIn = Math.min(result.lowestIn, score);
      else result.highestOut = Math.max(result.highestOut, score);
    }
  }
  return result;
}

// How often two classes are selected on one image: counts[a][b] for the given classes.
function together(numbers) {
  const place = new Map(numbers.map((number, index) => [number, index]));
  const counts = numbers.map(() => new Uint32Array(numbers.length));
  for (let row = 0; row < report.count; row++) {
    const here = selectedClasses(row).map((number) => place.get(number)).filter((index) => index !== undefined);
    for (const a of here) for (const b of here) counts[a][b]++;
  }
  return counts;
}

function scoreOf(row, number) {
  for (let entry = first(row); entry < last(row); entry++) {
    if (number === null || head().classOf[entry] === number) return head().scores[entry] / report.scale;
  }
  return null;
}
