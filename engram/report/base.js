"use strict";
// What all sections share: the data, elements, colours, charts, tables and files to save.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
const narrow = matchMedia("(max-width: 720px)");

/** An element with attributes (functions become listeners) and children. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A new section of the page, with a link to it. */
function section(id, title) {
  document.querySelector("nav").append(el("a", { href: `#${id}` }, title));
  const made = el("section", { id }, el("h2", {}, title));
  main.append(made);
  return made;
}

/** Lines that say what could not be drawn. */
function missing(parent, lines) {
  for (const line of lines ?? []) parent.append(el("p", { class: "missing" }, line));
}

/** A choice of one: `options` are [value, text] pairs; few of them lie side by side. */
function choice(label, options, value, chosen) {
  if (options.length > 4) {
    const list = el(
      "select",
      { change: () => chosen(list.value) },
      ...options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)),
    );
    return el("label", { class: "screen" }, el("span", { class: "quiet" }, label), list);
  }
  const name = `choice-${(choice.count = (choice.count ?? 0) + 1)}`;
  const one = ([key, text]) =>
    el(
      "label",
      {},
      el("input", { type: "radio", name, value: key, checked: key === value, change: () => chosen(key) }),
      text,
    );
  return el("fieldset", { class: "screen" }, el("legend", {}, label), ...options.map(one));
}

// --- colours -------------------------------------------------------------------------------------------------------
// Lines: Okabe and Ito's set, told apart with every kind of colour vision. Maps: one colour growing away from the paper
// for sizes, blue and orange for signs.

const LINES = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b0508c", "#7a6200", "#2b9fd9", "#5b3a8c", "#555555"],
  dark: ["#56b4e9", "#ff8f4a", "#2ed3a6", "#f0a6d0", "#f0e442", "#a8d8ff", "#c2aeff", "#cccccc"],
};
const SIZES = {
  light: ["#ffffff", "#d3e4f3", "#7fb5dc", "#2a79b8", "#0b4a86", "#06213f"],
  dark: ["#14171c", "#12344f", "#1f6699", "#4aa3dc", "#a9dbf7", "#ffffff"],
};
const BELOW_ZERO = {
  light: ["#5a2a00", "#b35a00", "#ee9a3a", "#fbdcb5"],
  dark: ["#fff0d8", "#ffb75e", "#c06a14", "#4a2c10"],
};

function theme() {
  const probe = el("i");
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {};
  for (const name of ["paper", "panel", "ink", "muted", "line", "accent", "agent", "goal"]) found[name] = colour(name);
  probe.remove();
  const [red] = found.paper.match(/\d+/g).map(Number);
  found.kind = red < 128 ? "dark" : "light";
  found.lines = LINES[found.kind];
  return found;
}

