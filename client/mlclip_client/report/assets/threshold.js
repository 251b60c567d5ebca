// The threshold panel: the distribution of scores, what another threshold would select, and how it agrees with a person.

const BINS = 50;
const WIDTH = 250;
const HEIGHT = 60;
const ALL_SCORES = "classify with --scores into a .parquet file";

function drawThreshold() {
  const isOne = state.threshold !== null;
  find("mode-own").checked = !isOne;
  find("mode-one").checked = isOne;
  find("threshold").classList.toggle("one", isOne);
  if (isOne) {
    find("slider").value = state.threshold;
    if (document.activeElement !== find("level")) find("level").value = state.threshold;
  }
  drawHistogram();
  drawEffect();
  drawAgreement();
}

function drawHistogram() {
  const chosen = state.labels.at(-1) ?? null;
  const { counts, lowestIn, highestOut } = spread(chosen, BINS);
  const most = Math.max(1, ...counts);
  const svg = find("histogram");
  const level = state.threshold;
  const own = chosen === null || level !== null ? null : head().thresholds?.[chosen] ?? (lowestIn <= 1 ? lowestIn : null);
  const from = level ?? own ?? 2;
  svg.replaceChildren();
  counts.forEach((count, bin) => {
    if (!count) return;
    const height = Math.max(1, (HEIGHT - 4) * Math.sqrt(count / most));
    const isIn = (bin + 1) / BINS > from;
    shape(svg, "rect", { class: isIn ? "bar in" : "bar", x: (bin * WIDTH) / BINS + 0.5, y: HEIGHT - height, width: WIDTH / BINS - 1, height });
  });
  if (own !== null) shape(svg, "line", { class: "own", x1: own * WIDTH, x2: own * WIDTH, y1: 0, y2: HEIGHT });
  const what = chosen === null ? "Best score of each image" : `Scores of “${visible(head().classes[chosen])}”`;
  const height = "height: square root of the count";
  const known = head().complete ? "" : "; listed labels only";
  find("histogram-note").textContent = `${what}, 0 to 1 (${height}${known}).${ownNote(chosen, lowestIn, highestOut)}`;
  svg.setAttribute("aria-label", `${what}: ${plural(counts.reduce((sum, count) => sum + count, 0), "score")}`);
}

// A label's own threshold, or, if the file does not have it, the scores between which it must be.
function ownNote(chosen, lowestIn, highestOut) {
  const known = head().thresholds?.[chosen];
  if (known !== undefined) return ` Its own threshold: ${longScore(known)}.`;
  if (chosen === null || lowestIn > 1) return "";
  const low = highestOut >= 0 && highestOut < lowestIn ? `between ${longScore(highestOut)} and ` : "at most ";
  return ` Its own threshold: ${low}${longScore(lowestIn)}.`;
}

function shape(svg, tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  svg.append(element);
}

function drawEffect() {
  const { total, answered: images, none, gained, lost, hiding } = counted;
  const rate = images ? (total / images).toFixed(2) : "0";
  const verb = state.threshold === null ? "selected" : "would be selected";
  let text = `${plural(total, "label")} ${verb}, ${rate} per image; ${plural(none, "image")} without any.`;
  if (state.threshold !== null) text += ` Compared with the labels’ own thresholds: ${number(gained)} more, ${number(lost)} fewer.`;
  find("effect").textContent = images ? text : "";
  find("hidden-note").textContent = hiding ? hidingNote(hiding) : "";
}

function hidingNote(hiding) {
  const { complete, floor, listed } = head();
  if (complete) return `Scores below ${longScore(floor)} are not in this page: counts are too low here.`;
  return `In ${plural(hiding, "image")}, labels beyond the ${listed} best may pass too, but the rows do not list them (${ALL_SCORES}).`;
}

function drawAgreement() {
  const { images, both, selected, said } = corrections.agreement();
  find("agreement").textContent = images
    ? `On the ${plural(images, "image")} you checked: precision ${percent(both, selected)}, recall ${percent(both, said)}. ` +
      "These are not a random sample."
    : "";
}

function setThreshold(value) {
  const threshold = Math.max(0, Math.min(1, Number(value)));
  if (Number.isFinite(threshold)) change({ threshold });
}

function startThreshold() {
  const slider = find("slider");
  const level = find("level");
  find("mode-own").addEventListener("change", () => change({ threshold: null }));
  find("mode-one").addEventListener("change", () => setThreshold(slider.value));
  slider.addEventListener("input", () => setThreshold(slider.value));
  level.addEventListener("input", () => level.value !== "" && setThreshold(level.value));
  level.addEventListener("change", refresh);
  find("histogram").addEventListener("click", (event) => {
    const box = find("histogram").getBoundingClientRect();
    setThreshold((Math.round(((event.clientX - box.left) / box.width) * 200) / 200).toFixed(3));
  });
}
