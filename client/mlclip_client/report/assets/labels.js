// How often labels are selected, and which of them together.

const HEAT = 20;
const COUNTED = 500;

function drawLabels() {
  const order = byCount();
  const most = order.slice(0, HEAT).filter((index) => countOf(index));
  find("view-labels").replaceChildren(
    make("h2", {}, "Labels that occur together"),
    make("p", { class: "soft" }, heatNote(most.length)),
    make("div", { class: "scroll" }, heatTable(most)),
    make("h2", {}, "Images per label"),
    countTable(order.slice(0, COUNTED)),
    make("p", { class: "soft" }, order.length > COUNTED ? `${number(order.length - COUNTED)} more labels are in the list on the left: type to search.` : ""),
  );
}

const basis = () => (state.threshold === null ? "each label’s own threshold" : `one threshold of ${state.threshold} for all labels`);

function heatNote(size) {
  if (!size) return "No label is selected on any image.";
  return (
    `How many images have both labels, for the ${plural(size, "most frequent label")}, by ${basis()}. A stronger colour means a larger share of the ` +
    "rarer label’s images. Choose a cell to see its images; arrow keys move."
  );
}

function heatTable(numbers) {
  const counts = together(numbers);
  const names = numbers.map((index) => head().classes[index]);
  const rows = numbers.map((index, a) =>
    make("tr", {}, make("th", { scope: "row" }, given(names[a])), ...numbers.map((_, b) => make("td", {}, heatCell(numbers, names, counts, a, b)))),
  );
  const top = [make("td"), ...names.map((name) => heading(make("span", {}, given(name))))];
  return table({ class: "heat", onkeydown: moveInTable }, top, rows);
}

function heatCell(numbers, names, counts, a, b) {
  const count = counts[a][b];
  const share = count / Math.max(1, Math.min(counts[a][a], counts[b][b]));
  const shade = make("i");
  shade.style.opacity = a === b ? 0 : Math.sqrt(share);
  const what = a === b ? visible(names[a]) : `${visible(names[a])} and ${visible(names[b])}`;
  return make(
    "button",
    {
      tabindex: a || b ? -1 : 0,
      "aria-label": `${what}: ${plural(count, "image")}`, title: `${what}: ${plural(count, "image")}`,
      onclick: () => filterBy(a === b ? [numbers[a]] : [numbers[a], numbers[b]]),
    },
    shade, make("span", {}, count ? number(count) : ""),
  );
}

function moveInTable(event) {
  const cell = event.target.closest("td");
  const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (!cell || !move) return;
  const line = cell.parentElement.parentElement.children[cell.parentElement.rowIndex - 1 + move[0]];
  const next = line?.children[cell.cellIndex + move[1]]?.querySelector("button");
  if (next) {
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  event.preventDefault();
}

function countTable(numbers) {
  const most = Math.max(1, ...numbers.map(countOf));
  const rows = numbers.map((index) =>
    make(
      "tr", {},
      make("td", {}, make("button", { onclick: () => filterBy([index]) }, given(head().classes[index]))),
      make("td", { class: "number" }, number(countOf(index))),
      make("td", { class: "number" }, percent(countOf(index), counted.answered)),
      ...(head().promise ? [make("td", {}, promiseOf(head().classes[index]))] : []),
      make("td", { class: "level" }, bar(countOf(index) / most)),
    ),
  );
  const promised = head().promise ? [heading(`Promised, confidence ${head().promise.confidence}`)] : [];
  const top = [heading("Label"), heading("Images", { class: "number" }), heading("Share", { class: "number" }), ...promised, heading("")];
  return table({ class: "plain" }, top, rows);
}

// What validation promises about a label at its own threshold, or why nothing.
function promiseOf(name) {
  const { figure, level, classes } = head().promise;
  return classes[name] ? `nothing: ${visible(classes[name])}` : `${figure} of at least ${percent(level, 1)}`;
}
