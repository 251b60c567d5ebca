// What this report holds, and how to read its numbers.

const SOURCES = ["Head", "Model", "Version", "Known classes", "Images", "sha256 of its label list"];
const SHORT_HASH = 12;

function drawSummary() {
  const parts = [plural(report.count, "image")];
  if (head().name) parts.push(`${number(counted.answered - counted.none)} with a label`, `${number(counted.none)} without`);
  parts.push(plural(report.errors, "error"));
  find("summary").textContent = parts.join(" · ") + (report.more ? " · the file has more rows than these" : "");
  find("checked-count").textContent = number(corrections.byRow.size);
}

function drawAbout() {
  const facts = [
    [report.count, "images"], [report.count - report.errors, "with an answer"], [report.errors, "with an error"],
    ...(report.hashes ? [[report.sameAs.size, "files that occur more than once"]] : []),
  ];
  find("view-about").replaceChildren(
    make("h2", {}, "Contents"),
    make("div", { class: "facts" }, ...facts.map(([count, text]) => make("div", {}, make("b", {}, number(count)), make("span", { class: "soft" }, text)))),
    make("p", {}, report.more ? "The labels file has more rows: these are the first." : ""),
    make("h2", {}, "Models that answered"),
    sourceTable(),
    ...report.heads.flatMap((each) => each.notes.map((note) => make("p", { class: "warn" }, `${visible(each.name)}: ${note}`))),
    make("h2", {}, "How to read the numbers"),
    ...readingNotes().map((text) => make("p", {}, text)),
    make("h2", {}, "Keys"),
    keyTable(),
  );
}

function sourceTable() {
  const rows = report.heads.flatMap((each) =>
    each.sources.map((source) =>
      make(
        "tr", {},
        ...[each.name, source.model, source.version, number(each.classes.length), number(source.images)]
          .map((text, place) => make("td", { "data-name": SOURCES[place] }, given(text || "–"))),
        make("td", { "data-name": SOURCES.at(-1), title: source.labels }, given(source.labels ? `${source.labels.slice(0, SHORT_HASH)}…` : "–")),
      ),
    ),
  );
  return table({ class: "plain sources" }, SOURCES.map((text) => heading(text)), rows);
}

function readingNotes() {
  return [
    "A score is not a probability unless the head was calibrated. “Each label’s own” shows what the server selected, by thresholds from " +
      "validation data. “One for all” changes this page only; served models keep their thresholds.",
    ...report.heads.map((each) => knownNote(each)),
    ...(OFFERED.novel() ? ["Novelty is the share of validation images that lie nearer to the training images than this one: 1.00 is unlike all of them."] : []),
    ...(Array.from({ length: report.count }, (_, row) => row).some(isNotFetched)
      ? ["Images at addresses have no picture here because a report fetches nothing. Open one and follow its address."]
      : []),
    "Precision and recall beside the slider count all labels of the images that you have checked. People who see the model’s answer first tend to agree with it.",
    report.neighbours
      ? "Neighbours are the five rows with the highest cosine similarity of embeddings, found by an exact search over all rows."
      : report.neighboursSkipped
        ? "The rows have embeddings, but neighbours were left out: there are more than 50,000 rows, or embeddings differ in length."
        : "The rows have no embeddings (classify with --embeddings), so there are no neighbours.",
    corrections.stored
      ? "Your changes are kept in this browser, for this list of images and labels, until you delete them in the export dialog."
      : "This browser does not store your changes to this page: export before you close it.",
  ];
}

function knownNote(each) {
  const name = `Head ${visible(each.name)}: `;
  if (!each.complete) return `${name}rows list the ${each.listed} best labels and the selected ones; lower scores are not known here (${ALL_SCORES}).`;
  if (each.floor > 0) return `${name}all scores of ${longScore(each.floor)} or higher are here; lower ones were left out to keep the page small.`;
  return `${name}the scores of all its classes are here.`;
}

function keyTable() {
  const keys = [
    ["/", "search in paths"], ["L", "search labels"], ["arrows, Home, End", "move in the gallery"], ["Enter", "open the image"],
    ["1 to 9", "toggle one of the best labels"], ["C", "confirm the labels and go on"], ["R", "undo your changes"],
    ["← →", "previous and next image"], ["Esc", "back to the gallery"],
  ];
  return make("table", { class: "plain" }, make("tbody", {}, ...keys.map(([key, what]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, what)))));
}