/** A colour with an opacity. */
function faint(hex, opacity) {
  const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${parts.join(",")},${opacity})`;
}

/** Colour scale and range for cells: zero has the colour of the paper. */
function scale(low, high, kind) {
  const up = SIZES[kind],
    down = BELOW_ZERO[kind];
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  if (low >= -1e-3 * most) return { range: [0, most], stops: up.map((c, i) => [i / (up.length - 1), c]) };
  const below = down.map((c, i) => [(0.5 * i) / down.length, c]);
  return { range: [-most, most], stops: [...below, ...up.map((c, i) => [0.5 + (0.5 * i) / (up.length - 1), c])] };
}

/** The colour of a cell on a scale. */
function colourOf(value, { range: [low, high], stops }) {
  const at = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const next = Math.max(
    1,
    stops.findIndex(([stop]) => stop >= at),
  );
  const [[from, a], [to, b]] = [stops[next - 1], stops[next]];
  const part = (at - from) / (to - from || 1);
  const mix = [1, 3, 5].map((i) => {
    const [x, y] = [a, b].map((c) => parseInt(c.slice(i, i + 2), 16));
    return Math.round(x + part * (y - x));
  });
  return `rgb(${mix.join(",")})`;
}

/** Ink or paper, whichever is read more easily on a colour. */
function readable(colour, { ink, paper }) {
  const light = (text) => {
    const [r, g, b] = text.match(/\d+/g).map((part) => (Number(part) / 255) ** 2.2);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (other) => {
    const [low, high] = [light(colour), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return contrast(ink) > contrast(paper) ? ink : paper;
}

// --- charts --------------------------------------------------------------------------------------------------------

const charts = new Set();

/** A Plotly chart in `node`; `make(theme)` gives its traces and layout, whenever something has changed. */
function chart(node, make) {
  const draw = () => {
    const colours = theme();
    const { traces, layout } = make(colours);
    const axis = { gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.line, automargin: true };
    const base = {
      font: { family: "system-ui, sans-serif", size: narrow.matches ? 11 : 13, color: colours.ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 50, r: 16, t: 30, b: 44 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.muted, activecolor: colours.ink },
      hoverlabel: { bgcolor: colours.panel, bordercolor: colours.line, font: { color: colours.ink } },
      dragmode: narrow.matches ? false : "zoom",
      width: node.clientWidth,
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) layout[name] = { ...axis, ...layout[name] };
    }
    const config = {
      displaylogo: false,
      displayModeBar: narrow.matches ? false : "hover",
      responsive: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    };
    return Plotly.react(node, traces, { ...base, ...layout }, config);
  };
  node.redraw = draw;
  charts.add(node);
  return draw();
}

function redraw() {
  for (const node of charts) {
    if (node.isConnected) node.redraw();
    else charts.delete(node);
  }
  document.dispatchEvent(new Event("recolour"));
}

const root = document.documentElement,
  button = document.getElementById("theme");
const label = () => {
  button.textContent = theme().kind === "dark" ? "Light" : "Dark";
};
button.addEventListener("click", () => {
  root.dataset.theme = theme().kind === "dark" ? "light" : "dark";
  label();
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  label();
  redraw();
});
label();

let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnWidth) {
    // not where a phone hides its address bar
    drawnWidth = innerWidth;
    requestAnimationFrame(redraw);
  }
});

// On paper everything is light, and as wide as the paper.
const PAPER_WIDTH = "680px";
const printing = { theme: undefined, now: false };
function onPaper(starts) {
  if (starts === printing.now) return;
  printing.now = starts;
  if (starts) printing.theme = root.dataset.theme;
  const chosen = starts ? "light" : printing.theme;
  if (chosen) root.dataset.theme = chosen;
  else delete root.dataset.theme;
  main.style.width = starts ? PAPER_WIDTH : "";
  redraw();
}
addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));
matchMedia("print").addEventListener("change", (event) => onPaper(event.matches));

// --- numbers -------------------------------------------------------------------------------------------------------

/** A table of rows of cells; numbers stand right. */
function table(head, rows, classes = () => undefined) {
  const cell = (tag, value) =>
    el(
      tag,
      { class: typeof value === "number" || value?.number ? "number" : undefined },
      value === null || value === undefined ? "" : String(value.text ?? value),
    );
  const isNumber = head.map((_, i) => rows.some((row) => typeof row[i] === "number" || row[i]?.number));
  const titles = head.map((text, i) => el("th", { class: isNumber[i] ? "number" : undefined }, text));
  return el(
    "div",
    { class: "wide" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...titles)),
      el("tbody", {}, ...rows.map((row, i) => el("tr", { class: classes(row, i) }, ...row.map((v) => cell("td", v))))),
    ),
  );
}

function csv(head, rows) {
  const field = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => row.map(field).join(",")).join("\n") + "\n";
}

/** A button that saves a CSV; `make` gives its head and rows. */
function csvButton(name, make) {
  const save = () => {
    const address = URL.createObjectURL(new Blob([csv(...make())], { type: "text/csv" }));
    el("a", { href: address, download: `${name}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  };
  return el("button", { type: "button", class: "screen", click: save, "data-csv": name }, "CSV");
}

/** A number with as many digits as one reads. */
function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}
