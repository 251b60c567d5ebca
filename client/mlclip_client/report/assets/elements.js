// Small helpers to build the page. Text is only ever set as text, never as markup.

const decimal = new Intl.NumberFormat("en");
const number = (value) => decimal.format(value);
const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const shortScore = (score) => score.toFixed(2);
const longScore = (score) => score.toFixed(4);
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");

// make("li", { class: "x", role: "option", onclick: f }, "text", child, …)
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean" && !name.startsWith("aria-")) element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const heading = (text, attributes = {}) => make("th", { scope: "col", ...attributes }, text);
const table = (attributes, top, rows) => make("table", attributes, make("thead", {}, make("tr", {}, ...top)), make("tbody", {}, ...rows));

// A name from the data: its writing direction does not change that of the text around it.
const given = (text) => make("bdi", {}, visible(text));

// Line breaks and other control characters become visible signs.
function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f]/g, (sign) =>
    sign === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + sign.charCodeAt(0)),
  ).replace(/[\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

const isAddress = (path) => /^[a-z][a-z0-9+.-]*:\/\//i.test(path);

// A web address as a link that sends no referrer; any other path as text.
function linked(path, text = path) {
  if (!/^https?:\/\//i.test(path)) return visible(text);
  return make("a", { href: path, target: "_blank", rel: "noopener noreferrer" }, visible(text));
}

function bar(share) {
  const inner = make("i");
  inner.style.transform = `scaleX(${Math.max(0, Math.min(1, share))})`;
  return inner;
}

const isTyping = (target) => target.matches("input:not([type=checkbox]):not([type=radio]):not([type=range]), select, textarea");
